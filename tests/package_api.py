# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that packages of module_utils are only used through their API, in layers and without a cycle.

The docstring of a package's ``__init__.py`` has two lines that this program compares with the imports::

    Callers: modules, _ops   (or: all)
    May import: _core, _kernel   (or: nothing)

``__all__`` lists the modules that other packages and plugins may import; all other modules are private to the
package. Imports inside a package are relative.

Usage: python3 tests/package_api.py [--list] [COLLECTION]
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

MODULE_UTILS = "ansible_collections.podnet.datapath.plugins.module_utils"
MAX_LAYERS = 6


@dataclass(frozen=True)
class Import:
    """One name that a file imports: from ``module`` of ``package``, empty if it imports the module itself."""

    file: Path
    line: int
    caller: str  # a package, or the directory of a plugin
    package: str
    module: str
    name: str


@dataclass(frozen=True)
class Contract:
    """What the ``__init__.py`` of a package declares."""

    path: Path
    api: frozenset[str]
    callers: frozenset[str]
    may_import: frozenset[str]


def _declared(docstring: str, title: str) -> frozenset[str]:
    found = re.search(rf"^{title}: (.+)\.?$", docstring, re.MULTILINE)
    names = found.group(1).rstrip(".") if found else ""
    return frozenset(name.strip() for name in names.split(",") if name.strip() not in ("", "nothing"))


def read_contract(path: Path) -> Contract:
    """Return what an ``__init__.py`` declares."""
    tree = ast.parse(path.read_text())
    docstring = ast.get_docstring(tree) or ""
    api: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            api = ast.literal_eval(node.value)
    return Contract(path, frozenset(api), _declared(docstring, "Callers"), _declared(docstring, "May import"))


def read_imports(plugins: Path, packages: Iterable[str]) -> list[Import]:
    """Return all imports of the packages' modules, by the packages themselves and by the plugins."""
    known = frozenset(packages)
    found = []
    for path in sorted(plugins.rglob("*.py")):
        place = path.relative_to(plugins).parts
        inside = place[0] == "module_utils" and len(place) > 2
        caller = place[1] if inside else place[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            words = (node.module or "").split(".") if node.module else []
            if inside and node.level == 1:
                words = [caller, *words]
            elif node.level == 0 and (node.module or "").startswith(MODULE_UTILS):
                words = (node.module or "")[len(MODULE_UTILS) + 1 :].split(".")
            elif not (inside and node.level == 2):
                continue
            if not words or words[0] not in known:
                continue
            package, *rest = words
            for alias in node.names:
                module, name = (rest[0], alias.name) if rest else (alias.name, "")
                found.append(Import(path, node.lineno, caller, package, module, name))
    return found


def layers(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the packages by layer, the lowest first; raises ``CycleError``."""
    order = TopologicalSorter(graph)
    order.prepare()
    found = []
    while order.is_active():
        ready = sorted(order.get_ready())
        found.append(ready)
        order.done(*ready)
    return found


def check(plugins: Path) -> tuple[list[str], list[list[str]]]:
    """Return what violates the rules, and the layers."""
    contracts = {
        path.parent.name: read_contract(path) for path in sorted(plugins.glob("module_utils/*/__init__.py"))
    }
    imports = read_imports(plugins, contracts)
    problems = [f"{path}: belongs to no package" for path in sorted((plugins / "module_utils").glob("*.py"))]
    crossing = [one for one in imports if one.caller != one.package]
    for one in crossing:
        where = f"{one.file}:{one.line}"
        if one.module not in contracts[one.package].api:
            problems.append(f"{where}: {one.package}.{one.module} is private to {one.package}")
        if one.name.startswith("_"):
            problems.append(f"{where}: {one.name} is private to {one.package}.{one.module}")
    for package, contract in contracts.items():
        users = [one for one in crossing if one.package == package]
        pairs = (
            ("Callers", contract.callers, {one.caller for one in users}),
            ("May import", contract.may_import, {one.package for one in crossing if one.caller == package}),
            ("__all__", contract.api, {one.module for one in users}),
        )
        for title, declared, actual in pairs:
            if declared != actual and declared != {"all"}:
                problems.append(
                    f"{contract.path}: {title}: the imports say {', '.join(sorted(actual)) or 'nothing'}"
                )
    try:
        modules: dict[str, set[str]] = {}
        for one in imports:
            if one.file.name != "__init__.py" and one.caller in contracts:
                modules.setdefault(f"{one.caller}.{one.file.stem}", set()).add(f"{one.package}.{one.module}")
        layers(modules)
        graph = {package: {one.package for one in crossing if one.caller == package} for package in contracts}
        found = layers(graph)
    except CycleError as error:
        return [*problems, f"{plugins}: import cycle: {' -> '.join(error.args[1])}"], []
    if len(found) > MAX_LAYERS:
        problems.append(f"{plugins}: {len(found)} layers of packages, at most {MAX_LAYERS} are allowed")
    return problems, found


def main() -> None:
    """Print the violations, or with ``--list`` the layers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print the layers, the lowest first")
    parser.add_argument("collection", nargs="?", default=".", type=Path)
    arguments = parser.parse_args()
    problems, found = check(arguments.collection / "plugins")
    if arguments.list:
        print("\n".join(f"{number} {' '.join(names)}" for number, names in enumerate(found, 1)))
    sys.exit("\n".join(problems) or None)


if __name__ == "__main__":
    main()
