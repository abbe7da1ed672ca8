# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The devices of kubelet's Pods, and the path of their packets, on each driver."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.kubernetes.cluster import podnet
from tests.kubernetes.cluster.cluster import AnyCluster
from tests.kubernetes.cluster.deployment import deployment
from tests.kubernetes.cluster.node import POD_CIDRS, AnyNode

pytestmark = pytest.mark.skipif(
    os.environ.get("PODNET_CNI", "podnet") != "podnet", reason="requires this collection's datapath"
)
NAME = "datapath"
PODS, COUNT = 4, 20
RANGES = tuple(zip(("ip", "ip6"), POD_CIDRS, strict=True))
TABLE = """
table inet podnet-test {{
    counter forwarded {{ }}
    chain forward {{
        type filter hook forward priority filter
        {rules}
    }}
}}
"""
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": NAME},
    "spec": {
        "type": "NodePort",
        "ipFamilyPolicy": "RequireDualStack",
        "selector": {"app": NAME},
        "ports": [{"port": 8080}],
    },
}

both_families = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])


class Pods:
    """Two Pods on each node."""

    def __init__(self, cluster: AnyCluster) -> None:
        self.cluster = cluster
        spread = {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": NAME}},
        }
        manifest = deployment(NAME, PODS, ["netexec"], pod={"topologySpreadConstraints": [spread]})
        cluster.kubectl("apply", "-f", "-", given=manifest)
        cluster.kubectl("apply", "-f", "-", given=json.dumps(SERVICE))
        cluster.wait_for("rollout", "status", f"deployment/{NAME}", seconds=120)
        found = json.loads(cluster.kubectl("get", "pods", f"--selector=app={NAME}", "-o", "json"))["items"]
        self.items = sorted(found, key=lambda pod: str(pod["spec"]["nodeName"]))

    def name(self, number: int) -> str:
        """Return the name of a Pod; the first two are on the first node."""
        return str(self.items[number]["metadata"]["name"])

    def addresses(self, number: int) -> list[str]:
        """Return the IPv4 and the IPv6 address of a Pod."""
        return [entry["ip"] for entry in self.items[number]["status"]["podIPs"]]

    def service(self) -> dict[str, Any]:
        """Return the specification of a Service of the Pods."""
        return dict(json.loads(self.cluster.kubectl("get", "service", NAME, "-o", "json"))["spec"])

    def run(self, number: int, *argv: str) -> str:
        """Run a command in a Pod and return its output."""
        return self.cluster.kubectl("exec", self.name(number), "--", *argv)

    def ping(self, source: int, target: int, family: int) -> int:
        """Send packets from a Pod to another one and return how many are answered."""
        output = self.run(source, "ping", "-c", str(COUNT), "-i0.2", self.addresses(target)[family])
        return int(re.findall(r"(\d+) packets received", output)[0])


@pytest.fixture(scope="module")
def pods(kubernetes: AnyCluster) -> Pods:
    return Pods(kubernetes)


@contextlib.contextmanager
def counted(node: AnyNode) -> Iterator[Callable[[], int]]:
    """Count the packets between Pods that the upper stack of a node forwards during the block."""
    rules = (f"{word} saddr {cidr} {word} daddr {cidr} counter name forwarded" for word, cidr in RANGES)
    node.run("nft", "-f", "-", given=TABLE.format(rules="\n".join(rules)))
    try:
        listing = ("nft", "list", "counter", "inet", "podnet-test", "forwarded")
        yield lambda: int(re.findall(r"packets (\d+)", node.run(*listing))[0])
    finally:
        node.run("nft", "delete", "table", "inet", "podnet-test")


def test_pods_have_devices_of_the_driver(pods: Pods) -> None:
    """The node's kernel names the kind of each device."""
    for node in pods.cluster.nodes:
        links = json.loads(node.run("ip", "-json", "-details", "link"))
        kinds = {link["ifname"]: link["linkinfo"]["info_kind"] for link in links if "linkinfo" in link}
        info = json.loads(node.run("podnet-datapath", "info"))
        found = {pod["name"]: kinds[pod["device"]] for pod in info["pods"]}
        own = [one for one in pods.items if one["spec"]["nodeName"] == node.name]
        names = {f"default/{pod['metadata']['name']}" for pod in own}
        assert len(names) == 2 and names <= set(found)
        assert set(found.values()) == {pods.cluster.driver}, found


@both_families
@pytest.mark.parametrize("target", [1, 2], ids=["same_node", "other_node"])
def test_direct_traffic_bypasses_the_upper_stack(pods: Pods, target: int, family: int) -> None:
    with contextlib.ExitStack() as stack:
        counters = [stack.enter_context(counted(node)) for node in pods.cluster.nodes]
        # The stack resolves the addresses of next hops.
        assert pods.ping(0, target, family) == COUNT
        before = [count() for count in counters]
        assert pods.ping(0, target, family) == COUNT
        assert [count() for count in counters] == before


def request(pods: Pods, address: str, port: int) -> None:
    """Send requests from the first Pod to a service and check who answers."""
    host = f"[{address}]" if ":" in address else address
    for _attempt in range(4):
        reply = pods.run(0, "wget", "-qO-", "-T5", f"http://{host}:{port}/hostname")
        assert reply in [pods.name(number) for number in range(PODS)]


@both_families
def test_services_bypass_the_upper_stack(pods: Pods, family: int) -> None:
    address = pods.service()["clusterIPs"][family]
    with contextlib.ExitStack() as stack:
        counters = [stack.enter_context(counted(node)) for node in pods.cluster.nodes]
        for target in range(1, PODS):  # the stack resolves the addresses of next hops
            assert pods.ping(0, target, family) == COUNT
        before = [count() for count in counters]
        request(pods, address, 8080)
        assert [count() for count in counters] == before


@both_families
def test_node_ports_pass_through_the_upper_stack(pods: Pods, family: int) -> None:
    """kube-proxy translates them there; shows that the checks above detect such packets."""
    node = pods.cluster.nodes[0]
    address = node.addresses[family]
    with counted(node) as count:
        request(pods, address, pods.service()["ports"][0]["nodePort"])
        assert count() > 0


@pytest.mark.parametrize("target", [1, 2], ids=["same_node", "other_node"])
def test_restart_of_the_agent_loses_no_packet(pods: Pods, target: int) -> None:
    node = pods.cluster.nodes[0]
    command = "ping -i 0.1 -W 5 $0 & cat; kill -INT $!; wait $!"
    shell = ("exec", "-i", pods.name(0), "--", "sh", "-c", command, pods.addresses(target)[0])
    process = subprocess.Popen(
        [pods.cluster.folder / "kubectl", *shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    assert "PING" in process.stdout.readline()
    first = process.stdout.readline()
    assert "64 bytes from" in first
    node.stop("podnet-agent")
    time.sleep(1)
    podnet.start_agent(node)
    process.stdin.close()
    # communicate() would lose the lines that readline() has read ahead.
    output = process.stdout.read()
    process.wait()
    # The last packets may be on their way when ping ends.
    answered = [int(number) for number in re.findall(r"seq=(\d+)", first + output)]
    assert answered == list(range(len(answered))) and len(answered) > 5, output
