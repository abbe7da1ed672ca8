# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of roles and playbooks: read their argument specs, convert values to the declared types.

Values from ``-e name=value``, AWX surveys and INI inventories are text. Text means what the same JSON means.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import listed, suggestion

Spec = Mapping[str, Any]

_COLLECTION = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_PLAYBOOKS = os.path.join(_COLLECTION, "playbooks", "vars", "argument_specs.yml")
# Prefixes of the playbooks' options. Inventories may use the generic ones for other purposes.
_PLAYBOOK_PREFIXES = ("podnet", "audit", "revert")
_GENERIC_PREFIXES = ("audit", "revert")

# Variables that roles and playbooks set and that are no options.
RESULTS = frozenset(
    {
        "audit_drift",
        "benchmark_result_node",
        "benchmark_result_runs",
        "bpf_datapath_result_attach",
        "bpf_datapath_result_compile",
        "bpf_datapath_result_copy",
        "cilium_outcome",
        "cilium_result_change",
        "cilium_result_info",
        "cilium_result_overrides",
        "cilium_result_plan",
        "cilium_result_probe",
        "cni_drift",
        "cni_result",
        "cni_result_compile",
        "cni_result_directory",
        "fleet_completed_hosts",
        "fleet_plan",
        "lab_node_result_down",
        "lab_node_result_image",
        "lab_node_result_up",
        "meta_driver_result",
        "meta_driver_result_build",
        "meta_driver_result_packages",
        "node_tuning_drift",
        "node_tuning_reboot_required",
        "node_tuning_result_boot_args",
        "node_tuning_result_nics",
        "node_tuning_result_sysctls",
        "podnet_cilium",
        "podnet_drift",
        "podnet_preflight",
        "podnet_rollout",
        "pods_drift",
        "pods_result",
        "pods_result_verify",
        "preflight_fallback_reason",
        "preflight_node",
        "revert_result",
        "revert_result_nics",
    }
)

_BOOLEANS = {
    **dict.fromkeys(("true", "yes", "on", "y", "t", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "f", "0"), False),
}
_EXPECTED = {
    "bool": "a boolean; set true or false",
    "int": "a non-negative integer; set a whole number from 0",
    "float": "a non-negative number; set a number from 0",
    "str": "a string; write it in quotes",
    "path": "a path; write a string",
    "list": "a list; write a YAML or JSON list",
    "dict": "a dictionary; write a YAML or JSON dictionary",
    "raw": "valid JSON; correct the text",
}


def _load(path: str) -> dict[str, Any]:
    """Return the content of a YAML file."""
    with open(path, encoding="utf-8") as file:
        loaded = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return loaded or {}


def roles() -> list[str]:
    """Return the names of the collection's roles."""
    return sorted(os.listdir(os.path.join(_COLLECTION, "roles")))


@functools.cache
def entry_points(role: str) -> dict[str, dict[str, Spec]]:
    """Return the options of each entry point of a role; the role "" stands for the playbooks."""
    path = os.path.join(_COLLECTION, "roles", role, "meta", "argument_specs.yml") if role else _PLAYBOOKS
    specs = _load(path)["argument_specs"]
    return {name: spec.get("options", {}) for name, spec in specs.items()}


@functools.cache
def options(role: str) -> dict[str, Spec]:
    """Return the options of all entry points of a role; the role "" stands for the playbooks."""
    found: dict[str, Spec] = {}
    for entry_point in entry_points(role).values():
        found.update({name: spec for name, spec in entry_point.items() if name not in found})
    return found


@functools.cache
def defaults(role: str) -> dict[str, Any]:
    """Return the defaults of a role, as written in its file."""
    return _load(os.path.join(_COLLECTION, "roles", role, "defaults", "main.yml")) if role else {}


@functools.cache
def profiles() -> dict[str, Any]:
    """Return the values of the tuning profiles."""
    variables = _load(os.path.join(_COLLECTION, "roles", "node_tuning", "vars", "main.yml"))
    found: dict[str, Any] = variables["__node_tuning_profiles"]
    return found


@functools.cache
def _prefixes() -> dict[str, str]:
    """Return the prefixes of variables, each with its role; the role "" stands for the playbooks."""
    return {**dict.fromkeys(_PLAYBOOK_PREFIXES, ""), **{role: role for role in roles()}}


def prefix(name: str) -> str:
    """Return the prefix that reserves a variable's name for the collection, or an empty string."""
    return next((known for known in _prefixes() if name.startswith(f"{known}_")), "")


def is_reserved(name: str) -> bool:
    """Return whether a variable has the prefix of a role or playbook and is not set by one."""
    return bool(prefix(name)) and name not in RESULTS


def spec_of(name: str) -> Spec | None:
    """Return the argument spec of an option, or None if there is no such option."""
    found = prefix(name)
    return options(_prefixes()[found] if found else "").get(name)


def is_default(name: str, raw: object) -> bool:
    """Return whether a variable, before templating, has the default of its role."""
    known = defaults(_prefixes()[prefix(name)])
    return name in known and bool(known[name] == raw)


def unknown(name: str) -> tuple[str, str]:
    """Return an error and a warning about a variable that is reserved, but no option; empty if there is none.

    A name that resembles an option is an error, as the option that it stands for would be ignored.
    """
    start = prefix(name)
    known = {option[len(start) + 1 :]: option for option in options(_prefixes()[start])}
    close = difflib.get_close_matches(name[len(start) + 1 :], list(known), n=3, cutoff=0.75)
    message = f"{name}: unknown option"
    if close:
        names = " or ".join(known[suffix] for suffix in close)
        return f"{message}; did you mean {names}? Correct it, or rename the variable", ""
    if start in _GENERIC_PREFIXES:
        return "", ""
    role = _prefixes()[start]
    owner = f"role {role} has no such option" if role else "no playbook has such an option"
    return "", f"{message}: {owner} and ignores the variable; rename or remove it"


def _shown(value: object) -> str:
    """Return a value for an error message."""
    if value is None:
        return "null"
    text = repr(str(value)) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Converter:
    """Converts values and collects the problems."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def convert(self, name: str, spec: Spec, value: Any) -> Any:
        """Return a value, converted to the type of its spec."""
        kind = spec.get("type", "str")
        try:
            converted = getattr(self, f"_{kind}")(name, spec, value)
        except (TypeError, ValueError):
            self.problems.append(f"{name}: {_shown(value)} is not {_EXPECTED[kind]}")
            return value
        choices = spec.get("choices")
        if choices:
            for chosen in converted if kind == "list" else [converted]:
                if chosen not in choices:
                    texts = [str(choice) for choice in choices]
                    hint = suggestion(str(chosen), texts) or "; set one of them"
                    self.problems.append(f"{name}: {_shown(chosen)} is not one of {listed(texts)}{hint}")
        return converted

    def _bool(self, name: str, spec: Spec, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        text = str(value).strip().lower() if isinstance(value, (str, int)) else ""
        if text not in _BOOLEANS:
            raise ValueError
        return _BOOLEANS[text]

    def _int(self, name: str, spec: Spec, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise TypeError
        if isinstance(value, str) and not re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
            raise ValueError
        # -1 has a meaning only where the choices list it.
        if int(value) < 0 and int(value) not in spec.get("choices", ()):
            raise ValueError
        return int(value)

    def _float(self, name: str, spec: Spec, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise TypeError
        if not 0 <= float(value) < math.inf:
            raise ValueError
        return float(value)

    def _str(self, name: str, spec: Spec, value: Any) -> str:
        if isinstance(value, (bool, Mapping, list, tuple)) or value is None:
            raise TypeError
        return str(value)

    _path = _str

    def _list(self, name: str, spec: Spec, value: Any) -> list[Any]:
        items = spec.get("elements", "str")
        structured = items == "dict" or "options" in spec
        if isinstance(value, str):
            if structured or value.lstrip().startswith(("[", "{")):
                value = json.loads(value)
            else:
                value = [item.strip() for item in value.split(",")] if value.strip() else []
        elif not structured and isinstance(value, (int, float)) and not isinstance(value, bool):
            value = [value]
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise TypeError
        inner = {"type": "dict", "options": spec.get("options")} if structured else {"type": items}
        return [self.convert(f"{name}[{index}]", inner, item) for index, item in enumerate(value)]

    def _dict(self, name: str, spec: Spec, value: Any) -> dict[str, Any]:
        if isinstance(value, str):
            value = json.loads(value)
        if not isinstance(value, Mapping):
            raise TypeError
        suboptions = spec.get("options")
        if not suboptions:
            return {str(key): item for key, item in value.items()}
        self.problems += [
            f"{name}: unknown option {str(key)!r}"
            + (suggestion(str(key), suboptions) or f"; options: {listed(suboptions)}")
            for key in value
            if key not in suboptions
        ]
        self.problems += [
            f"{name}: option {key!r} is required; add it"
            for key, suboption in suboptions.items()
            if suboption.get("required") and value.get(key) is None
        ]
        # As for a module, null means that the option is not set.
        return {
            str(key): self.convert(f"{name}.{key}", suboptions[key], item)
            if key in suboptions and item is not None
            else item
            for key, item in value.items()
        }

    def _raw(self, name: str, spec: Spec, value: Any) -> Any:
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            return json.loads(value)
        return value


def convert(name: str, spec: Spec, value: Any) -> tuple[Any, list[str]]:
    """Return an option's value, converted to the type of its spec, and all problems."""
    converter = _Converter()
    return converter.convert(name, spec, value), converter.problems


def missing(role: str, entry_point: str, names: Iterable[str]) -> list[str]:
    """Return an error for each required option of an entry point that is not among the set variables."""
    required = [
        name for name, spec in entry_points(role).get(entry_point, {}).items() if spec.get("required")
    ]
    caller = f"role {role}" if role else f"playbook {entry_point}"
    return [
        f"{name}: required by the {caller}, but not set; set it" for name in sorted({*required} - {*names})
    ]
