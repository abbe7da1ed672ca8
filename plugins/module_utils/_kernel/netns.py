# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""List, enter, create and delete network namespaces by path.

A block enters only the network namespace, and only for the calling thread. The mount namespace does not
change, so /sys/fs/bpf remains accessible, which it is not under ``ip netns exec``.

Source: namespaces(7), socket(7), setns(2), mount(2), ip-netns(8).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import sys
from collections.abc import Iterator

FOLDER = "/run/netns"

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 2
_NSFS_IOCTL_TYPE = 0xB703  # NS_GET_NSTYPE of linux/nsfs.h
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h
_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library. Raises ``OSError`` if it does not return 0."""
    if getattr(_libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def path_of(netns: str) -> str:
    """Return the path of a network namespace, given by its name in /run/netns or by path."""
    if not netns.startswith("/"):
        return f"{FOLDER}/{netns}"
    path = os.path.normpath(netns)
    return "/run" + path[len("/var/run") :] if path.startswith("/var/run/") else path


def is_namespace(path: str) -> bool:
    """Return whether ``path`` is a network namespace, not for example an unmounted mount point.

    Raises ``FileNotFoundError`` if ``path`` does not exist.
    """
    # O_NONBLOCK: opening a FIFO would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return bool(_libc.ioctl(descriptor, _NSFS_IOCTL_TYPE) == _CLONE_NEWNET)
    finally:
        os.close(descriptor)


def own_cookie() -> int:
    """Return the number by which BPF programs know the network namespace of the calling thread.

    Return 0 before Linux 5.14.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unused:
        try:
            raw = unused.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int.from_bytes(raw, sys.byteorder)


def is_own(path: str) -> bool:
    """Return whether ``path`` is the network namespace of the calling thread."""
    return os.path.samefile(path, _OWN)


def identity(path: str) -> str:
    """Return what distinguishes the namespace at ``path`` from others, also of former boots.

    A path such as /proc/<pid>/ns/net may be of another namespace later. Raises ``OSError``.
    """
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    found = os.stat(path)
    return f"{boot}/{found.st_dev}:{found.st_ino}"


def others() -> list[str]:
    """Return a path of each network namespace of a process or a mount, without the current one."""
    return [path for path in by_inode().values() if path]


def by_inode() -> dict[int, str]:
    """Return a path of each network namespace of a process or a mount, empty for the current one."""
    paths = [f"/proc/{name}/ns/net" for name in os.listdir("/proc") if name.isdigit()]
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for fields in (line.split() for line in mounts):
            if fields[3].startswith("net:["):
                paths.insert(0, fields[4])  # prefer names to paths of processes
    found = {os.stat(_OWN).st_ino: ""}
    for path in paths:
        with contextlib.suppress(OSError):  # the process may have ended
            found.setdefault(os.stat(path).st_ino, path)
    return found


@contextlib.contextmanager
def entered(path: str) -> Iterator[None]:
    """Run a block with the calling thread in the network namespace at ``path``.

    A socket opened in the block stays in that namespace.
    """
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("setns", other, _CLONE_NEWNET)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _call("setns", own, _CLONE_NEWNET)
    finally:
        os.close(own)


@contextlib.contextmanager
def fresh() -> Iterator[None]:
    """Run a block with the calling thread in a new network namespace, which exists only for the block."""
    own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("unshare", _CLONE_NEWNET)
        try:
            yield
        finally:
            _call("setns", own, _CLONE_NEWNET)
    finally:
        os.close(own)


def _share_folder() -> None:
    """Make /run/netns a shared mount, so that mounts in it propagate to other mount namespaces."""
    os.makedirs(FOLDER, mode=0o755, exist_ok=True)
    folder = FOLDER.encode()
    try:
        _call("mount", b"none", folder, None, _MS_SHARED | _MS_REC, None)
    except OSError:  # not a mount point yet
        _call("mount", folder, folder, None, _MS_BIND | _MS_REC, None)
        _call("mount", b"none", folder, None, _MS_SHARED | _MS_REC, None)


def make(path: str) -> None:
    """Create a network namespace and mount it at ``path``, as ``ip netns add`` does.

    Raises ``FileExistsError`` if ``path`` exists.
    """
    _share_folder()
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    try:
        own = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call("unshare", _CLONE_NEWNET)
            try:
                _call("mount", _OWN.encode(), path.encode(), None, _MS_BIND, None)
            finally:
                _call("setns", own, _CLONE_NEWNET)
        finally:
            os.close(own)
    except OSError:
        os.unlink(path)
        raise


def remove(path: str) -> None:
    """Unmount and delete ``path``, as ``ip netns delete`` does.

    Succeeds if ``path`` does not exist or is not a namespace. The kernel frees the namespace after its last
    user has ended.
    """
    with contextlib.suppress(OSError):
        _call("umount2", path.encode(), _MNT_DETACH)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
