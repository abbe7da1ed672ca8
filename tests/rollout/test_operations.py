# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of docs/operations.md use existing tags and variables."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.support.checkout import CHECKOUT

TEXT = (CHECKOUT / "docs/operations.md").read_text()
COMMANDS = re.findall(r"^    (ansible-playbook .*?)(?:\s+#.*)?$", TEXT, re.MULTILINE)


def options() -> set[str]:
    """Return the names of all options of all roles."""
    found: set[str] = set()
    for path in CHECKOUT.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            found.update(entry.get("options", {}))
    return found


def tags(plays: list[dict[str, Any]]) -> set[str]:
    """Return the tags of a playbook's roles and tasks."""
    parts = ("roles", "pre_tasks", "tasks", "post_tasks")
    return {
        tag for play in plays for part in parts for item in play.get(part, []) for tag in item.get("tags", [])
    }


def test_variables_are_role_options() -> None:
    known = options() | {"audit_strict", "awx_inventory", "awx_credential"}
    named = {name for command in COMMANDS for name in re.findall(r"-e (\w+)=", command)}
    named |= set(re.findall(r"`(\w+_\w+)[=:]", TEXT))
    assert len(COMMANDS) > 10 and named - known == set()


def test_tags_exist_in_site_yml() -> None:
    named = {tag for command in COMMANDS for tag in re.findall(r"--tags (\w+)", command)}
    assert named and named <= tags(yaml.safe_load((CHECKOUT / "playbooks/site.yml").read_text()))


def test_eight_tasks_are_documented() -> None:
    assert re.findall(r"^## (\d)\. ", TEXT, re.MULTILINE) == [str(number) for number in range(1, 9)]
