# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations of a running Cilium with the playbook ``cilium``, successful and failed ones.

The tests build on each other: each starts with the settings that the one before left.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import cilium
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.deployment import deployment
from tests.kubernetes.cluster.node import Node
from tests.kubernetes.controller import Controller

LABEL, PENDING = "podnet.datapath/cilium", "podnet.datapath/cilium-pending"
LEGACY = {"host_routing": "Legacy", "ipv4": False, "ipv6": False}
BPF = {"host_routing": "BPF", "ipv4": True, "ipv6": True}
LEGACY_SIZE = 65536  # bytes; larger packets are BIG TCP
# net.* sysctls belong to the node's namespace; others would change this computer.
TUNING = {"net.ipv4.conf.all.forwarding": 1, "net.ipv6.conf.all.forwarding": 1, "net.ipv4.tcp_fastopen": 3}
PORT = 8080


class Workload:
    """Two replicas behind a Service, of which one may be unavailable, and a DaemonSet."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        # A terminating Pod replies until all nodes have removed it from the Service.
        stop = {"preStop": {"exec": {"command": ["sleep", "5"]}}}
        probe = {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1}
        container = {"lifecycle": stop, "readinessProbe": probe}
        args = ("netexec", f"--http-port={PORT}")
        pod = {"terminationGracePeriodSeconds": 10}
        cluster.kubectl("apply", "-f", "-", given=deployment("web", 2, args, container, pod))
        cluster.kubectl("expose", "deployment", "web", "--type=NodePort", f"--port={PORT}")
        self.allow(1)
        daemon = json.loads(deployment("each", 1, ["pause"]))
        del daemon["spec"]["replicas"]
        cluster.kubectl("apply", "-f", "-", given=json.dumps({**daemon, "kind": "DaemonSet"}))
        cluster.kubectl("rollout", "status", "daemonset/each", "--timeout=120s")
        cluster.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
        spec = json.loads(cluster.kubectl("get", "service", "web", "-o", "json"))["spec"]
        self.address, self.node_port = str(spec["clusterIP"]), int(spec["ports"][0]["nodePort"])

    def allow(self, unavailable: int) -> None:
        """Set how many replicas the budget lets be unavailable."""
        budget = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "web"},
            "spec": {"maxUnavailable": unavailable, "selector": {"matchLabels": {"app": "web"}}},
        }
        self.cluster.kubectl("apply", "-f", "-", given=json.dumps(budget))

    @contextlib.contextmanager
    def requests(self) -> Iterator[None]:
        """Send requests meanwhile, from outside to each node and from each node; none may fail.

        A node's own processes may lose the connection that is open when its agent changes the datapath.
        """
        nodes = self.cluster.nodes
        clients = [(self.cluster.control, node.addresses[0], self.node_port) for node in nodes]
        clients += [(node, self.address, PORT) for node in nodes]
        code = Path(__file__).with_name("client.py").read_text()
        running = [
            subprocess.Popen(
                machine.enter("python3", "-c", code, host, str(port)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for machine, host, port in clients
        ]
        try:
            yield
            for (machine, host, dummy), client in zip(clients, running, strict=True):
                found = json.loads(client.communicate()[0])
                allowed = int(machine is not self.cluster.control)
                assert found["requests"] > 50 and len(found["failures"]) <= allowed, (
                    machine.name,
                    host,
                    found,
                )
        finally:
            for client in running:
                client.kill()


@pytest.fixture(scope="module")
def controller(kubernetes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    folder = tmp_path_factory.mktemp("controller")
    return Controller(
        kubernetes,
        folder,
        cilium_report=str(folder / "report"),
        node_tuning_sysctls=TUNING,
        node_tuning_pods={"sysctls": {}},
        preflight_install_packages=False,
    )


@pytest.fixture(scope="module")
def workload(kubernetes: Cluster) -> Workload:
    return Workload(kubernetes)


def get(cluster: Cluster, *resource: str) -> dict[str, Any]:
    return dict(json.loads(cluster.kubectl("get", *resource, "-o", "json")))


def agents(cluster: Cluster) -> dict[str, str]:
    """Return the UID of each node's agent."""
    pods = get(cluster, "pods", "-n", cilium.NAMESPACE, "-l", "k8s-app=cilium")["items"]
    return {pod["spec"]["nodeName"]: pod["metadata"]["uid"] for pod in pods}


def settings(node: Node) -> dict[str, Any]:
    """Return the settings that a node's agent reports."""
    request = ("curl", "-sS", "--unix-socket", "/run/cilium/cilium.sock", "http://localhost/v1/healthz")
    found = json.loads(node.run(*request))
    big = {family: bool(found[f"{family}-big-tcp"].get("enabled")) for family in ("ipv4", "ipv6")}
    return {"host_routing": found["routing"]["intra-host-routing-mode"], **big}


def sizes(node: Node) -> set[int]:
    """Return the sizes of GSO packets of all Pods on a node."""
    found = set()
    for namespace in node.run("ls", "/run/netns").split():
        (link,) = json.loads(node.run("ip", "-n", namespace, "-d", "-j", "link", "show", "eth0"))
        found |= {link["gso_max_size"], link["gso_ipv4_max_size"]}
    return found


def require(cluster: Cluster, *expected: dict[str, Any]) -> None:
    """Check each node's settings, those of its Pods, and that nothing of a change remains."""
    for node, wanted in zip(cluster.nodes, expected, strict=True):
        assert settings(node) == wanted, node.name
        big = {size > LEGACY_SIZE for size in sizes(node)}
        assert big == {wanted["ipv4"]}, (node.name, sizes(node))
        found = get(cluster, "node", node.name)
        assert not found["spec"].get("unschedulable"), node.name
        assert PENDING not in found["metadata"]["annotations"], node.name
        assert (LABEL in found["metadata"]["labels"]) == (wanted == BPF), node.name


def changes(output: str) -> dict[str, int]:
    """Return the number of changes of each node from a playbook's output."""
    return {
        name: int(count) for name, count in re.findall(r"^(node\d) .* changed=(\d+)", output, re.MULTILINE)
    }


def test_migration(controller: Controller, workload: Workload) -> None:
    """From veth with legacy host routing to BPF host routing and BIG TCP; no request fails."""
    cluster = controller.cluster
    require(cluster, LEGACY, LEGACY)
    with workload.requests():
        done = controller.run("cilium")
    assert done.returncode == 0, done.stdout[-6000:]
    require(cluster, BPF, BPF)
    for node in cluster.nodes:
        assert node.run("sysctl", "-n", "net.ipv4.tcp_fastopen") == "3\n"


def test_second_run_changes_nothing(controller: Controller) -> None:
    before = agents(controller.cluster)
    done = controller.run("cilium")
    assert done.returncode == 0, done.stdout[-6000:]
    assert changes(done.stdout) == {"node1": 0, "node2": 0}, done.stdout[-6000:]
    assert agents(controller.cluster) == before


def test_rollback(controller: Controller, workload: Workload) -> None:
    with workload.requests():
        done = controller.run("cilium", cilium_state="absent")
    assert done.returncode == 0, done.stdout[-6000:]
    require(controller.cluster, LEGACY, LEGACY)


def test_budget_blocks_the_drain(controller: Controller, workload: Workload) -> None:
    """The first node is uncordoned unchanged, and the rollout stops."""
    workload.allow(0)
    try:
        done = controller.run("cilium", fleet_kubernetes_timeout=15)
    finally:
        workload.allow(1)
    assert done.returncode and "PodDisruptionBudget web" in done.stdout, done.stdout[-6000:]
    require(controller.cluster, LEGACY, LEGACY)


def test_agent_that_rejects_a_key_is_restored(controller: Controller, workload: Workload) -> None:
    """The first node is migrated, the second one restored; no request fails."""
    cluster = controller.cluster
    broken = threading.Thread(target=reject_on, args=(cluster, "node2"))
    with workload.requests():
        broken.start()
        done = controller.run("cilium")
        broken.join()
    assert done.returncode and "does not start" in done.stdout, done.stdout[-6000:]
    require(cluster, BPF, LEGACY)
    report = (controller.folder / "report/cilium.md").read_text()
    assert re.search(r"node1.*migrated", report) and re.search(r"node2.*restored", report), report
    # A repetition writes the keys again.
    name = override(cluster, "node1")
    cluster.kubectl("-n", cilium.NAMESPACE, "delete", "ciliumnodeconfig", name)


def reject_on(cluster: Cluster, node: str) -> None:
    """Add an invalid key to the override of a node as soon as the node has its label."""
    wait_until(lambda: LABEL in get(cluster, "node", node)["metadata"]["labels"], 600)
    invalid = json.dumps({"spec": {"defaults": {"routing-mode": "invalid"}}})
    arguments = ("patch", "ciliumnodeconfig", override(cluster, node), "--type=merge", "-p", invalid)
    cluster.kubectl("-n", cilium.NAMESPACE, *arguments)


def override(cluster: Cluster, node: str) -> str:
    """Return the name of a node's CiliumNodeConfig."""
    return "zz-podnet-" + str(get(cluster, "node", node)["metadata"]["labels"][LABEL])


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.2)
