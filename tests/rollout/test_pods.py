# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes with policies get the Pods of all other nodes; each host's variables are read once per run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.checkout import CHECKOUT

ROLE = CHECKOUT / "roles/pods"
HOSTS = [f"node{n}" for n in range(1, 7)]


@pytest.mark.parametrize("with_policies", [HOSTS, HOSTS[3:5], []])
def test_pods_of_each_node_are_read_once(tmp_path: Path, with_policies: list[str]) -> None:
    reads = tmp_path / "reads"
    reads.touch()
    # Reading this variable appends the host's name to a file.
    pods = json.dumps([{"name": "pod-HOST", "addresses": ["10.99.0.1/32"]}])
    script = f"echo HOST >> {reads}; echo '{pods}'".replace("HOST", "{{ inventory_hostname }}")
    hosts = {
        name: {
            "pods_policies": [{"name": "some"}] if name in with_policies else [],
            "expected": [f"pod-{other}" for other in HOSTS if other != name and name in with_policies],
        }
        for name in HOSTS
    }
    read = "{{ lookup('ansible.builtin.pipe', script) | from_json }}"
    variables = {"pods_endpoints": read, "script": script}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": variables}}))
    tasks = [
        {
            "name": "Collect the Pods of all nodes",
            "ansible.builtin.include_tasks": str(ROLE / "tasks/collect_endpoints.yml"),
            "when": "__pods_remote_needed",
        },
        {
            "name": "Check the names of remote Pods",
            "ansible.builtin.assert": {"that": "__pods_remote | map(attribute='name') == expected"},
        },
    ]
    play = {
        "name": "Collect Pods",
        # The filter imports all filters before the first task, as in site.yml.
        "hosts": "{{ 'all' | podnet.datapath.target_hosts(groups) }}",
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
    assert reads.read_text().split() == (HOSTS if with_policies else [])
