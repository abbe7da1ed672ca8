# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""End UDP sockets that are connected to a backend that their service does not have any more.

No program sees what a connected socket sends, so it would keep the backend. The iterator ``sock_stale`` finds
these sockets, and sock_diag ends them: the process gets ECONNABORTED and gets another backend by connect().
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection
from typing import NamedTuple

from .._kernel import bpf, netns, sock_diag
from .layout import STALE_SOCKET
from .maps import wait_for_programs

PROGRAM = "sock_stale"

_TRANSLATOR = "sock_connect4"  # a program without which there are no such sockets

_Stale = tuple[int, bytes]  # the inode of a socket's network namespace, and the request to sock_diag


class Ended(NamedTuple):
    """The number of sockets that were ended, and why others remain, empty if none does."""

    sockets: int = 0
    problem: str = ""


EndSockets = Callable[[str], Ended]


def end_stale_sockets(pin_path: str) -> Ended:
    """End the UDP sockets of all network namespaces whose service does not have their backend any more."""
    programs = os.path.join(pin_path, "progs")
    try:
        with contextlib.ExitStack() as files:
            paths = (os.path.join(programs, PROGRAM), os.path.join(pin_path, "maps", "socket_peer"))
            program, sockets = (files.enter_context(bpf.closing(bpf.obj_get(path))) for path in paths)
            # A connect() that selected its backend before has stored it then.
            wait_for_programs()
            return _end(program, sockets)
    except FileNotFoundError:
        if not os.path.exists(os.path.join(programs, _TRANSLATOR)):
            return Ended()
        return Ended(
            problem="UDP sockets stay connected to removed backends: the kernel has no BPF iterators"
            " (CONFIG_BPF_EVENTS), or the programs are of an older version"
        )
    except OSError as error:
        return Ended(problem=f"UDP sockets stay connected to removed backends: {error}")


def _end(program: int, sockets: int) -> Ended:
    count, failed = 0, frozenset[_Stale]()
    reason = ""
    while True:
        found = _read(program, sockets)
        if not found:
            return Ended(count)
        if found == failed:
            break
        ended, reason = _destroy(found)
        count += ended
        # Of sockets with the same addresses, the kernel finds one at a time.
        failed = frozenset() if ended else found
    return Ended(count, f"{len(found)} UDP sockets stay connected to removed backends: {reason}")


def _read(program: int, sockets: int) -> frozenset[_Stale]:
    raw, size = bpf.iterate(program, sockets), STALE_SOCKET.size
    records = (STALE_SOCKET.unpack(raw[at : at + size]) for at in range(0, len(raw), size))
    return frozenset((inode, request) for request, inode in records)


def _destroy(found: Collection[_Stale]) -> tuple[int, str]:
    """Return how many sockets were ended, and why another one was not."""
    requests: dict[int, list[bytes]] = {}
    for inode, request in found:
        requests.setdefault(inode, []).append(request)
    paths = netns.by_inode()
    count, reason = 0, ""
    for inode, some in requests.items():
        if inode not in paths:
            reason = f"no process is in their network namespace {inode}, and it has no name"
            continue
        try:
            refusals = sock_diag.destroy(some, paths[inode] or None)
        except OSError as error:
            reason = f"{paths[inode]}: {error}"
            continue
        count += refusals.count(None)
        for refused in filter(None, refusals):
            reason = f"{refused.strerror}; the kernel needs CONFIG_INET_UDP_DIAG and CONFIG_INET_DIAG_DESTROY"
    return count, reason
