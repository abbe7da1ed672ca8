# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml on two nodes: one node builds the driver for both, and a new version replaces a loaded one.

The nodes stay for the next run, which restores their first boot.
`lab.py down --name driver-nodes` removes them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import CHECKOUT, DRIVER
from tests.support.lab_node import lab

LAB = "driver-nodes"
KERNEL = os.environ.get("PODNET_KERNEL", "6.1")
NODES = ("node1", "node2")
PODS = {"node1": ["pod1", "pod2"], "node2": ["pod3"]}
NEW_VERSION = "0.1.1"
COLLECTION = ("galaxy.yml", "meta", "playbooks", "plugins", "roles")
# Other tests cover tuning, which reboots the nodes; Pods only need forwarding of it.
SKIPPED = "node_tuning"
FORWARDING = "sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"


def ssh(node: str, command: str) -> str:
    return lab("ssh", "--name", LAB, node, "--", command).strip()


def version() -> str:
    found = re.search(r'META_VERSION\s+"(.+)"', (DRIVER / "meta.h").read_text())
    assert found
    return found[1]


@dataclass
class Site:
    """An installed copy of the collection, and its cache of built drivers."""

    folder: Path
    cache: Path

    @property
    def collection(self) -> Path:
        return self.folder / "ansible_collections/podnet/datapath"

    def run(self, **variables: Any) -> dict[str, dict[str, int]]:
        """Run site.yml; return the counts of each node's recap."""
        inventory = json.loads(lab("inventory", "--name", LAB))["inventory"]
        facts = {"pods_mtu": 1500, "meta_driver_cache": str(self.cache), "meta_driver_single_builder": True}
        facts.update(variables)
        done = subprocess.run(
            [
                *("ansible-playbook", "-i", inventory, "-i", str(CHECKOUT / "inventories/lab")),
                *("--skip-tags", SKIPPED, "-e", json.dumps(facts)),
                str(self.collection / "playbooks/site.yml"),
            ],
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.folder), "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        recap = re.findall(r"^(\w+)\s+: (ok=.*)$", done.stdout, re.MULTILINE)
        return {
            node: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", counts)}
            for node, counts in recap
        }


def kept(site: Site) -> list[Path]:
    return sorted(site.cache.rglob("*.ko"))


def devices(node: str) -> dict[str, int]:
    """Return the ifindex of each primary of a node's Pods by alias."""
    links = json.loads(ssh(node, "ip -json -details link show type meta"))
    found = {link["ifalias"]: link["ifindex"] for link in links if link.get("ifalias")}
    assert sorted(found) == [f"podnet:site/{pod}" for pod in PODS[node]], found
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Boot two nodes; the second one has no compiler and headers."""
    made = Site(tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("cache"))
    made.collection.mkdir(parents=True)
    for name in COLLECTION:
        copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
        copy(CHECKOUT / name, made.collection / name)
    lab("up", "--name", LAB, "--kernel", KERNEL, "--snapshot", "booted")
    for node in NODES:
        ssh(node, FORWARDING)
    for path in ("/usr/bin/gcc", "/usr/bin/make", "/lib/modules/$(uname -r)/build"):
        ssh("node2", f"mv {path} {path}.away")
    return made


def test_one_node_builds_for_both(site: Site) -> None:
    site.run()
    (module,) = kept(site)
    digests = {
        ssh(node, "sha256sum < /lib/modules/$(uname -r)/updates/podnet/meta.ko").split()[0] for node in NODES
    }
    assert len(digests) == 1
    assert {ssh(node, "cat /sys/module/meta/version") for node in NODES} == {version()}
    assert ssh("node2", "ls /usr/bin/gcc /usr/bin/make 2>/dev/null | wc -l") == "0"
    for node in NODES:
        devices(node)
    # A second run changes nothing.
    recap = site.run()
    assert {node: counts["changed"] for node, counts in recap.items()} == dict.fromkeys(NODES, 0), recap
    assert kept(site) == [module]


def test_new_version_is_loaded_and_pods_are_recreated_in_one_run(site: Site) -> None:
    """meta_driver_reload: managed reloads the driver; site.yml's last play verifies the traffic of Pods."""
    before = {node: devices(node) for node in NODES}
    for name, pattern in (("meta.h", r'(META_VERSION\s+").+(")'), ("dkms.conf", r'(PACKAGE_VERSION=").+(")')):
        file = site.collection / "roles/meta_driver/files" / name
        file.write_text(re.sub(pattern, rf"\g<1>{NEW_VERSION}\2", file.read_text()))
    site.run()
    assert {ssh(node, "cat /sys/module/meta/version") for node in NODES} == {version()}
    assert {node: devices(node) for node in NODES} == before
    site.run(meta_driver_reload="managed")
    assert len(kept(site)) == 2
    assert {ssh(node, "cat /sys/module/meta/version") for node in NODES} == {NEW_VERSION}
    for node in NODES:
        for pod, index in devices(node).items():
            assert index != before[node][pod], (node, pod)
    recap = site.run(meta_driver_reload="managed")
    assert {node: counts["changed"] for node, counts in recap.items()} == dict.fromkeys(NODES, 0), recap
