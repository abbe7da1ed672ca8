# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a kernel module on a node: where they are, and copies that restore them.

Source: depmod.d(5).
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Sequence


class Snapshot:
    """A copy of files and directories that can be restored."""

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        self._saved = {path: os.path.join(folder, str(number)) for number, path in enumerate(paths)}
        for path, copy in self._saved.items():
            if os.path.isdir(path):
                shutil.copytree(path, copy, symlinks=True)
            elif os.path.exists(path):
                shutil.copy2(path, copy)

    def restore(self) -> None:
        """Restore all paths, and remove those that did not exist."""
        for path, copy in self._saved.items():
            remove(path)
            if os.path.exists(copy):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                shutil.move(copy, path)


def remove(path: str) -> None:
    """Remove a file or directory if it exists."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def module_files(name: str, kernels: Sequence[str]) -> list[str]:
    """Return the module's files for the kernels, in the directories where DKMS installs them."""
    return [
        f"{base}/{file}"
        for kernel in kernels
        for folder in ("updates", "extra")
        for base, _folders, files in os.walk(f"/lib/modules/{kernel}/{folder}")
        for file in files
        if is_module(file, name)
    ]


def delivered_file(name: str, kernel: str) -> str:
    """Return the path of a module built on another node; depmod(8) prefers the directory updates."""
    return f"/lib/modules/{kernel}/updates/podnet/{name}.ko"


def delivered(name: str) -> list[str]:
    """Return the modules of this name built on another node, for any kernel."""
    return [path for path in glob.glob(delivered_file(name, "*")) if os.path.isfile(path)]


def kernel_of(path: str) -> str:
    """Return the kernel release in the path of an installed module."""
    return path.split("/")[3]


def is_module(file: str, name: str) -> bool:
    """Return whether a file has the name of the module, compressed or not."""
    return re.fullmatch(rf"{re.escape(name)}\.ko(\.(gz|xz|zst))?", file) is not None


def write_file(path: str, content: bytes) -> None:
    """Replace a file atomically."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.chmod(name, 0o644)
    os.rename(name, path)
