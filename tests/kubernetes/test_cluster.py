# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every cluster expects of its CNI, by Pods on two nodes.

The CNI ptp, the reference plugins, shows that a failure is one of the CNI under test.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.cluster import images
from tests.kubernetes.cluster.cluster import ADDRESSES, AnyCluster

WORKLOAD = Path(__file__).with_name("workload.yml")
CLIENTS = ("near", "far")
WGET = ("busybox", "wget", "-qO-", "-T5")
CURL_REFUSED = 7  # curl(1): failed to connect to host
FAMILIES = {"IPv4": 0, "IPv6": 1}

both_families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
both_clients = pytest.mark.parametrize("client", CLIENTS)


class Workload:
    """The Pods and Services of workload.yml."""

    def __init__(self, cluster: AnyCluster) -> None:
        self.cluster = cluster
        cluster.kubectl("apply", "-f", WORKLOAD)
        for pod in ("server", *CLIENTS):
            cluster.wait_for("wait", f"pod/{pod}", "--for=condition=Ready")

    def get(self, *resource: str) -> dict[str, Any]:
        """Return an object of the API."""
        return dict(json.loads(self.cluster.kubectl("get", *resource, "-o", "json")))

    def addresses(self, pod: str) -> list[str]:
        """Return the IPv4 and the IPv6 address of a Pod."""
        return [entry["ip"] for entry in self.get("pod", pod)["status"]["podIPs"]]

    def fetch(self, client: str, host: str, path: str = "hostname") -> str:
        """Return the server's reply to a request from a Pod."""
        return self.cluster.kubectl("exec", client, "--", *WGET, f"http://{host}/{path}")


@pytest.fixture(scope="module")
def workload(kubernetes: AnyCluster) -> Iterator[Workload]:
    yield Workload(kubernetes)
    # Its probes each second are a load for emulated nodes.
    kubernetes.kubectl("delete", "-f", WORKLOAD, "--wait=false")


def host(address: str, port: int) -> str:
    """Return an address and a port as in a URL."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def test_addresses_are_of_the_ranges_of_the_node(workload: Workload) -> None:
    for pod in ("server", *CLIENTS):
        ranges = workload.get("node", workload.get("pod", pod)["spec"]["nodeName"])["spec"]["podCIDRs"]
        for address, cidr in zip(workload.addresses(pod), ranges, strict=True):
            assert ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


@both_clients
@both_families
def test_pod_reaches_pod(workload: Workload, client: str, family: int) -> None:
    """The server sees the client's own address, so no node translates it."""
    target = host(workload.addresses("server")[family], 8080)
    assert workload.fetch(client, target) == "server"
    seen = workload.fetch(client, target, "clientip").rpartition(":")[0].strip("[]")
    assert seen == workload.addresses(client)[family]


@both_families
def test_node_reaches_pods(workload: Workload, family: int) -> None:
    """From its own node, from the other one and from the control plane."""
    target = host(workload.addresses("server")[family], 8080)
    for machine in workload.cluster.machines:
        assert machine.run(*WGET, f"http://{target}/hostname") == "server"


@both_families
def test_pod_reaches_nodes(workload: Workload, family: int) -> None:
    for address in (ADDRESSES[family], *(node.addresses[family] for node in workload.cluster.nodes)):
        for client in CLIENTS:
            workload.cluster.kubectl("exec", client, "--", "ping", "-c1", "-W5", address)


def test_exec_and_logs(workload: Workload) -> None:
    assert workload.cluster.kubectl("exec", "far", "--", "hostname") == "far\n"
    workload.fetch("near", host(workload.addresses("server")[0], 8080), "echo?msg=in-the-log")
    assert "in-the-log" in workload.cluster.kubectl("logs", "server")


def test_probes_reach_the_pod(workload: Workload) -> None:
    """One probe succeeds, and one is refused by the Pod rather than lost."""
    assert ready(workload, "server") and not ready(workload, "unready")
    deadline = time.monotonic() + 30 * workload.cluster.patience
    while "connection refused" not in (events := workload.cluster.kubectl("events", "--for=pod/unready")):
        assert time.monotonic() < deadline, events
        time.sleep(0.5)


def ready(workload: Workload, pod: str) -> bool:
    conditions = workload.get("pod", pod)["status"]["conditions"]
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


@both_clients
def test_names_are_resolved(workload: Workload, client: str) -> None:
    found = workload.cluster.kubectl("exec", client, "--", "nslookup", "server.default.svc.cluster.local")
    for address in workload.get("service", "server")["spec"]["clusterIPs"]:
        assert f"Address: {address}\n" in found, found
    assert workload.fetch(client, "server") == "server"


@both_clients
@both_families
def test_service_reaches_ready_pod(workload: Workload, client: str, family: int) -> None:
    spec = workload.get("service", "server")["spec"]
    assert workload.fetch(client, host(spec["clusterIPs"][family], 80)) == "server"
    for node in workload.cluster.nodes:
        target = host(node.addresses[family], spec["ports"][0]["nodePort"])
        assert workload.fetch(client, target) == "server"


@both_families
def test_host_port_reaches_pod(workload: Workload, family: int) -> None:
    """Pods, the other node and the control plane reach it; the other node does not have the port."""
    first, second = workload.cluster.nodes
    target = host(first.addresses[family], 18080)
    for client in CLIENTS:
        assert workload.fetch(client, target) == "server"
    for machine in (second, workload.cluster.control):
        assert machine.run(*WGET, f"http://{target}/hostname") == "server"
    other = host(second.addresses[family], 18080)
    refused = workload.cluster.control.enter("curl", "-sS", "-m5", f"http://{other}/hostname")
    assert subprocess.run(refused, capture_output=True, check=False).returncode == CURL_REFUSED


def test_deleted_pod_leaves_nothing(workload: Workload) -> None:
    node = workload.cluster.nodes[1]

    def state() -> list[str]:
        lists = (("-br", "link"), ("-4", "route"), ("-6", "route"))
        return [node.run("ip", *words) for words in lists]

    before = state()
    pod = ("--image", images.AGNHOST, "--image-pull-policy=Never", "--restart=Never")
    on_node = json.dumps({"spec": {"nodeName": node.name, "terminationGracePeriodSeconds": 1}})
    workload.cluster.kubectl("run", "brief", *pod, f"--overrides={on_node}", "--", "pause")
    workload.cluster.wait_for("wait", "pod/brief", "--for=condition=Ready")
    assert state() != before
    workload.cluster.kubectl("delete", "pod", "brief")
    assert state() == before
