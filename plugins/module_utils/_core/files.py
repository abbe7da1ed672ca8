# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace files atomically, and read and write files that belong to this collection."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .plan import Problem, reason


@dataclass(frozen=True)
class DropIn:
    """A file of this collection; ``marker`` is its first line."""

    path: str
    marker: str

    def read(self) -> str | None:
        """Return the text, ``None`` if there is no file.

        Raises ``Problem`` if this collection did not write the file.
        """
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                text = file.read()
        except FileNotFoundError:
            if os.path.islink(self.path):
                raise Problem(f"{self.path} is a dangling symbolic link: remove it") from None
            return None
        except OSError as error:
            raise Problem(f"{self.path} cannot be read: {reason(error)}") from None
        if text.partition("\n")[0] != self.marker:
            raise Problem(
                f"{self.path} was not written by this collection (its first line is not {self.marker!r}),"
                " so it is not overwritten: move it away, or choose another file"
            )
        return text

    def check_writable(self) -> None:
        """Raise ``Problem`` if the file cannot be replaced."""
        folder = os.path.dirname(self.path)
        if not os.path.isdir(folder):
            raise Problem(f"the directory {folder} of {self.path} does not exist")
        if not os.access(folder, os.W_OK):
            raise Problem(f"{self.path} cannot be written: run as root (become), on a writable file system")

    def write(self, text: str | None, like: Metadata | None = None) -> None:
        """Replace the file atomically by ``text``, or remove it for ``None``; see ``replace_file``."""
        if text is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            return
        replace_file(self.path, text.encode(), like=like)


def temporary(path: str) -> str:
    """Return the name of the file that replaces ``path``; an interrupted run may leave it behind."""
    return os.path.join(os.path.dirname(path), f".podnet-{os.path.basename(path)}")


@dataclass(frozen=True)
class Metadata:
    """Mode, owner and extended attributes of a file; the latter contain SELinux label and ACL."""

    mode: int = 0o644
    uid: int = -1  # -1: that of the process
    gid: int = -1
    xattrs: Mapping[str, bytes] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return what ``from_dict`` reads; JSON can represent it."""
        xattrs = {name: value.hex() for name, value in self.xattrs.items()}
        return {"mode": self.mode, "uid": self.uid, "gid": self.gid, "xattrs": xattrs}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Metadata:
        """Return the metadata that ``as_dict`` returned."""
        xattrs = {name: bytes.fromhex(value) for name, value in raw["xattrs"].items()}
        return cls(raw["mode"], raw["uid"], raw["gid"], xattrs)

    def set(self, descriptor: int) -> None:
        """Set the metadata of an open file, as far as its file system and the user's privileges allow."""
        with contextlib.suppress(OSError):
            os.fchown(descriptor, self.uid, self.gid)
        os.fchmod(descriptor, self.mode)
        for name, value in self.xattrs.items():
            with contextlib.suppress(OSError):
                os.setxattr(descriptor, name, value)


def metadata(path: str) -> Metadata | None:
    """Return the metadata of a file, ``None`` if there is no file."""
    try:
        found = os.stat(path)
        xattrs = {}
        with contextlib.suppress(OSError):  # the file system may have none
            xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    except FileNotFoundError:
        return None
    return Metadata(stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, xattrs)


def replace_file(
    path: str, data: bytes, mode: int | None = None, like: Metadata | None = None, sync: bool = True
) -> None:
    """Replace a file atomically: readers see the old or the new contents, even after a crash.

    The new file has the metadata ``like``, by default those of the file that it replaces, else mode 0644.
    ``mode`` overrides the mode. Without ``sync``, a power failure may lose the new contents.
    """
    like = like or metadata(path) or Metadata()
    new = stage_file(path, data, like if mode is None else replace(like, mode=mode), sync)
    try:
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
    if sync:
        sync_folder(path)


def stage_file(path: str, data: bytes, like: Metadata, sync: bool = True) -> str:
    """Write the file that will replace ``path`` to disk and return its name. Raises ``OSError``."""
    new = temporary(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()  # fsync() does not write Python's buffer.
            like.set(descriptor)
            if sync:
                os.fsync(descriptor)
    except BaseException:
        os.unlink(new)
        raise
    return new


def replace_files(contents: Mapping[str, bytes]) -> None:
    """Replace the contents of existing files.

    Writes all new files before it replaces the first one. Raises ``Problem``; then no file has changed,
    unless the message says otherwise.
    """
    former: dict[str, bytes] = {}
    done: list[str] = []
    path = ""
    try:
        for path, data in contents.items():
            with open(path, "rb") as file:
                former[path] = file.read()
            stage_file(path, data, metadata(path) or Metadata())
        for path in contents:
            os.replace(temporary(path), path)
            done.append(path)
            sync_folder(path)
    except OSError as error:
        message = f"{path} cannot be written: {reason(error)}"
        for staged in {*former} - {*done}:
            with contextlib.suppress(OSError):
                os.unlink(temporary(staged))
        for changed in done:
            try:
                replace_file(changed, former[changed])
            except OSError as other:
                message += f"; {changed} was not restored: {reason(other)}"
        raise Problem(message) from None


def publish_file(path: str, data: bytes) -> None:
    """Replace a file, readable by all, in a directory that other users may write to.

    Never follows a symbolic link that another user could have created there. Raises ``Problem``.
    """
    folder, name = os.path.split(os.path.abspath(path))
    new = f".podnet-{name}"
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise Problem(f"{folder}: {reason(error)}: create this directory, or choose another") from None
    try:
        mode = os.fstat(at).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise Problem(f"{folder}: any user can replace files here: remove write permission for others")
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
                raise Problem(f"{path}: is not a regular file: remove it")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=at)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600, dir_fd=at), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(data)
        os.rename(new, name, src_dir_fd=at, dst_dir_fd=at)
    except OSError as error:
        raise Problem(f"{path} cannot be written: {reason(error)}") from None
    finally:
        os.close(at)


def sync_folder(path: str) -> None:
    """Write the directory entry of a new or removed file to disk, which may not be the journal's disk."""
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: str) -> str | None:
    """Return a file's contents as text (see ``text_of``), ``None`` if there is no file."""
    try:
        with open(path, "rb") as file:
            return text_of(file.read())
    except FileNotFoundError:
        return None


def text_of(data: bytes | None) -> str | None:
    """Return a file's contents as text that ``bytes_of`` converts to the same bytes."""
    return None if data is None else data.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    """Return the bytes of a text that ``text_of`` returned."""
    return text.encode("utf-8", "surrogateescape")


def digest(text: str | None) -> str | None:
    """Return the SHA-256 of a file's contents, ``None`` if there is no file."""
    return None if text is None else hashlib.sha256(bytes_of(text)).hexdigest()
