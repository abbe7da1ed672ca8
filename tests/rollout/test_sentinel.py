# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where another system reboots the nodes, a sentinel file requests a required reboot, once."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import yaml

ROLE = {"name": "podnet.datapath.fleet", "tasks_from": "reboot_sentinel"}
TASK = {"name": "Request a reboot", "ansible.builtin.import_role": ROLE}
PLAY = [{"name": "Request", "hosts": "all", "gather_facts": False, "tasks": [TASK]}]
# By host: a reboot is required, the sentinel is enabled
HOSTS = {"required": (True, True), "converged": (False, True), "disabled": (True, False)}


def test_sentinel_file_requests_required_reboot(tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(yaml.safe_dump(PLAY))
    inventory = {
        host: {
            "node_tuning_reboot_required": required,
            "fleet_reboot_sentinel": str(tmp_path / host) if enabled else "",
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
        }
        for host, (required, enabled) in HOSTS.items()
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": inventory}}))
    for changed in (1, 0):
        done = subprocess.run(
            ["ansible-playbook", "-i", str(tmp_path / "hosts.json"), str(tmp_path / "play.yml")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        changes = dict(re.findall(r"^(\w+) +: ok=\d+ +changed=(\d+)", done.stdout, re.MULTILINE))
        assert changes == {"required": str(changed), "converged": "0", "disabled": "0"}, done.stdout
        assert [host for host in HOSTS if (tmp_path / host).exists()] == ["required"]
