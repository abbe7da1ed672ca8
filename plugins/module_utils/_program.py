# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module's own code as a program that stays on the node. Private to this collection."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterable

PACKAGE = "ansible_collections.podnet.datapath.plugins.module_utils"

_SYSTEM_PYTHON = "/usr/bin/python3"
_OLDEST = (3, 9)  # that this code runs with; RHEL 8 has 3.6 there, and later ones besides


def interpreter() -> str:
    """Return the Python for what stays on the node.

    The distribution's own, since that of a virtual environment goes with it; this process's where that is
    missing or too old.
    """
    test = f"import sys; sys.exit(sys.version_info < {_OLDEST})"
    if os.access(_SYSTEM_PYTHON, os.X_OK):
        done = subprocess.run([_SYSTEM_PYTHON, "-c", test], capture_output=True, check=False)
        if not done.returncode:
            return _SYSTEM_PYTHON
    return sys.executable or _SYSTEM_PYTHON


def archive(modules: Iterable[str], main: str) -> bytes:
    """Return a program for Python of these module_utils, the same bytes for the same code.

    Whoever calls imports all of ``modules``, so that Ansible sends them to the node.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        folders = PACKAGE.split(".")
        files = {"/".join([*folders[: depth + 1], "__init__.py"]): b"" for depth in range(len(folders))}
        for module in modules:
            source = inspect.getsource(importlib.import_module(f"{PACKAGE}.{module}"))
            files["/".join([*folders, f"{module}.py"])] = source.encode()
        files["__main__.py"] = main.encode()
        for name in sorted(files):
            packed.writestr(zipfile.ZipInfo(name), files[name])
    return buffer.getvalue()
