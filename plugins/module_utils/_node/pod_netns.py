# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the network namespaces of Pods on a node, and select among them.

A namespace is found by a name, in the folders of ``ip netns``, CNI plugins and Docker, or by a process in it.
It belongs to a Pod if it has an interface other than the loopback, unlike services with PrivateNetwork=, and
is owned by the node's user namespace, unlike rootless containers.

Sources: namespaces(7), ioctl_ns(2), ip-netns(8).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .._core.plan import Problem, listed
from .._kernel import netns

FOLDERS = (netns.FOLDER, "/run/docker/netns")
MARKERS = "/run/podnet/netns"  # a file for each namespace that meta_device created
_GET_USER_NAMESPACE = 0xB701  # NS_GET_USERNS of linux/nsfs.h


@dataclass(frozen=True)
class Namespace:
    """A network namespace other than that of this process. ``inode`` identifies it, ``path`` opens it.

    ``managed``: meta_device created it. ``foreign``: it belongs to another user namespace.
    """

    inode: tuple[int, int]
    path: str
    name: str
    managed: bool = False
    foreign: bool = False
    loopback_only: bool = False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _candidates() -> Iterator[tuple[str, str, bool]]:
    """Yield candidates as path, name and whether it is managed; names come before processes."""
    markers = set(os.listdir(MARKERS)) if os.path.isdir(MARKERS) else set()
    for folder in FOLDERS:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = f"{folder}/{name}"
            yield path, name if folder == netns.FOLDER else path, folder == netns.FOLDER and name in markers
    for number in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            with open(f"/proc/{number}/comm", encoding="utf-8", errors="replace") as file:
                command = file.read().strip()
        except OSError:  # the process has ended
            continue
        yield f"/proc/{number}/ns/net", f"process {number} ({command})", False


def _look(inode: tuple[int, int], path: str, name: str, managed: bool) -> Namespace:
    with open(path, "rb") as file:
        user = fcntl.ioctl(file, _GET_USER_NAMESPACE)
        try:
            foreign = _identity(f"/proc/self/fd/{user}") != _identity("/proc/self/ns/user")
        finally:
            os.close(user)
        if foreign:
            return Namespace(inode, path, name, managed, foreign=True)
        with netns.entered(path):
            alone = all(interface == "lo" for dummy, interface in socket.if_nameindex())
    return Namespace(inode, path, name, managed, loopback_only=alone)


def found() -> list[Namespace]:
    """Return all network namespaces that have a name or a process, except that of this process."""
    seen = {_identity("/proc/thread-self/ns/net")}
    namespaces = []
    for path, name, managed in _candidates():
        # Skip namespaces that have ended or that this process may not open.
        with contextlib.suppress(OSError):
            inode = _identity(path)
            if inode not in seen and netns.is_namespace(path):
                seen.add(inode)
                namespaces.append(_look(inode, path, name, managed))
    return namespaces


def choose(
    namespaces: Iterable[Namespace], select: str, names: Sequence[str], excluded: Sequence[str]
) -> tuple[list[Namespace], dict[str, str]]:
    """Return the selected namespaces, and the reason for each that is skipped.

    ``select`` is ``managed`` (created by meta_device), ``all`` or ``named``; then ``names`` has names or
    paths. ``excluded`` has names that are never selected.

    Raises ``Problem`` for a name that does not exist.
    """
    namespaces = list(namespaces)
    known = {one.name: one for one in namespaces} | {one.path: one for one in namespaces}
    if select == "named":
        absent = [name for name in names if name not in known]
        if absent:
            there = listed([one.name for one in namespaces])
            raise Problem(
                f"pods: names: network namespace {listed(absent)} does not exist (existing: {there});"
                " correct the name"
            )
    meant, left = [], {}
    for one in namespaces:
        if select == "named" and not {one.name, one.path} & {*names}:
            continue
        if select == "managed" and not one.managed:
            continue
        if {one.name, one.path} & {*excluded}:
            left[one.name] = "named in except"
        elif select == "all" and one.foreign:
            left[one.name] = "belongs to another user namespace"
        elif select == "all" and one.loopback_only:
            left[one.name] = "has no interface but the loopback"
        else:
            meant.append(one)
    return meant, left
