# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a migration with Helm: the chart of the installed release, in an API server without agents."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lablib import common

from tests.kubernetes.apiserver import running
from tests.kubernetes.cilium_objects import SYSTEM, CiliumObjects
from tests.kubernetes.cluster import build, cilium, cilium_build

NODES = ("node1", "node2")
PLAY = [
    {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            {
                "ansible.builtin.include_role": {
                    "name": "podnet.datapath.cilium",
                    "tasks_from": "finish",
                    "rolespec_validate": False,
                }
            }
        ],
    }
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CiliumObjects]:
    """Yield a cluster whose Cilium Helm installed, and whose nodes have the fastest settings as overrides."""
    folder = tmp_path_factory.mktemp("cluster")
    with running(folder) as config:
        found = CiliumObjects(config)
        found.define()
        values = {**cilium.VALUES, "k8sServiceHost": "127.0.0.1", "k8sServicePort": 6443}
        install = ("install", "cilium", cilium_build.chart(), "--values", "-")
        helm(found, *install, given=json.dumps(values))
        with found.controllers():
            for name in NODES:
                found.add_cilium_node(name)
                assert found.cilium_node(name, facts=found.facts(name))["changed"]
                found.cilium_node(name, state="confirmed")
            yield found


def helm(cluster: CiliumObjects, *arguments: Any, given: str = "") -> str:
    words = (cilium_build.programs() / build.BIN / "helm", *arguments)
    return common.run([*words, "--namespace", "kube-system", "--kubeconfig", cluster.config], given=given)


def finish(cluster: CiliumObjects, folder: Path, **variables: Any) -> tuple[int, str]:
    """Run the end of a migration; return its status and output."""
    (folder / "play.yml").write_text(yaml.safe_dump(PLAY))
    options = {
        "cilium_kubeconfig": str(cluster.config),
        "cilium_report": str(folder),
        "cilium_result_info": {"version": cilium_build.VERSION},
        **variables,
    }
    path = f"{cilium_build.programs() / build.BIN}:{os.environ['PATH']}"
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "play.yml", "-e", json.dumps(options)],
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def config_map(cluster: CiliumObjects) -> dict[str, str]:
    return dict(cluster.api.request("GET", f"{SYSTEM}/configmaps/cilium-config")["data"])


def test_values_are_written_and_not_applied(cluster: CiliumObjects, tmp_path: Path) -> None:
    """As for clusters that GitOps manages."""
    before = config_map(cluster)
    status, output = finish(cluster, tmp_path, cilium_chart=str(cilium_build.chart()))
    assert status and "would change from" in output, output[-4000:]
    assert config_map(cluster) == before and all(cluster.keys(name) for name in NODES)
    values = yaml.safe_load((tmp_path / "cilium-values.yaml").read_text())
    assert values["bpf"]["datapathMode"] == "netkit"


def test_other_changes_by_the_chart_are_refused(cluster: CiliumObjects, tmp_path: Path) -> None:
    """A key that was changed without Helm, and the chart of another release."""
    before = config_map(cluster)
    chart = {"cilium_chart": str(cilium_build.chart()), "cilium_apply": True}
    cluster.set_config({**before, "debug": "true"})
    try:
        status, output = finish(cluster, tmp_path, **chart)
        assert status and "the chart would change more than the overrides" in output, output[-4000:]
        assert "debug: true would become false" in output
    finally:
        cluster.set_config(before)
    chart["cilium_chart"] = str(cilium_build.chart("1.15.19"))
    status, output = finish(cluster, tmp_path, **chart)
    assert status and "UPGRADE FAILED" in output, output[-4000:]
    assert config_map(cluster) == before and all(cluster.keys(name) for name in NODES)


def test_helm_makes_the_settings_those_of_the_cluster(cluster: CiliumObjects, tmp_path: Path) -> None:
    keys, before = cluster.keys("node1"), config_map(cluster)
    status, output = finish(cluster, tmp_path, cilium_chart=str(cilium_build.chart()), cilium_apply=True)
    assert status == 0, output[-4000:]
    after = config_map(cluster)
    assert {**before, **keys}.items() <= after.items()
    assert not any(cluster.keys(name) for name in NODES)
    for name in NODES:
        again = cluster.cilium_node(name, facts=cluster.facts(name), check=True)
        assert not again["changed"], again
    status, output = finish(cluster, tmp_path, cilium_chart=str(cilium_build.chart()), cilium_apply=True)
    assert status == 0 and "changed=0" in output, output[-4000:]
