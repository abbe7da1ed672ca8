# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where another system reboots the nodes, a sentinel file requests a required reboot, once."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

ROLE = {"name": "podnet.datapath.fleet", "tasks_from": "reboot_sentinel"}
TASK = {"name": "Request a reboot", "ansible.builtin.import_role": ROLE}
PLAY = [{"name": "Request", "hosts": "localhost", "gather_facts": False, "tasks": [TASK]}]


@pytest.mark.parametrize(
    ("required", "enabled", "changes"), [(True, True, [1, 0]), (False, True, [0, 0]), (True, False, [0, 0])]
)
def test_sentinel_file_requests_required_reboot(
    tmp_path: Path, required: bool, enabled: bool, changes: list[int]
) -> None:
    (tmp_path / "play.yml").write_text(yaml.safe_dump(PLAY))
    sentinel = tmp_path / "reboot-required"
    facts = {
        "node_tuning_reboot_required": required,
        "fleet_reboot_sentinel": str(sentinel) if enabled else "",
        "ansible_become": False,
        "ansible_python_interpreter": "{{ ansible_playbook_python }}",
    }
    for changed in changes:
        done = subprocess.run(
            ["ansible-playbook", "-e", json.dumps(facts), str(tmp_path / "play.yml")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and f"changed={changed} " in done.stdout, done.stdout + done.stderr
        assert sentinel.exists() == (required and enabled)
