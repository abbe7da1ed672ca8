# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml drains a node only for changes that disrupt its Pods.

The command is the one of docs/operations.md. The node runs on this machine in its own namespaces and is not
tuned; kube-apiserver and etcd are real.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.apiserver import running
from tests.kubernetes.objects import OWNER, Objects
from tests.support.checkout import CHECKOUT
from tests.support.local_node import SKIPPED, node

OPERATIONS = (CHECKOUT / "docs/operations.md").read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Objects]:
    with running(tmp_path_factory.mktemp("cluster")) as config:
        found = Objects(config)
        found.add_node("node1")
        yield found


def roll_out(cluster: Objects, folder: Path, *more: str, fails: bool = False, **facts: Any) -> int:
    """Run the documented command; return its number of changes."""
    found = re.search(r"^    (ansible-playbook .* -e fleet_kubernetes=true .*)$", OPERATIONS, re.MULTILINE)
    assert found
    inventory = {"all": {"hosts": {"node1": None}, "vars": facts}}
    (folder / "inventory").write_text(yaml.safe_dump(inventory))
    done = subprocess.run(
        [*shlex.split(found[1]), SKIPPED, *more],
        cwd=folder,
        env={**os.environ, "KUBECONFIG": str(cluster.config)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode != 0) == fails, (done.stdout + done.stderr)[-6000:]
    (recap,) = re.findall(r"^node1 .* changed=(\d+)", done.stdout, re.MULTILINE)
    return int(recap)


def run_on(facts: dict[str, Any], *words: str) -> None:
    """Run a program in the namespaces of the node."""
    code = f"import subprocess; subprocess.run({words!r}, check=True)"
    subprocess.run([facts["ansible_python_interpreter"], "-c", code], check=True)


def test_node_is_drained_only_for_disruptive_changes(cluster: Objects, tmp_path: Path) -> None:
    with node(tmp_path) as facts, cluster.kubelet():

        def drained(**more: Any) -> tuple[bool, int]:
            """Return whether a rollout evicted the node's Pod, and its number of changes."""
            if not cluster.names("node1"):
                cluster.add_pod("web-a", "node1", OWNER)
            before = cluster.api.node("node1")["metadata"]["resourceVersion"]
            changes = roll_out(cluster, tmp_path, **{**facts, **more})
            there = cluster.api.node("node1")
            assert not there["spec"].get("unschedulable")
            touched = there["metadata"]["resourceVersion"] != before
            assert touched == (cluster.names("node1") == set())
            return touched, changes

        touched, changes = drained()
        assert touched and changes > 0
        assert drained() == (False, 0), "a converged node is not drained"
        # A change of services does not disrupt Pods.
        touched, changes = drained(
            pods_services=[
                {"name": "web", "address": "10.98.0.1", "port": 80, "backends": [{"labels": {"app": "web"}}]}
            ]
        )
        assert not touched and changes > 0
        touched, changes = drained(pods_mtu=1400)
        assert touched and changes > 0


def test_failed_node_stays_cordoned_until_its_pods_are_verified(cluster: Objects, tmp_path: Path) -> None:
    def cordoned() -> bool:
        return bool(cluster.api.node("node1")["spec"].get("unschedulable"))

    with node(tmp_path) as facts, cluster.kubelet():
        # A run uncordons the node that it cordoned, regardless of its tags.
        before = cluster.api.node("node1")["metadata"]["resourceVersion"]
        roll_out(cluster, tmp_path, "--tags", "bpf_datapath", **facts)
        assert not cordoned() and cluster.api.node("node1")["metadata"]["resourceVersion"] != before
        # The node is drained and changed, then the verification fails because a Pod does not reply.
        run_on(facts, "ip", "netns", "add", "deaf")
        facts["pods_endpoints"][1]["netns"] = "/run/netns/deaf"
        ignore = ("ip", "netns", "exec", "deaf", "sysctl", "-qw")
        run_on(facts, *ignore, "net.ipv4.icmp_echo_ignore_all=1")
        roll_out(cluster, tmp_path, fails=True, **facts)
        assert cordoned()
        roll_out(cluster, tmp_path, "--tags", "bpf_datapath", **facts)
        assert cordoned()
        run_on(facts, *ignore, "net.ipv4.icmp_echo_ignore_all=0")
        roll_out(cluster, tmp_path, **facts)
        assert not cordoned()
