# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each number of each module rejects a negative value before anything else."""

from __future__ import annotations

import importlib
import io
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from ansible.module_utils import basic

from tests.support.checkout import CHECKOUT

# validate_options runs on the controller only.
MODULES = sorted({path.stem for path in (CHECKOUT / "plugins/modules").glob("*.py")} - {"validate_options"})
Path = tuple[str, ...]


class Captured(Exception):
    """The keyword arguments with which a module creates its AnsibleModule."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments


def captured(name: str) -> tuple[Any, dict[str, Any]]:
    """Return a module and the arguments of its AnsibleModule."""
    module = importlib.import_module(f"ansible_collections.podnet.datapath.plugins.modules.{name}")

    def capture(**arguments: Any) -> None:
        raise Captured(**arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "AnsibleModule", capture)
        with pytest.raises(Captured) as found:
            module.main()
    return module, found.value.arguments


def numbers(spec: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    """Yield the paths of all options that are numbers."""
    for name, option in spec.items():
        if option.get("type") in ("int", "float"):
            yield (*path, name)
        yield from numbers(option.get("options") or {}, (*path, name))


def example(option: Mapping[str, Any]) -> Any:
    if "choices" in option:
        return [option["choices"][0]] if option["type"] == "list" else option["choices"][0]
    values = {"int": 1, "float": 1, "bool": True, "list": [], "dict": {}}
    return values.get(option.get("type", "str"), "/x")


def arguments(spec: Mapping[str, Any], path: Path, extra: set[str]) -> dict[str, Any]:
    """Return the required options, and -1 at ``path``."""
    found = {name: example(one) for name, one in spec.items() if one.get("required") or name in extra}
    if len(path) == 1:
        found[path[0]] = -1
    elif path:
        inner = arguments(spec[path[0]]["options"], path[1:], set())
        found[path[0]] = [inner] if spec[path[0]]["type"] == "list" else inner
    return found


CASES = [(name, path) for name in MODULES for path in numbers(captured(name)[1]["argument_spec"])]


def test_modules_have_numbers() -> None:
    assert ("kube_node", ("timeout",)) in CASES and ("kube_node", ("grace_period",)) in CASES
    assert len(CASES) > 60


@pytest.mark.parametrize(("name", "path"), CASES)
def test_negative_numbers_are_rejected(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, options = captured(name)
    spec = options["argument_spec"]
    extra = {one for *_condition, names in options.get("required_if", ()) for one in names}
    given = json.dumps({"ANSIBLE_MODULE_ARGS": arguments(spec, path, extra)})
    if hasattr(basic, "_ANSIBLE_PROFILE"):
        monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
    monkeypatch.setattr(basic, "_ANSIBLE_ARGS", given.encode())
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    with pytest.raises(SystemExit):
        module.main()
    message = json.loads(capsys.readouterr().out)["msg"]
    assert message.endswith(f"{path[-1]}: -1 is negative; set a number from 0"), message
