# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The profiles of node_tuning: the modules accept their values, and inventories override them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.podnet.datapath.plugins.module_utils._boot import arguments
from ansible_collections.podnet.datapath.plugins.module_utils._nic import request
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import keys, window

ROLE = Path(__file__).resolve().parents[3] / "roles/node_tuning"
PROFILES = yaml.safe_load((ROLE / "vars/main.yml").read_text())["__node_tuning_profiles"]
SPEC = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]


def test_all_profiles_are_documented() -> None:
    assert list(PROFILES) == SPEC["node_tuning_profile"]["choices"]
    documented = (ROLE.parents[1] / "docs/tuning.md").read_text()
    assert all(f"`{name}`" in documented for name in PROFILES if name != "none")


@pytest.mark.parametrize("name", PROFILES)
def test_the_modules_accept_the_values_of_a_profile(name: str) -> None:
    profile = PROFILES[name]
    desired = keys.parse(profile["sysctls"])
    request.parse([{"name": "eth0", **profile["nic"]}])
    risky = arguments.risks(arguments.parse(profile["boot_args"]))
    assert bool(risky) == (name == "talk")
    current = {window.TCP_RMEM: "4096 131072 6291456", window.TCP_WMEM: "4096 16384 4194304"}
    window.solve_window(profile["window_scale"], desired, current)
    assert "mtu" not in profile["nic"]


PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
  tasks:
    - ansible.builtin.include_vars: {role}/defaults/main.yml
    - ansible.builtin.include_vars: {role}/vars/main.yml
    - ansible.builtin.copy:
        content: >-
          {{{{ {{'sysctls': __node_tuning_merged_sysctls, 'nics': __node_tuning_merged_nics,
                  'pods': __node_tuning_pods, 'boot_args': __node_tuning_merged_boot_args,
                  'scale': __node_tuning_window_scale}} | to_json }}}}
        dest: {out}
"""


def render(folder: Path, **variables: Any) -> Any:
    """Return the role's values for these inventory variables."""
    play, out = folder / "play.yml", folder / "out.json"
    play.write_text(PLAY.format(role=ROLE, out=out))
    program = Path(sys.executable).parent / "ansible-playbook"
    words = [str(program), "-i", "localhost,", str(play), "-e", json.dumps(variables)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


def test_inventory_values_override_the_profile(tmp_path: Path) -> None:
    found = render(
        tmp_path,
        node_tuning_profile="throughput",
        node_tuning_sysctls={"net.core.default_qdisc": "fq_codel", "net.core.optmem_max": 7},
        node_tuning_nics=[{"name": "eth0", "mtu": 8264, "features": {"lro": True}, "optional": ["mtu"]}],
        node_tuning_boot_args={"quiet": None},
    )
    throughput = PROFILES["throughput"]
    assert found["sysctls"]["net.core.default_qdisc"] == "fq_codel"
    assert set(found["sysctls"]) == {*throughput["sysctls"], "net.core.optmem_max"}
    (nic,) = found["nics"]
    assert nic["features"] == {**throughput["nic"]["features"], "lro": True}
    assert nic["optional"] == [*throughput["nic"]["optional"], "mtu"] and nic["mtu"] == 8264
    assert found["boot_args"] == {"iommu": "pt", "quiet": None}
    assert found["pods"]["sysctls"] == {"net.core.optmem_max": 7}


def test_without_a_profile_only_inventory_values_apply(tmp_path: Path) -> None:
    nics = [{"name": "eth0", "mtu": 8264}]
    found = render(tmp_path, node_tuning_nics=nics, node_tuning_boot_args=["a=b"])
    assert found["nics"] == [{"name": "eth0", "mtu": 8264}] and found["boot_args"] == ["a=b"]
    assert found["scale"] in (12, "12")
    assert found["sysctls"] == {"net.ipv4.conf.all.forwarding": 1, "net.ipv6.conf.all.forwarding": 1,
                                "net.core.optmem_max": 1048576}  # fmt: skip
