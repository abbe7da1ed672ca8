# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of module options that Ansible's argument specs cannot express."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def reject_negative(module: Any) -> None:
    """Fail if a number is negative: all options with numbers are sizes, counts, seconds or ports."""
    problems = [*_negative(module.argument_spec, module.params)]
    if problems:
        module.fail_json(msg="\n".join(problems))


def _negative(spec: Mapping[str, Any], params: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, option in spec.items():
        value, path = params.get(name), prefix + name
        if option.get("type") in ("int", "float") and value is not None and value < 0:
            yield f"{path}: {value:g} is negative; set a number from 0"
        elif option.get("options") and value:
            entries = [(f"{path}.", value)] if isinstance(value, Mapping) else _numbered(path, value)
            for inner, entry in entries:
                yield from _negative(option["options"], entry, inner)


def _numbered(path: str, entries: list[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    return [(f"{path}[{index}].", entry) for index, entry in enumerate(entries)]
