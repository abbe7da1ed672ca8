# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations of a running Cilium with the playbook ``cilium``, successful and failed ones.

The tests build on each other: each starts with the settings that the one before left. Guests have netkit.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import cilium
from tests.kubernetes.cluster.cilium_lab import CiliumLabCluster
from tests.kubernetes.cluster.cluster import AnyCluster
from tests.kubernetes.cluster.deployment import deployment
from tests.kubernetes.cluster.node import AnyNode
from tests.kubernetes.controller import Controller

LABEL, PENDING = "podnet.datapath/cilium", "podnet.datapath/cilium-pending"
LEGACY = {"device_mode": "veth", "host_routing": "Legacy", "ipv4": False, "ipv6": False}
LEGACY_SIZE = 65536  # bytes; larger packets are BIG TCP
# net.* sysctls belong to the node's namespace; others would change this computer.
TUNING = {"net.ipv4.conf.all.forwarding": 1, "net.ipv6.conf.all.forwarding": 1, "net.ipv4.tcp_fastopen": 3}
PORT = 8080


class Workload:
    """Two replicas behind a Service, of which one may be unavailable, and a DaemonSet."""

    def __init__(self, cluster: AnyCluster) -> None:
        self.cluster = cluster
        patience = cluster.patience
        # A terminating Pod replies until all nodes have removed it from the Service.
        stop = {"preStop": {"exec": {"command": ["sleep", str(5 * patience)]}}}
        # A Pod that is late is no failure of the migration.
        probe = {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1, "timeoutSeconds": patience}
        container = {"lifecycle": stop, "readinessProbe": probe}
        args = ("netexec", f"--http-port={PORT}")
        pod = {"terminationGracePeriodSeconds": 10 * patience}
        web = deployment("web", 2, args, container, pod, progressDeadlineSeconds=600 * patience)
        cluster.kubectl("apply", "-f", "-", given=web)
        cluster.kubectl("expose", "deployment", "web", "--type=NodePort", f"--port={PORT}")
        self.allow(1)
        daemon = json.loads(deployment("each", 1, ["pause"]))
        del daemon["spec"]["replicas"]
        cluster.kubectl("apply", "-f", "-", given=json.dumps({**daemon, "kind": "DaemonSet"}))
        cluster.wait_for("rollout", "status", "daemonset/each", seconds=120)
        cluster.wait_for("rollout", "status", "deployment/web", seconds=120)
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
                machine.enter("python3", "-c", code, host, str(port), str(self.cluster.patience)),
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
def controller(kubernetes: AnyCluster, tmp_path_factory: pytest.TempPathFactory) -> Controller:
    folder = tmp_path_factory.mktemp("controller")
    return Controller(
        kubernetes,
        folder,
        cilium_report=str(folder / "report"),
        cilium_timeout=600 * kubernetes.patience,
        fleet_kubernetes_timeout=600 * kubernetes.patience,
        node_tuning_sysctls=TUNING,
        node_tuning_pods={"sysctls": {}},
        preflight_install_packages=False,
    )


@pytest.fixture(scope="module")
def workload(kubernetes: AnyCluster) -> Workload:
    return Workload(kubernetes)


def get(cluster: AnyCluster, *resource: str) -> dict[str, Any]:
    return dict(json.loads(cluster.kubectl("get", *resource, "-o", "json")))


def agents(cluster: AnyCluster) -> dict[str, str]:
    """Return the UID of each node's agent."""
    pods = get(cluster, "pods", "-n", cilium.NAMESPACE, "-l", "k8s-app=cilium")["items"]
    return {pod["spec"]["nodeName"]: pod["metadata"]["uid"] for pod in pods}


def settings(cluster: AnyCluster, node: AnyNode) -> dict[str, Any]:
    """Return the settings that a node's agent reports."""
    pods = get(cluster, "pods", "-n", cilium.NAMESPACE, "-l", "k8s-app=cilium")["items"]
    (name,) = (pod["metadata"]["name"] for pod in pods if pod["spec"]["nodeName"] == node.name)
    status = ("exec", name, "-c", "cilium-agent", "--", "cilium-dbg", "status", "-o", "json")
    found = json.loads(cluster.kubectl("-n", cilium.NAMESPACE, *status))
    big = {family: bool(found[f"{family}-big-tcp"].get("enabled")) for family in ("ipv4", "ipv6")}
    routing = found["routing"]["intra-host-routing-mode"]
    return {"device_mode": found["datapath-mode"], "host_routing": routing, **big}


def fastest(cluster: AnyCluster) -> dict[str, Any]:
    """Return the fastest settings of the nodes."""
    mode = "netkit" if isinstance(cluster, CiliumLabCluster) else "veth"
    return {"device_mode": mode, "host_routing": "BPF", **big_tcp(cluster)}


def big_tcp(cluster: AnyCluster) -> dict[str, bool]:
    """Return whether the uplinks of all nodes support larger packets, by family."""
    limits = []
    for node in cluster.nodes:
        links = json.loads(node.run("ip", "-d", "-j", "address", "show", "to", node.addresses[0]))
        limits += [link["tso_max_size"] for link in links]
    return dict.fromkeys(("ipv4", "ipv6"), min(limits) > LEGACY_SIZE)


def devices(node: AnyNode) -> set[tuple[str, bool]]:
    """Return the kind of each Pod's device on a node, and whether it sends larger packets than 64 KiB."""
    found = set()
    for namespace in node.run("ls", "/run/netns").split():
        (link,) = json.loads(node.run("ip", "-n", namespace, "-d", "-j", "link", "show", "eth0"))
        sizes = {link["gso_max_size"] > LEGACY_SIZE, link["gso_ipv4_max_size"] > LEGACY_SIZE}
        found |= {(link["linkinfo"]["info_kind"], size) for size in sizes}
    return found


def require(cluster: AnyCluster, *expected: dict[str, Any], overridden: bool = True) -> None:
    """Check each node's settings, those of its Pods, and that nothing of a change remains.

    ``overridden`` is whether faster settings are those of the node only.
    """
    for node, wanted in zip(cluster.nodes, expected, strict=True):
        assert settings(cluster, node) == wanted, node.name
        assert devices(node) == {(wanted["device_mode"], wanted["ipv4"])}, node.name
        found = get(cluster, "node", node.name)
        assert not found["spec"].get("unschedulable"), node.name
        assert PENDING not in found["metadata"]["annotations"], node.name
        assert (LABEL in found["metadata"]["labels"]) == (overridden and wanted != LEGACY), node.name


def changes(output: str) -> dict[str, int]:
    """Return the number of changes of each node from a playbook's output."""
    return {
        name: int(count) for name, count in re.findall(r"^(node\d) .* changed=(\d+)", output, re.MULTILINE)
    }


def test_migration(controller: Controller, workload: Workload) -> None:
    """From veth with legacy host routing to the fastest settings; no request fails."""
    cluster = controller.cluster
    require(cluster, LEGACY, LEGACY)
    with workload.requests():
        done = controller.run("cilium")
    assert done.returncode == 0, done.stdout[-6000:]
    require(cluster, fastest(cluster), fastest(cluster))
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
    with workload.requests(), meanwhile(reject_on, cluster, "node2"):
        done = controller.run("cilium")
    assert done.returncode and "does not start" in done.stdout, done.stdout[-6000:]
    require(cluster, fastest(cluster), LEGACY)
    report = (controller.folder / "report/cilium.md").read_text()
    assert re.search(r"node1.*migrated", report) and re.search(r"node2.*restored", report), report
    # A repetition writes the keys again.
    name = override(cluster, "node1")
    cluster.kubectl("-n", cilium.NAMESPACE, "delete", "ciliumnodeconfig", name)


def test_killed_controller(controller: Controller, workload: Workload) -> None:
    """It is killed at each step of the second node; each run continues where the one before ended."""
    cluster = controller.cluster
    before = agents(cluster)

    def node() -> dict[str, Any]:
        return get(cluster, "node", "node2")

    def is_labelled() -> bool:
        return LABEL in node()["metadata"]["labels"]

    steps: tuple[Callable[[], bool], ...] = (
        lambda: bool(node()["spec"].get("unschedulable")),
        is_labelled,
        lambda: agents(cluster).get("node2") not in (None, before["node2"]),
        lambda: any(pod.startswith("podnet-probe") for pod in pods_on(cluster, "node2")),
        lambda: is_labelled() and PENDING not in node()["metadata"]["annotations"],
    )
    for reached in steps:
        controller.kill_when(reached, "cilium")
    done = controller.run("cilium")
    assert done.returncode == 0, done.stdout[-6000:]
    require(cluster, fastest(cluster), fastest(cluster))
    assert agents(cluster)["node1"] == before["node1"]
    assert not any(pod.startswith("podnet-probe") for pod in pods_on(cluster, "node2"))


def pods_on(cluster: AnyCluster, node: str) -> list[str]:
    """Return the names of the Pods of all namespaces on a node."""
    found = get(cluster, "pods", "-A", f"--field-selector=spec.nodeName={node}")["items"]
    return [pod["metadata"]["name"] for pod in found]


def test_agent_that_is_never_ready_is_restored(controller: Controller, workload: Workload) -> None:
    """The first node is rolled back, the second one keeps its settings; no request fails."""
    cluster = controller.cluster
    with workload.requests(), meanwhile(stop_agent, cluster, cluster.nodes[1]):
        done = controller.run("cilium", cilium_state="absent", cilium_timeout=120)
    assert done.returncode and "not ready" in done.stdout, done.stdout[-6000:]
    require(cluster, LEGACY, fastest(cluster))
    report = (controller.folder / "report/cilium.md").read_text()
    assert re.search(r"node1.*migrated", report) and re.search(r"node2.*restored", report), report


def stop_agent(cluster: AnyCluster, node: AnyNode) -> None:
    """Stop the new agent of a node as soon as it starts with the settings of the cluster."""
    old = node.run("pgrep", "-x", "cilium-agent").split()
    wait_until(lambda: LABEL not in get(cluster, "node", node.name)["metadata"]["labels"], 600)
    deadline = time.monotonic() + 300
    while not (new := set(node.run("sh", "-c", "pgrep -x cilium-agent || true").split()).difference(old)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    node.run("kill", "-STOP", *new)


def test_api_unreachable_for_a_minute(controller: Controller, workload: Workload) -> None:
    """While an agent restarts; the rollout continues."""
    cluster = controller.cluster
    with meanwhile(interrupt_api, cluster, agents(cluster)):
        done = controller.run("cilium")
    assert done.returncode == 0, done.stdout[-6000:]
    require(cluster, fastest(cluster), fastest(cluster))


def interrupt_api(cluster: AnyCluster, before: dict[str, str]) -> None:
    """Kill the API server for a minute as soon as the agent of the first node is deleted."""
    wait_until(lambda: agents(cluster).get("node1") != before["node1"], 600)
    cluster.server.kill()
    time.sleep(60)
    cluster.server.restart()


def test_finish_by_gitops(controller: Controller, workload: Workload) -> None:
    """Others apply the values that are written; without the overrides, a restart changes nothing."""
    cluster = controller.cluster
    done = controller.run("cilium", cilium_state="finished")
    assert done.returncode and "would change from" in done.stdout, done.stdout[-6000:]
    require(cluster, fastest(cluster), fastest(cluster))
    cilium.apply(cluster, "--values", controller.folder / "report/cilium-values.yaml")
    before = agents(cluster)
    done = controller.run("cilium", cilium_state="finished")
    assert done.returncode == 0, done.stdout[-6000:]
    assert agents(cluster) == before
    cluster.kubectl("-n", cilium.NAMESPACE, "rollout", "restart", "daemonset/cilium")
    cluster.wait_for("-n", cilium.NAMESPACE, "rollout", "status", "daemonset/cilium", seconds=300)
    require(cluster, fastest(cluster), fastest(cluster), overridden=False)
    done = controller.run("cilium")
    assert done.returncode == 0, done.stdout[-6000:]
    assert changes(done.stdout) == {"node1": 0, "node2": 0}, done.stdout[-6000:]


@contextlib.contextmanager
def meanwhile(fault: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Cause a fault during the block; raise its error."""
    with ThreadPoolExecutor() as pool:
        caused = pool.submit(fault, *arguments)
        yield
        caused.result()


def reject_on(cluster: AnyCluster, node: str) -> None:
    """Add an invalid key to the override of a node as soon as the node has its label."""
    wait_until(lambda: LABEL in get(cluster, "node", node)["metadata"]["labels"], 600)
    invalid = json.dumps({"spec": {"defaults": {"routing-mode": "invalid"}}})
    arguments = ("patch", "ciliumnodeconfig", override(cluster, node), "--type=merge", "-p", invalid)
    cluster.kubectl("-n", cilium.NAMESPACE, *arguments)


def override(cluster: AnyCluster, node: str) -> str:
    """Return the name of a node's CiliumNodeConfig."""
    return "zz-podnet-" + str(get(cluster, "node", node)["metadata"]["labels"][LABEL])


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.2)
