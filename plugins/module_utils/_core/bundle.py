# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Package parts of this collection as a program that stays on a node.

The program contains the modules that it imports, and libraries that may be missing when it runs: the
distribution's interpreter may not have them, or they may have been removed since.

Source: zipapp and zipimport of Python's library.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence

PACKAGE = "ansible_collections.podnet.datapath.plugins.module_utils"

# Writes unchecked hash-based bytecode (PEP 552), for which zipimport compares no dates.
_COMPILE = """\
import importlib.util, io, marshal, sys, zipfile
out = io.BytesIO()
head = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")
with zipfile.ZipFile(io.BytesIO(sys.stdin.buffer.read())) as given, zipfile.ZipFile(out, "w") as packed:
    for name in given.namelist():
        source = given.read(name)
        packed.writestr(zipfile.ZipInfo(name), source)
        if name != "__main__.py":
            code = marshal.dumps(compile(source, name, "exec", dont_inherit=True))
            packed.writestr(zipfile.ZipInfo(name + "c"), head + importlib.util.source_hash(source) + code)
sys.stdout.buffer.write(out.getvalue())
"""
_SYSTEM_PYTHON = "/usr/bin/python3"
_ADD_LIBRARIES = 'import sys\nsys.path.append(f"{sys.path[0]}/lib")\n'
_OLDEST = (3, 9)  # RHEL 8 has 3.6 as /usr/bin/python3 and newer versions beside it


def interpreter() -> str:
    """Return the Python interpreter for programs that stay on the node.

    Prefers the distribution's interpreter, because a virtual environment may be removed. Falls back to the
    interpreter of this process if that is missing or too old.
    """
    test = f"import sys; sys.exit(sys.version_info < {_OLDEST})"
    if os.access(_SYSTEM_PYTHON, os.X_OK):
        done = subprocess.run([_SYSTEM_PYTHON, "-c", test], capture_output=True, check=False)
        if not done.returncode:
            return _SYSTEM_PYTHON
    return sys.executable or _SYSTEM_PYTHON


def archive(main: str, libraries: Sequence[str] = ()) -> bytes:
    """Return a zip file that Python runs: the program ``main`` and all parts of PACKAGE that it imports.

    ``libraries`` are packages of pure Python that the program contains as a whole. It uses them if the
    interpreter has none: installed ones are compiled, which saves seconds at the boot of a slow node.

    The same code gives the same bytes. The caller imports what ``main`` imports, so that Ansible sends it to
    the node. Raises ``ModuleNotFoundError`` if a part is missing.
    """
    sources: dict[str, str] = {}
    queue = sorted(_imported(main, PACKAGE + ".__main__"))
    while queue:
        name = queue.pop()
        if name in sources:
            continue
        sources[name] = _source(name)
        package = name if _is_package(name) else name.rpartition(".")[0]
        queue += _imported(sources[name], f"{package}.{name.rpartition('.')[2]}")
        if package != PACKAGE:
            queue.append(package)
    folders = PACKAGE.split(".")
    files = {"/".join([*folders[: depth + 1], "__init__.py"]): "" for depth in range(len(folders))}
    for name, source in sources.items():
        path = name.replace(".", "/")
        files[f"{path}/__init__.py" if _is_package(name) else f"{path}.py"] = source
    for library in libraries:
        files.update({f"lib/{path}": source for path, source in _library(library).items()})
    files["__main__.py"] = (_ADD_LIBRARIES if libraries else "") + main
    return _packed({path: text.encode() for path, text in files.items()})


def _packed(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for path in sorted(files):
            packed.writestr(zipfile.ZipInfo(path), files[path])
    return buffer.getvalue()


def with_bytecode(data: bytes, python: str) -> bytes:
    """Return an archive with bytecode beside its sources, which ``python`` then does not compile at start.

    Another version of Python ignores the bytecode. It differs from run to run: compare ``sources_of``.
    Raises ``subprocess.CalledProcessError``.
    """
    done = subprocess.run([python, "-I", "-c", _COMPILE], input=data, capture_output=True, check=True)
    return done.stdout


def sources_of(data: bytes) -> bytes:
    """Return an archive without bytecode; return other data unchanged."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as given:
            return _packed({name: given.read(name) for name in given.namelist() if not name.endswith(".pyc")})
    except zipfile.BadZipFile:
        return data


def _is_package(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.submodule_search_locations is not None


def _source(name: str) -> str:
    spec = importlib.util.find_spec(name)
    source = (
        spec.loader.get_source(name) if spec and spec.loader and hasattr(spec.loader, "get_source") else None
    )
    if not isinstance(source, str):
        raise ModuleNotFoundError(f"no source of {name}", name=name)
    return source


def _library(name: str) -> dict[str, str]:
    """Return the sources of an installed package, without importing it, by their path in the archive."""
    spec = importlib.util.find_spec(name)
    found: dict[str, str] = {}
    for root in spec.submodule_search_locations or () if spec else ():
        for folder, _folders, names in os.walk(root):
            for source in (name for name in names if name.endswith(".py")):
                path = os.path.join(folder, source)
                with open(path, encoding="utf-8") as file:
                    found[os.path.relpath(path, os.path.dirname(root))] = file.read()
    if not found:
        raise ModuleNotFoundError(f"no source of {name}", name=name)
    return found


def _imported(source: str, module: str) -> Iterator[str]:
    """Yield the parts of PACKAGE that ``source``, the code of ``module``, imports."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom):
            continue
        origin = node.module or ""
        if node.level:
            origin = importlib.util.resolve_name("." * node.level + origin, module.rpartition(".")[0])
        if not f"{origin}.".startswith(f"{PACKAGE}."):
            continue
        if origin != PACKAGE:
            yield origin
        if _is_package(origin):
            names = [f"{origin}.{alias.name}" for alias in node.names]
            yield from (name for name in names if importlib.util.find_spec(name))
