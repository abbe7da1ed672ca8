# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs forward packets of veth Pods on two connected nodes, on the running kernel.

::

    node1: pod1 pod2 -- wire0 ======== wire0 -- pod3 :node2
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import metrics
from tests.support.pod_nodes import NODES, Nodes, Pod

PODS = {
    "pod1": Pod("node1", "10.31.1.11", "fd31:1::11"),
    "pod2": Pod("node1", "10.31.1.12", "fd31:1::12"),
    "pod3": Pod("node2", "10.31.2.11", "fd31:2::11"),
}
PAYLOAD = os.urandom(1 << 20)


def addresses(pod: str) -> tuple[str, str]:
    return PODS[pod].v4, PODS[pod].v6


class Lab(Nodes):
    """Two nodes with veth Pods, at first without programs."""

    def __init__(self, namespaces: Any, run_module: Any, bpffs: str, datapath_object: str) -> None:
        super().__init__(namespaces, PODS)
        self.run_module, self.object = run_module, datapath_object
        self.pins = {node: f"{bpffs}/{self.names[node]}" for node in NODES}
        self.hook_type = "auto"

    def attach(self, **options: Any) -> list[dict[str, Any]]:
        """Load and attach the programs on both nodes, and set their endpoints."""
        results = []
        for node in NODES:
            attachments = [
                {"program": program, "device": device, "hook": hook, "type": self.hook_type}
                for program, device, hook in self.attachments(node)
            ]
            args = {"object": self.object, "pin_path": self.pins[node], "attachments": attachments, **options}
            results.append(self.run_module("bpf_attach", args, netns=self.names[node]))
            self.set_endpoints(node)
        return results

    def set_endpoints(self, node: str) -> dict[str, Any]:
        endpoints = [{"device": pod, "addresses": addresses(pod)} for pod in self.pods_of(node)]
        args = {"pin_path": self.pins[node], "endpoints": endpoints}
        result: dict[str, Any] = self.run_module("bpf_state", args, netns=self.names[node])
        return result

    def detach(self) -> list[dict[str, Any]]:
        return [
            self.run_module("bpf_attach", {"state": "absent", "pin_path": pins}, netns=self.names[node])
            for node, pins in self.pins.items()
        ]

    def ping(self, pod: str, to: str, *options: str) -> str:
        words = ("ping", "-n", "-c", "3", "-i", "0.02", "-W", "1", *options, to)
        output: str = self.ns.run(self.names[pod], *words, check=False)
        return output

    def stream(self, pod: str, to_pod: str, family: int) -> None:
        """Send data over TCP and assert that it arrives unchanged."""
        address = addresses(to_pod)[family != socket.AF_INET]
        with self.ns.inside(self.names[to_pod]):
            listener = socket.create_server((address, 0), family=family)
        with self.ns.inside(self.names[pod]):
            sender = socket.socket(family)
        received = bytearray()

        def receive() -> None:
            connection, dummy = listener.accept()
            with connection:
                while chunk := connection.recv(1 << 16):
                    received.extend(chunk)

        with listener, sender:
            sender.settimeout(5)
            listener.settimeout(5)
            thread = threading.Thread(target=receive)
            thread.start()
            sender.connect(listener.getsockname()[:2])
            sender.sendall(PAYLOAD)
            sender.shutdown(socket.SHUT_WR)
            thread.join(10)
        assert received == PAYLOAD

    def metrics(self, node: str) -> dict[str, int]:
        """Return the packets of all Pods by reason, without zeros."""
        found: Counter[str] = Counter()
        for counted in metrics.read_counters(self.pins[node]).values():
            found.update(counted)
        return dict(found)

    def forwarded(self, node: str) -> int:
        """Return the number of packets that the node's upper stack has forwarded."""
        lines = self.ns.run(self.names[node], "cat", "/proc/net/snmp").splitlines()
        names, values = (line.split() for line in lines if line.startswith("Ip:"))
        v6 = self.ns.run(self.names[node], "cat", "/proc/net/snmp6")
        match = re.search(r"Ip6OutForwDatagrams\s+(\d+)", v6)
        assert match
        return int(values[names.index("ForwDatagrams")]) + int(match[1])


@pytest.fixture(scope="module")
def attached(run_module: Any, bpffs: str, datapath_object: str, module_namespaces: Any) -> Iterator[Lab]:
    """Yield one lab with attached programs to all tests that do not change it."""
    made = Lab(module_namespaces, run_module, bpffs, datapath_object)
    made.attach()
    yield made
    made.detach()


@pytest.fixture
def lab(namespaces: Any, run_module: Any, bpffs: str, datapath_object: str) -> Iterator[Lab]:
    made = Lab(namespaces, run_module, bpffs, datapath_object)
    yield made
    made.detach()


@pytest.mark.parametrize("hook_type", ["tcx", "clsact"])
def test_pod_traffic_bypasses_the_upper_stack(lab: Lab, hook_type: str) -> None:
    lab.hook_type = hook_type
    first = lab.attach()
    assert all(result["changed"] for result in first)
    assert {a["type"] for result in first for a in result["attachments"]} == {hook_type}
    assert not any(result["changed"] for result in lab.attach())

    for to in (*addresses("pod2"), *addresses("pod3")):
        output = lab.ping("pod1", to)
        assert " 0% packet loss" in output, output
    forwarded = lab.forwarded("node1"), lab.forwarded("node2")  # to resolve the neighbours
    assert max(forwarded) <= 2
    # each node decrements the TTL of 64 by one
    assert "ttl=63" in lab.ping("pod1", PODS["pod2"].v4)
    assert "ttl=62" in lab.ping("pod1", PODS["pod3"].v4)
    assert "ttl=62" in lab.ping("pod1", PODS["pod3"].v6)
    for family in (socket.AF_INET, socket.AF_INET6):
        lab.stream("pod1", "pod2", family)
        lab.stream("pod1", "pod3", family)
        lab.stream("pod3", "pod1", family)

    metrics = lab.metrics("node1")
    assert metrics["LOCAL"] > 12 and metrics["REMOTE"] > 12 and metrics["INBOUND"] > 12, metrics
    assert (lab.forwarded("node1"), lab.forwarded("node2")) == forwarded


def test_host_and_pod_reach_each_other(attached: Lab) -> None:
    for address in addresses("pod1"):
        output = attached.ns.run(
            attached.names["node1"], "ping", "-n", "-c", "2", "-i", "0.02", "-W", "1", address
        )
        assert " 0% packet loss" in output
    for address in ("172.31.0.1", "fd31::1"):
        assert " 0% packet loss" in attached.ping("pod1", address)
    metrics = attached.metrics("node1")
    assert metrics["HOST"] >= 8 and metrics["STACK_NOT_FORWARDED"] >= 8


def test_first_packet_resolves_neighbour(attached: Lab) -> None:
    """The stack forwards packets until the neighbour is resolved."""
    forwarded = attached.forwarded("node1")
    for node in ("node1", "node2"):
        attached.ns.run(attached.names[node], "ip", "neigh", "flush", "dev", "wire0")
    for address in addresses("pod3"):
        assert " 0% packet loss" in attached.ping("pod1", address)
    assert forwarded < attached.forwarded("node1") <= forwarded + 2


def test_ttl_and_mtu_errors_reach_the_sender(lab: Lab) -> None:
    lab.attach()
    assert "Time to live exceeded" in lab.ping("pod1", PODS["pod3"].v4, "-t", "1")
    assert "Time exceeded" in lab.ping("pod1", PODS["pod3"].v6, "-t", "1")
    assert "Time to live exceeded" in lab.ping("pod1", PODS["pod2"].v4, "-t", "1")
    lab.ns.ip(lab.names["node1"], "link set wire0 mtu 1400")
    assert "(mtu = 1400)" in lab.ping("pod1", PODS["pod3"].v4, "-s", "1430", "-M", "do")
    assert "mtu=1400" in lab.ping("pod1", PODS["pod3"].v6, "-s", "1430", "-M", "do")
    # TCP segments must fit this MTU
    for family in (socket.AF_INET, socket.AF_INET6):
        lab.stream("pod1", "pod3", family)
    # a Pod with a smaller MTU than the sender
    lab.ns.ip(lab.names["node1"], "link set pod2 mtu 1320")
    assert "(mtu = 1320)" in lab.ping("pod1", PODS["pod2"].v4, "-s", "1350", "-M", "do")
    metrics = lab.metrics("node1")
    assert metrics["STACK_TTL"] >= 3 and metrics["STACK_MTU"] >= 3


def test_fragments_bypass_the_upper_stack(attached: Lab) -> None:
    forwarded = attached.forwarded("node1")
    for address in (*addresses("pod2"), *addresses("pod3")):
        assert " 0% packet loss" in attached.ping("pod1", address, "-s", "4000")
    assert attached.forwarded("node1") == forwarded


def test_ipv4_route_with_ipv6_next_hop_bypasses_the_upper_stack(attached: Lab) -> None:
    forwarded = attached.forwarded("node1")
    attached.ns.ip(attached.names["node1"], "route replace 10.31.2.0/24 via inet6 fd31::2 dev wire0")
    try:
        assert " 0% packet loss" in attached.ping("pod1", PODS["pod3"].v4)
    finally:
        attached.ns.ip(attached.names["node1"], "route replace 10.31.2.0/24 via 172.31.0.2")
    assert attached.forwarded("node1") == forwarded


def test_frames_for_other_destinations_pass_to_the_stack(attached: Lab) -> None:
    """VLAN frames, frames for another MAC address and truncated frames are not redirected."""
    mac = re.findall(
        r"link/ether (\S+)", attached.ns.run(attached.names["node1"], "ip", "link", "show", "wire0")
    )[0]
    to_node = bytes.fromhex(mac.replace(":", ""))
    source = bytes.fromhex("020000000099")
    packet = bytes.fromhex("4500001c00000000401100000a1f020b0a1f010b0035003500080000")
    assert socket.inet_ntoa(packet[16:20]) == PODS["pod1"].v4
    before = attached.metrics("node1")
    with attached.ns.inside(attached.names["node2"]), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("wire0", 0))
        raw.send(to_node + source + bytes.fromhex("81000064" + "0800") + packet)
        raw.send(bytes.fromhex("0200000000aa") + source + bytes.fromhex("0800") + packet)
        raw.send(to_node + source + bytes.fromhex("0800") + packet)
        raw.send(to_node + source + bytes.fromhex("0800") + packet[:19])
        raw.send(to_node + source + bytes.fromhex("86dd6000000000001140"))
    after = attached.metrics("node1")
    new = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    new.pop("STACK_LINK_SCOPE", None)  # neighbour discovery of the nodes
    assert new == {"STACK_VLAN": 1, "STACK_OTHERHOST": 1, "INBOUND": 1, "STACK_MALFORMED": 2}


def test_detaching_restores_the_hooks(lab: Lab) -> None:
    def hooks() -> str:
        return "".join(
            lab.ns.run(lab.names[node], *words)
            for node in lab.pins
            for words in (("tc", "qdisc", "show"), ("bpftool", "net", "show"))
        )

    lab.hook_type = "clsact"
    before = hooks()
    lab.attach()
    assert hooks() != before
    assert all(result["changed"] for result in lab.detach())
    assert hooks() == before
    assert not any(os.path.exists(pins) for pins in lab.pins.values())
    # the devices are down: without programs, veth would forward what policy forbids
    assert "100% packet loss" in lab.ping("pod1", PODS["pod3"].v4)
    assert not any(result["changed"] for result in lab.detach())


def test_program_replacement_under_traffic_loses_no_packet(lab: Lab) -> None:
    """No packet of a flood is lost; maps and counters stay."""
    lab.attach()
    ping = threading.Thread(
        target=lambda: outputs.append(
            lab.ns.run(
                lab.names["pod1"],
                *("ping", "-q", "-n", "-i", "0.001", "-c", "1500", "-W", "1", PODS["pod3"].v4),
                check=False,
            )
        )
    )
    outputs: list[str] = []
    ping.start()
    for value in (1, 2, 1, 2):
        results = lab.attach(rodata={"reason_max": value})
        assert all("replace program pod_egress" in result["changes"] for result in results)
        assert not any("map" in change for result in results for change in result["changes"])
    ping.join()
    assert "1500 received, 0% packet loss" in outputs[0], outputs[0]
    assert lab.metrics("node1")["REMOTE"] >= 1499  # the first packet resolves the neighbour
