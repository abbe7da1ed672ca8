# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Exclusive locks between runs on one node, which users without privileges can neither open nor hold.

Source: flock(2): any user that can open a file, even for reading, can lock it.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import stat
import time
from collections.abc import Iterator

from . import ssh_origin
from .plan import TransientProblem

TIMEOUT = 60.0  # seconds to wait for another run on this node


def private_folder(path: str) -> None:
    """Create a directory that only its owner can enter; correct the mode of an existing one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        os.makedirs(path, mode=0o700, exist_ok=True)
        mode = os.stat(path).st_mode
    if stat.S_IMODE(mode) != 0o700:
        os.chmod(path, 0o700)


@functools.cache
def requester() -> str:
    """Return the controller's address from the SSH session, else ``this node``."""
    return ssh_origin.address() or "this node"


@contextlib.contextmanager
def locked(path: str, timeout: float | None = None) -> Iterator[None]:
    """Hold the lock ``path``, in a directory of mode 0700.

    Raises ``TransientProblem`` that names the holder if another run holds it longer than ``timeout`` seconds,
    and ``OSError`` if the file cannot be written.
    """
    private_folder(os.path.dirname(path))
    deadline = time.monotonic() + (TIMEOUT if timeout is None else timeout)
    while True:
        descriptor = _open_private(path)
        try:
            _wait(descriptor, path, deadline)
            if not _is_current(descriptor, path):
                continue
            with contextlib.suppress(OSError):  # Only for the message of other runs.
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"from {requester()}, process {os.getpid()}".encode(), 0)
            yield
            return
        finally:
            os.close(descriptor)


def _open_private(path: str) -> int:
    """Open a lock file of mode 0600; replace one that other users could have opened."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and not found.st_mode & 0o077 and found.st_uid == os.geteuid():
        return descriptor
    if _is_current(descriptor, path):
        os.unlink(path)
    os.close(descriptor)
    return os.open(path, flags, 0o600)


def _is_current(descriptor: int, path: str) -> bool:
    """Return whether ``path`` is still this open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _wait(descriptor: int, path: str, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or f"of {path}"
                raise TransientProblem(
                    f"another run is changing this node ({holder}): run this again when it has finished"
                ) from None
        time.sleep(0.05)
