# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""site.yml drains a node for what its Pods would notice, and for nothing else.

The command is that of docs/operations.md. The node is this machine, seen from namespaces of its own, so it is
not tuned; the API server is a real one.
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
from tests.kubernetes.cluster import OWNER, Cluster
from tests.support.checkout import CHECKOUT
from tests.support.local_node import SKIPPED, node

OPERATIONS = (CHECKOUT / "docs/operations.md").read_text()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as config:
        found = Cluster(config)
        found.add_node("node1")
        yield found


def roll_out(cluster: Cluster, folder: Path, *more: str, fails: bool = False, **facts: Any) -> int:
    """Run the documented command; return how many changes it made."""
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


def test_a_node_is_drained_for_what_disturbs_its_pods_alone(cluster: Cluster, tmp_path: Path) -> None:
    with node(tmp_path) as facts, cluster.kubelet():

        def drained(**more: Any) -> tuple[bool, int]:
            """Say whether a roll-out moved the node's Pod away, and how many changes it made."""
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
        assert drained() == (False, 0), "a node that is as it is to be is left alone"
        # What the programs know is changed between two packets.
        touched, changes = drained(
            services=[
                {"name": "web", "address": "10.98.0.1", "port": 80, "backends": [{"labels": {"app": "web"}}]}
            ]
        )
        assert not touched and changes > 0
        touched, changes = drained(pods_mtu=1400)
        assert touched and changes > 0


def test_a_node_that_failed_stays_cordoned_until_its_pods_are_verified(
    cluster: Cluster, tmp_path: Path
) -> None:
    def cordoned() -> bool:
        return bool(cluster.api.node("node1")["spec"].get("unschedulable"))

    with node(tmp_path) as facts, cluster.kubelet():
        # What a run cordoned itself it takes back, whatever its tags.
        before = cluster.api.node("node1")["metadata"]["resourceVersion"]
        roll_out(cluster, tmp_path, "--tags", "bpf_datapath", **facts)
        assert not cordoned() and cluster.api.node("node1")["metadata"]["resourceVersion"] != before
        # Drained, changed, and then the proof by effect asks for what cannot be.
        roll_out(cluster, tmp_path, fails=True, pods_verify_max_forwarded=-1, **facts)
        assert cordoned()
        roll_out(cluster, tmp_path, "--tags", "bpf_datapath", **facts)
        assert cordoned()
        roll_out(cluster, tmp_path, **facts)
        assert not cordoned()
