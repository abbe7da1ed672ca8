# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml on a node with missing settings or with Cilium, and revert.yml with an unreachable node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.local_node import SKIPPED, node


@pytest.fixture
def facts(tmp_path: Path) -> Iterator[dict[str, Any]]:
    with node(tmp_path) as found:
        yield found


def site(folder: Path, facts: dict[str, Any], *arguments: str) -> subprocess.CompletedProcess[str]:
    return play("site.yml", folder, {"node1": facts}, *arguments)


def play(
    name: str, folder: Path, hosts: dict[str, dict[str, Any]], *arguments: str
) -> subprocess.CompletedProcess[str]:
    inventory = folder / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    command = ("ansible-playbook", "-i", str(inventory), str(CHECKOUT / name), SKIPPED, *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_node_with_cilium_needs_no_pods(tmp_path: Path, facts: dict[str, Any]) -> None:
    make = "import subprocess; subprocess.run('ip link add cilium_host type veth', shell=True, check=True)"
    subprocess.run([facts["ansible_python_interpreter"], "-c", make], check=True)
    del facts["pods_endpoints"], facts["pods_mtu"]
    done = site(tmp_path, {**facts, "preflight_cilium": "tune", "preflight_driver": "auto"})
    assert done.returncode == 0, done.stdout
    assert "node1: none (Cilium owns the datapath" in done.stdout and "changed=0" in done.stdout


def test_missing_pods_endpoints_is_refused(tmp_path: Path, facts: dict[str, Any]) -> None:
    del facts["pods_endpoints"]
    done = site(tmp_path, facts)
    assert done.returncode and "pods_endpoints is not defined for node1" in done.stdout, done.stdout
    # The first play only checks. It may compile the programs, so its count of changes is not reliable.
    assert done.stdout.count("PLAY [") == 1, done.stdout


def test_pods_mtu_is_optional(tmp_path: Path, facts: dict[str, Any]) -> None:
    del facts["pods_mtu"]
    done = site(tmp_path, facts)
    assert done.returncode == 0 and "changed=0" not in done.stdout, done.stdout


def test_missing_uplink_is_reported_before_any_change(tmp_path: Path, facts: dict[str, Any]) -> None:
    done = site(tmp_path, {**facts, "bpf_datapath_uplinks": ["uplink7"]})
    assert done.returncode and "interface 'uplink7' does not exist" in done.stdout, done.stdout
    # The first play only checks. It may compile the programs, so its count of changes is not reliable.
    assert done.stdout.count("PLAY [") == 1, done.stdout


def test_missing_nic_is_reported_before_any_change(tmp_path: Path, facts: dict[str, Any]) -> None:
    variables = {**facts, "node_tuning_nics": [{"name": "nic7", "mtu": 9000}]}
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"node1": variables}}}))
    command = ("ansible-playbook", "-i", str(inventory), str(CHECKOUT / "site.yml"), "--check")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and "nics: no NIC matches nic7" in done.stdout, done.stdout
    assert done.stdout.count("PLAY [") == 1, done.stdout
    # Without the tuning, the NIC is not needed.
    assert "no NIC matches" not in site(tmp_path, variables, "--check").stdout


def test_limits_of_a_nic_are_checked_before_any_change(tmp_path: Path, facts: dict[str, Any]) -> None:
    make = "import subprocess; subprocess.run('ip link add nic7 type veth', shell=True, check=True)"
    subprocess.run([facts["ansible_python_interpreter"], "-c", make], check=True)
    settings = {"mtu": 70000, "rings": {"rx": 512}, "channels": {"rx": 4096}}
    variables = {
        **facts,
        "node_tuning_nics": [{"name": "nic7", **settings}],
        "node_tuning_nics_persist": False,
    }
    inventory = tmp_path / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"node1": variables}}}))
    command = ("ansible-playbook", "-i", str(inventory), str(CHECKOUT / "site.yml"), "--check")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode, done.stdout
    for problem in ("mtu = 70000", "rings.rx", "channels.rx = 4096"):
        assert problem in done.stdout, done.stdout
    assert done.stdout.count("PLAY [") == 1 and "Set sysctls" not in done.stdout, done.stdout


def test_dry_run_names_a_missing_pyroute2(tmp_path: Path, facts: dict[str, Any]) -> None:
    """The node's Python runs without its packages, so pyroute2 is missing; check mode installs nothing."""
    python = Path(facts["ansible_python_interpreter"])
    python.write_text(python.read_text().replace(sys.executable, "/usr/bin/python3 -S"))
    done = site(tmp_path, {**facts, "preflight_install_packages": True}, "--check")
    assert done.returncode and done.stdout.count("PLAY [") == 1, done.stdout
    assert "missing: pyroute2 for /usr/bin/python3: run" in done.stdout
    assert "(check mode does not install it)" in done.stdout and "not inspected" not in done.stdout


def test_revert_stops_at_unreachable_node(tmp_path: Path, facts: dict[str, Any]) -> None:
    """Ansible itself continues when a part of a batch becomes unreachable."""
    away = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_connection": "ssh"}
    hosts = {"node1": facts, "node2": away, "node3": facts}
    done = play("playbooks/revert.yml", tmp_path, hosts, "-e", '{"fleet_batches": [2, 1]}', "--tags", "pods")
    assert done.returncode and "1 of 3 nodes failed or became unreachable: node2" in done.stdout, done.stdout
    assert "run the same command again; nodes that are already" in done.stdout
    assert "[node3]" not in done.stdout.partition("PLAY [Restore")[2]


def test_text_of_extra_variables_reaches_the_modules(tmp_path: Path, facts: dict[str, Any]) -> None:
    """``-e name=false`` is the text "false", which Jinja takes for true."""
    roles = [f"podnet.datapath.{name}" for name in ("node_tuning", "meta_driver")]
    (tmp_path / "play.yml").write_text(
        json.dumps([{"hosts": "node1", "gather_facts": False, "roles": roles}])
    )
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"node1": facts}}}))
    text = ("node_tuning_nics_persist=false", "node_tuning_confirm_timeout=0", "meta_driver_enabled=false")
    lists = {"node_tuning_nics": '[{"name": "lo", "mtu": "65536"}]', "node_tuning_window_scale": "-1"}
    words = [word for one in (*text, json.dumps(lists)) for word in ("-e", one)]
    command = ("ansible-playbook", "-i", str(tmp_path / "hosts.json"), str(tmp_path / "play.yml"))
    environment = {**os.environ, "ANSIBLE_INJECT_INVOCATION": "true"}
    done = subprocess.run(
        [*command, *words, "--check", "-vvv"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout
    invocation = done.stdout.partition("TASK [podnet.datapath.node_tuning : Configure NICs]")[2]
    assert '"persist": false' in invocation and '"confirm_timeout": 0' in invocation
    assert '"name": "lo"' in invocation and "DKMS" not in done.stdout


def test_package_installation_is_refused_by_text(tmp_path: Path, facts: dict[str, Any]) -> None:
    python = Path(facts["ansible_python_interpreter"])
    python.write_text(python.read_text().replace(sys.executable, "/usr/bin/python3 -S"))
    del facts["preflight_install_packages"]
    done = site(tmp_path, facts, "--check", "-e", "preflight_install_packages=false")
    assert done.returncode and "missing: pyroute2" in done.stdout, done.stdout
    assert done.stdout.count("PLAY [") == 1


def test_role_preflight_installs_nothing(tmp_path: Path, facts: dict[str, Any]) -> None:
    python = Path(facts["ansible_python_interpreter"])
    python.write_text(python.read_text().replace(sys.executable, "/usr/bin/python3 -S"))
    roles = ["podnet.datapath.preflight"]
    (tmp_path / "play.yml").write_text(
        json.dumps([{"hosts": "node1", "gather_facts": False, "roles": roles}])
    )
    done = play(
        str(tmp_path / "play.yml"), tmp_path, {"node1": {**facts, "preflight_install_packages": True}}
    )
    assert done.returncode and "missing: pyroute2" in done.stdout and "changed=0" in done.stdout, done.stdout
