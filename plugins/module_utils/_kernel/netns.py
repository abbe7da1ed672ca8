# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces by path: look, enter, make, remove. Private to this collection.

Only the network namespace of the calling thread changes, and only for a moment. The mount
namespace stays as it is, so /sys/fs/bpf remains in reach; ``ip netns exec`` would hide it.

Source: namespaces(7), setns(2), mount(2), ip-netns(8).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

FOLDER = "/run/netns"

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000
_MNT_DETACH = 2
_NSFS_IOCTL_TYPE = 0xB703  # NS_GET_NSTYPE of linux/nsfs.h
_OWN = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library; raise ``OSError`` where it returns other than 0."""
    if getattr(_libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def path_of(netns: str) -> str:
    """Return the path of a namespace given by name (``ip netns`` keeps those in /run/netns) or by path."""
    if not netns.startswith("/"):
        return f"{FOLDER}/{netns}"
    path = os.path.normpath(netns)
    return "/run" + path[len("/var/run") :] if path.startswith("/var/run/") else path


def is_namespace(path: str) -> bool:
    """Tell whether ``path`` is a network namespace (and not, say, the file left of one).

    Raises ``FileNotFoundError`` where there is nothing at ``path``.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return bool(_libc.ioctl(descriptor, _NSFS_IOCTL_TYPE) == _CLONE_NEWNET)
    finally:
        os.close(descriptor)


def others() -> list[str]:
    """Return a path of each network namespace that a process is in or a mount keeps, but the own one."""
    paths = [f"/proc/{name}/ns/net" for name in os.listdir("/proc") if name.isdigit()]
    with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for fields in (line.split() for line in mounts):
            if fields[3].startswith("net:["):
                paths.insert(0, fields[4])  # its name says more than a process
    found = {os.stat(_OWN).st_ino: ""}
    for path in paths:
        with contextlib.suppress(OSError):  # a process that has ended
            found.setdefault(os.stat(path).st_ino, path)
    return [path for path in found.values() if path]


@contextlib.contextmanager
def entered(path: str) -> Iterator[None]:
    """Put the calling thread into the network namespace at ``path`` for the length of a block.

    A socket opened in the block belongs to that namespace for good.
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
    """Put the calling thread into a new network namespace, which ends with the block."""
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
    """Make /run/netns a shared mount, so that what is mounted in it shows in other mount namespaces too."""
    os.makedirs(FOLDER, mode=0o755, exist_ok=True)
    folder = FOLDER.encode()
    try:
        _call("mount", b"none", folder, None, _MS_SHARED | _MS_REC, None)
    except OSError:  # not a mount point yet
        _call("mount", folder, folder, None, _MS_BIND | _MS_REC, None)
        _call("mount", b"none", folder, None, _MS_SHARED | _MS_REC, None)


def make(path: str) -> None:
    """Make a network namespace and keep it at ``path``, as ``ip netns add`` does.

    Raises ``FileExistsError`` where there is something at ``path``.
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
    """Take away what keeps the namespace at ``path``; it ends when nothing else uses it.

    A ``path`` that is gone, or that is a file without a namespace, is no error.
    """
    with contextlib.suppress(OSError):
        _call("umount2", path.encode(), _MNT_DETACH)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
