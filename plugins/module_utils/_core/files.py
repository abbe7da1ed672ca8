# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace files atomically, and read and write files that belong to this collection."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass

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

    def write(self, text: str | None) -> None:
        """Replace the file atomically by ``text``, or remove it for ``None``."""
        if text is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)
            return
        replace_file(self.path, text.encode())


def temporary(path: str) -> str:
    """Return the name of the file that replaces ``path``; an interrupted run may leave it behind."""
    return os.path.join(os.path.dirname(path), f".podnet-{os.path.basename(path)}")


def replace_file(path: str, data: bytes, mode: int = 0o644) -> None:
    """Replace a file atomically: readers see the old or the new contents, even after a crash."""
    new = temporary(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()  # fsync() does not write Python's buffer.
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
    sync_folder(path)


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
