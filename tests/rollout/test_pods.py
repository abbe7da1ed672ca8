# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes under policies learn of each other's Pods, whose variables are read once a run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.checkout import CHECKOUT

ROLE = CHECKOUT / "roles/pods"
HOSTS = [f"node{n}" for n in range(1, 7)]


@pytest.mark.parametrize("asking", [HOSTS, HOSTS[3:5], []])
def test_each_node_is_asked_once_for_its_pods(tmp_path: Path, asking: list[str]) -> None:
    asked = tmp_path / "asked"
    asked.touch()
    # Whoever reads this variable leaves a line.
    pods = json.dumps([{"name": "pod-HOST", "addresses": ["10.99.0.1/32"]}])
    script = f"echo HOST >> {asked}; echo '{pods}'".replace("HOST", "{{ inventory_hostname }}")
    hosts = {
        name: {
            "pods_policies": [{"name": "some"}] if name in asking else [],
            "expected": [f"pod-{other}" for other in HOSTS if other != name and name in asking],
        }
        for name in HOSTS
    }
    read = "{{ lookup('ansible.builtin.pipe', script) | from_json }}"
    variables = {"pods_endpoints": read, "script": script}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": variables}}))
    tasks = [
        {
            "name": "Know who lives on other nodes",
            "ansible.builtin.include_tasks": str(ROLE / "tasks/everywhere.yml"),
            "when": "__pods_asked",
        },
        {
            "name": "Be told the names",
            "ansible.builtin.assert": {"that": "__pods_remote | map(attribute='name') == expected"},
        },
    ]
    play = {
        "name": "Ask",
        "hosts": "all",
        "gather_facts": False,
        "serial": 2,
        "connection": "local",
        "vars_files": [str(ROLE / "vars/main.yml")],
        "tasks": tasks,
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert asked.read_text().split() == (HOSTS if asking else [])
