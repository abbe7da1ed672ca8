# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Argument specs, defaults and uses of the roles' options match each other.

Ansible passes on text from ``-e`` and AWX unchanged. So roles use only the converted option ``__NAME``, and
other roles and playbooks use ``NAME | podnet.datapath.option('NAME')``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.podnet.datapath.plugins.plugin_utils import options
from tests.support.checkout import CHECKOUT

ROLES = options.roles()
ALL = {name: spec for role in ("", *ROLES) for name, spec in options.options(role).items()}
# Keywords whose value is a Jinja expression without braces.
EXPRESSIONS = {"when", "that", "until", "failed_when", "changed_when", "loop"}
# The last item of a module's options names the option of a role that is passed to it.
PASSED = [
    ("node_tuning_nics", "nic_tuning", "nics"),
    ("node_tuning_path", "path_probe", "probes"),
    ("node_tuning_confirm_paths", "nic_tuning", "confirm_paths"),
    ("node_tuning_pods", "sysctl_zc", "pods"),
    ("bpf_datapath_path", "path_probe", "probes"),
    ("bpf_datapath_confirm_paths", "bpf_attach", "confirm_paths"),
    ("rollout_peers", "path_probe", "probes"),
    ("rollout_streams", "path_probe", "streams"),
    ("pods_endpoints", "pods", "pods"),
    ("pods_policies", "pods", "policies"),
    ("pods_services", "pods", "services"),
    ("pods_masquerade", "pods", "masquerade"),
    ("pods_host_routes", "pods", "host_routes"),
    ("cni_masquerade", "pods", "masquerade"),
]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) or {}


def strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all strings in a YAML document, each with the key that it belongs to."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from strings(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from strings(item, key)
    elif isinstance(value, str):
        yield key, value


def expressions(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the Jinja expressions of a file, each with its key, with literals whose words are quoted."""
    found = strings(load(path)) if path.suffix == ".yml" else iter([("", path.read_text())])
    for key, text in found:
        parts = [text] if key in EXPRESSIONS else re.findall(r"{[{%](.*?)[%}]}", text, re.DOTALL)
        for part in parts:
            yield key, re.sub(r"'[^']*'", lambda literal: literal[0].replace(" ", "'"), part)


def sources() -> list[Path]:
    """Return all files with Jinja expressions, except defaults."""
    patterns = ("roles/*/tasks/*.yml", "roles/*/vars/*.yml", "roles/*/templates/*", "playbooks/*.yml")
    return sorted(path for pattern in patterns for path in CHECKOUT.glob(pattern))


def unconverted(expression: str) -> list[str]:
    """Return the options that an expression uses without conversion."""
    found = []
    for match in re.finditer(r"(?<![\w'\"])[a-z]\w+", expression):
        name, rest = match[0], expression[match.end() :]
        converted = rf"\s*(\| default\(([^()]|\([^()]*\))*\)\s*)?\| podnet\.datapath\.option\('{name}'\)"
        # The filter target_hosts converts podnet_hosts.
        if name in ALL.keys() - {"podnet_hosts"} and not re.match(rf"{converted}| is (not )?defined", rest):
            found.append(name)
    return found


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_specs_match(role: str) -> None:
    specs, defaults = options.options(role), options.defaults(role)
    assert set(defaults) <= set(specs)
    for name, spec in specs.items():
        assert name.startswith(f"{role}_") and spec.get("description") and spec.get("type")
        if "default" in spec:
            assert defaults[name] == spec["default"]
        if spec.get("required"):
            assert name not in defaults
        if name in defaults and "{" not in str(defaults[name]):
            assert options.convert(name, spec, defaults[name]) == (defaults[name], [])


@pytest.mark.parametrize("role", ROLES)
def test_every_option_has_a_converted_variable(role: str) -> None:
    variables = load(CHECKOUT / f"roles/{role}/vars/main.yml")
    for name in options.options(role):
        expected = f"{{{{ {name} | podnet.datapath.option('{name}') }}}}"
        assert variables.get(f"__{name}") == expected, f'add to vars/main.yml: __{name}: "{expected}"'


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_only_converted_options_are_used(path: Path) -> None:
    for key, expression in expressions(path):
        assert not unconverted(expression), f"{key}: {expression}: use __NAME or podnet.datapath.option"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_integers_are_converted_again(path: Path) -> None:
    """ansible-core 2.18 returns a variable's integer as text: only modules may get it without ``| int``."""
    integers = [f"__{name}" for name, spec in ALL.items() if spec["type"] in ("int", "float")]
    for _key, expression in expressions(path):
        for match in re.finditer(r"(?<!\w)__\w+", expression):
            rest = expression[match.end() :]
            whole = expression.strip() in (match[0], f"{match[0]} | default(omit)")
            assert (
                match[0] not in integers
                or whole
                or re.match(r"( \| default\([^()]*\))? \| (int|string)\b", rest)
                or "omit if" in expression
            ), expression


@pytest.mark.parametrize("role", ROLES)
def test_defaults_use_converted_options(role: str) -> None:
    """A default that is just another option is converted with its own type."""
    for name, value in options.defaults(role).items():
        for _key, text in strings(value):
            if re.fullmatch(r"{{ \w+( \| default\([^()]*\))? }}", text.strip()):
                continue
            for part in re.findall(r"{[{%](.*?)[%}]}", text, re.DOTALL):
                found = [one for one in unconverted(part) if ALL[one]["type"] not in ("str", "path")]
                assert not found, f"{name}: {part}"


def test_results_are_known() -> None:
    """Variables that roles and playbooks set are not reported as unknown options."""
    found: set[str] = set()
    for path in sources():
        document = load(path) if path.suffix == ".yml" else {}
        found |= {text for key, text in strings(document) if key == "register"}
        found |= (
            set(re.findall(r"^ {4,}(\w+):", path.read_text(), re.MULTILINE))
            if path.parent.name != "vars"
            else set()
        )
        if path.parent.name == "vars":
            found |= set(document)
    found = {name for name in found if name not in ALL and options.prefix(name)}
    assert found == options.RESULTS


def arguments(module: str) -> dict[str, Any]:
    program = Path(sys.executable).parent / "ansible-doc"
    words = [str(program), "-t", "module", "-j", f"podnet.datapath.{module}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)[f"podnet.datapath.{module}"]["doc"]["options"]
    return found


def shape(suboptions: dict[str, Any], nested: str) -> dict[str, Any]:
    """Return what two specs of the same options must have in common."""
    return {
        name: (
            spec.get("type", "str"),
            spec.get("elements"),
            bool(spec.get("required")),
            list(spec.get("choices") or ()),
            shape(spec.get(nested) or {}, nested),
        )
        for name, spec in suboptions.items()
    }


@pytest.mark.parametrize("module", sorted({module for _name, module, _option in PASSED}))
def test_suboptions_are_those_of_the_module(module: str) -> None:
    documented = arguments(module)
    for name, other, option in PASSED:
        if other == module:
            expected = shape(documented[option]["suboptions"], "suboptions")
            assert shape(ALL[name]["options"], "options") == expected, name


def test_lists_of_dictionaries_have_suboptions() -> None:
    """Ansible's own check splits text at commas, so it must not check the elements."""
    for name, spec in ALL.items():
        assert spec["type"] != "list" or "choices" not in spec or name in options.options("")
        assert spec.get("elements") != "dict" and (
            "options" not in spec or name in {row[0] for row in PASSED}
        )


@pytest.mark.parametrize("role", [role for role in ROLES if role != "fleet"])
def test_roles_validate_first(role: str) -> None:
    first = load(CHECKOUT / f"roles/{role}/tasks/main.yml")[0]
    assert first["podnet.datapath.validate_options"] == {"role": role}


@pytest.mark.parametrize("name", ["audit", "benchmark", "lab_down", "lab_up", "preflight", "revert", "site"])
def test_playbooks_validate_first(name: str) -> None:
    plays = load(CHECKOUT / f"playbooks/{name}.yml")
    assert plays[0]["hosts"] == "localhost" or "podnet.datapath.target_hosts(groups" in plays[0]["hosts"]
    first = plays[0]["tasks"][0]
    assert "podnet.datapath.validate_options" in first and not first["podnet.datapath.validate_options"]
    assert first["any_errors_fatal"] and first["tags"] == ["always"] and "pre_tasks" not in plays[0]


def test_ansible_does_not_validate_again() -> None:
    """Ansible's own check would refuse JSON text, and cost a task per role and host."""
    for path in sources():
        if path.suffix == ".yml" and path.parent.name != "vars":
            for task in tasks(load(path)):
                call = (
                    task.get("ansible.builtin.import_role") or task.get("ansible.builtin.include_role") or {}
                )
                role = call.get("name", "").rpartition(".")[2]
                if role and call.get("tasks_from", "main") in options.entry_points(role):
                    assert call.get("rolespec_validate") is False, f"{path}: {task['name']}"


def tasks(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all dictionaries in a YAML document."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from tasks(item)
