# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Pod with root in its namespace can do: nothing to the node, to other Pods, or past its programs."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import info
from tests.netns.bpf_node import Node
from tests.netns.pod_bench import HOST, Bench, Flood, pods_node

DENY_HOST = {
    "name": "closed",
    "pods": {"labels": {"app": "closed"}},
    "egress": [{"to": [{"host": True}], "action": "deny"}],
    "optional": True,
}
ALLOW = {**DENY_HOST, "egress": [{}]}


@pytest.fixture
def bench(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield from pods_node(node, tmp_path, monkeypatch)


# Programs before packets


@pytest.mark.parametrize("policy", [DENY_HOST, ALLOW])
def test_a_device_that_was_created_down_forwards_nothing_without_programs(
    bench: Bench, policy: dict[str, Any]
) -> None:
    netns = bench.node.ns("pod")
    pod = {"name": netns, "netns": netns, "host_interface": "pod0", "addresses": ["10.77.0.9/32"]}
    device = {"owner": f"{bench.owner}-x", "driver": "veth", "pods": [pod]}
    entry = {"name": netns, "device": "pod0", "addresses": ["10.77.0.9"], "labels": {"app": "closed"}}
    node = bench.node

    def meta_device(**options: Any) -> Any:
        return node._run_module("meta_device", {**device, **options}, netns=node.name)

    with Flood(bench, netns) as flood:
        assert meta_device(up=False)["changed"] and not meta_device(up=False)["changed"]
        time.sleep(0.2)
        node.attach("pod_egress pod0 from_pod", "pod_ingress pod0 to_pod")
        node.module("bpf_state", endpoints=[entry], policies=[policy])
        assert not flood.sent
        assert meta_device()["changed"] and not meta_device()["changed"]
    assert flood.sent and bool(flood.received) == (policy is ALLOW), (flood.sent, flood.received)
    node.module("bpf_state", endpoints=[])


def test_no_packet_passes_while_programs_are_detached_and_attached_again(bench: Bench) -> None:
    netns = bench.node.ns("pod")
    closed = bench.pod("a", 1, netns=netns, labels={"app": "closed"})
    bench.ensure(closed, policies=[DENY_HOST])
    with Flood(bench, netns) as flood:
        bench.node.attach(state="absent")
        time.sleep(0.2)
        bench.node.attach()
        bench.ensure(closed, policies=[DENY_HOST])
        time.sleep(0.2)
        assert not bench.ensure(closed, policies=[DENY_HOST]).changed
    assert flood.sent > 100 and not flood.received, (flood.sent, flood.received)
    with Flood(bench, netns) as flood:
        bench.ensure(closed, policies=[ALLOW])
    assert flood.received


def test_no_packet_passes_after_a_failure(bench: Bench) -> None:
    """Pod a gets a new device, and then Pod b is refused: the former device has no programs yet."""
    netns = bench.node.ns("pod")
    closed = bench.pod("a", 1, netns=netns, labels={"app": "closed"})
    bench.ensure(closed, policies=[DENY_HOST])
    with Flood(bench, netns) as flood:
        bench.node.ns.sysctl(bench.node.name, ipv6__conf__default__disable_ipv6=1)
        moved = bench.pod("a", 1, netns=netns, labels={"app": "closed"}, host_interface="other0")
        with pytest.raises(Problem, match="The former state was restored"):
            bench.ensure(moved, bench.pod("b", 2), policies=[DENY_HOST])
        time.sleep(0.2)
        bench.node.ns.sysctl(bench.node.name, ipv6__conf__default__disable_ipv6=0)
        bench.ensure(closed, policies=[DENY_HOST])
    assert flood.sent and not flood.received, (flood.sent, flood.received)


# Contents of a Pod's namespace


class Hostile:
    """A process with root in Pod a's namespace."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.netns = bench, f"{bench.owner}-a"

    def ip(self, *lines: str) -> None:
        self.bench.node.ns.ip(self.netns, *lines)

    def route(self) -> None:
        self.ip(
            "link add d0 type veth peer name d1",
            "link set d0 up",
            "route del default",
            "route add default dev d0",
            "route del ::/0",
            "route add ::/0 dev d0 metric 1024",
        )

    def rename(self) -> None:
        self.ip("link set eth0 down", "link set eth0 name x0")

    def decoy(self) -> None:
        self.ip(
            "link set eth0 down",
            "link set eth0 name x0",
            "link add eth0 type veth peer name d1",
            "link set eth0 up",
        )

    def altname(self) -> None:
        self.ip("link set eth0 down", "link set eth0 name x0", "link property add dev lo altname eth0")

    def move(self) -> None:
        child = self.bench.node.ns("child")
        self.ip(f"link set eth0 netns {child}", "link add eth0 type veth peer name d1")

    def delete(self) -> None:
        self.ip("link del eth0", "link add eth0 type veth peer name d1")

    def many_routes(self) -> None:
        lines = [
            f"route add 10.{n >> 14}.{n >> 7 & 127}.{n & 127} dev eth0 proto 112" for n in range(1, 15000)
        ]
        self.ip(*lines, *(f"route add fd00::{n:x} dev lo" for n in range(1, 15000)))

    def many_addresses(self) -> None:
        self.ip(*(f"address add 10.1.{n >> 7}.{n & 127}/32 dev eth0" for n in range(1, 5000)))

    def many_interfaces(self) -> None:
        self.ip("link del eth0", "link add eth0 type veth", *("link add type veth" for dummy in range(50)))

    def names_in_no_encoding(self) -> None:
        words: list[str | bytes] = ["nsenter", f"--net=/run/netns/{self.netns}", "ip", "link"]
        subprocess.run([*words, "add", "name", b"\xff\xfe", "type", "veth"], check=True)
        subprocess.run([*words, "set", "eth0", "down"], check=True)
        subprocess.run([*words, "set", "eth0", "name", b"\xfe\xff"], check=True)

    def without_ipv6(self) -> None:
        self.bench.node.ns.sysctl(self.netns, ipv6__conf__all__disable_ipv6=1)

    def impersonate(self) -> None:
        """Make a device with the indexes of Pod c's end, whose peer has those of its host's end."""
        (inner,) = self.bench.links(f"{self.bench.owner}-c", "eth0")
        child = self.bench.node.ns("child")
        self.ip(
            "link del eth0",
            f"link add bait index {inner['ifindex']} type veth peer name bait index {inner['link_index']}"
            f" netns {child}",
        )


@pytest.mark.parametrize(
    "attack",
    [
        Hostile.route,
        Hostile.rename,
        Hostile.decoy,
        Hostile.altname,
        Hostile.move,
        Hostile.delete,
        Hostile.many_routes,
        Hostile.many_addresses,
        Hostile.many_interfaces,
        Hostile.names_in_no_encoding,
        Hostile.without_ipv6,
        Hostile.impersonate,
    ],
    ids=lambda attack: attack.__name__,
)
def test_a_pod_does_not_make_the_call_fail_for_others(
    bench: Bench, attack: Callable[[Hostile], None]
) -> None:
    labels = {"app": "closed"}
    hostile, victim = bench.pod("a", 1, labels=labels), bench.pod("c", 3)
    bench.ensure(hostile, victim, policies=[DENY_HOST])
    (before,) = bench.links(f"{bench.owner}-c", "eth0")
    attack(Hostile(bench))
    started = time.monotonic()
    done = bench.ensure(hostile, victim, bench.pod("b", 2), policies=[DENY_HOST])
    duration = time.monotonic() - started
    assert bench.pings("b", HOST) and bench.pings("b", "10.77.0.3") and bench.pings("c", "fd77::2")
    assert not bench.pings("a", HOST), "the policy of Pod a does not apply"
    assert bench.links(f"{bench.owner}-c", "eth0") == [before], "Pod c got a new device"
    assert all(f"Pod {bench.owner}-a: its device stays as it is" in text for text in done.warnings)
    assert duration < 60, duration
    # A later call, a removal of other Pods, and the removal of this Pod work as well.
    bench.ensure(hostile, victim, policies=[DENY_HOST])
    bench.remove("a", "c")
    assert bench.pinned() == []


# Messages of routers


def send_advertisement() -> None:
    """Send a router advertisement for a default route from eth0."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sender.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0), ("ff02::1", 0))


def test_a_pod_is_no_router_of_the_node(bench: Bench, namespaces: Any, run_module: Any) -> None:
    """Without programs, which drop the advertisement as well."""
    node = namespaces("node")
    namespaces.sysctl(
        node,
        ipv6__conf__all__forwarding=1,
        ipv6__conf__default__accept_ra=2,
        ipv6__conf__default__accept_redirects=1,
        ipv4__conf__default__accept_redirects=1,
    )
    netns = namespaces("pod")
    pod = {"name": netns, "netns": netns, "host_interface": "pod0", "addresses": ["fd77::9/128"]}
    run_module("meta_device", {"owner": f"{bench.owner}-x", "driver": "veth", "pods": [pod]}, netns=node)
    names = "ipv6.conf.pod0.accept_ra", "ipv6.conf.pod0.accept_redirects", "ipv4.conf.pod0.accept_redirects"
    assert namespaces.run(node, "sysctl", "-n", *(f"net.{name}" for name in names)).split() == ["0"] * 3

    def default_route() -> bool:
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            # The link-local address may be tentative.
            with namespaces.inside(netns), contextlib.suppress(OSError):
                send_advertisement()
            if namespaces.run(node, "ip", "-6", "route", "show", "default"):
                return True
            time.sleep(0.1)
        return False

    assert not default_route()
    namespaces.sysctl(node, ipv6__conf__pod0__accept_ra=2)
    assert default_route(), "the advertisement is invalid"


# Neighbours


def test_a_pod_fills_no_neighbour_table(bench: Bench, namespaces: Any, run_module: Any) -> None:
    """All namespaces share the limit of the kernel's tables, where failed entries make way for others."""
    node, netns = namespaces("node"), namespaces("pod")
    addresses = ["10.77.0.9/32", "fd77::9/128"]
    pod = {"name": netns, "netns": netns, "host_interface": "pod0", "addresses": addresses}
    run_module("meta_device", {"owner": f"{bench.owner}-x", "driver": "veth", "pods": [pod]}, netns=node)
    with namespaces.inside(netns):
        index = socket.if_nametoindex("eth0")
        four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    with four, six:
        # neither needs a privilege, nor does this option
        four.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        for number in range(1, 9):
            with contextlib.suppress(OSError):
                four.sendto(b"?", socket.MSG_DONTROUTE, (f"198.51.100.{number}", 9))
            with contextlib.suppress(OSError):
                six.sendto(b"?", (f"fe80::{number}:9", 9, 0, index))
    for family in ("-4", "-6"):
        words = "neigh", "show", "nud", "all", "dev", "eth0"
        shown = json.loads(namespaces.run(netns, "ip", "-j", family, *words))
        states = {tuple(entry["state"]) for entry in shown}
        assert ("PERMANENT",) in states and ("FAILED",) in states
        assert states <= {("PERMANENT",), ("FAILED",), ("NOARP",)}


# Services


def test_a_service_without_pods_does_not_leak(bench: Bench) -> None:
    """Its packets are dropped instead of following the node's default route."""
    vip, node = "10.96.0.1", bench.node
    node.ns.ip(
        node.name,
        "link set left up",
        "link set right up",
        "route add default dev left",
        f"neighbour add {vip} lladdr 02:00:00:00:00:01 dev left nud permanent",
    )
    service = {"name": "web", "address": vip, "port": 80, "protocol": "UDP"}
    service["backends"] = [{"labels": {"app": "none"}}]
    with node.ns.inside(node.name):
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    wire.bind(("right", 0x0800))
    wire.settimeout(0.5)

    def leaks() -> bool:
        with node.ns.inside(f"{bench.owner}-a"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for dummy in range(5):
                client.sendto(b"packet", (vip, 80))
        found = False
        with contextlib.suppress(TimeoutError):
            while True:
                found |= wire.recv(2048)[16:20] == socket.inet_aton(vip)
        return found

    with wire:
        for services, leak in (((), True), ((service,), False)):
            done = bench.ensure(bench.pod("a", 1), services=list(services))
            assert leaks() == leak
    (warning,) = done.warnings
    assert "services (web): none of its 0 backends has a weight above 0" in warning
    with node.ns.inside(node.name):
        (pod,) = info.gather(node.pins)["pods"]
    dropped = [count for reason, count in pod["packets"]["egress"].items() if "backend" in reason.lower()]
    assert dropped == [5], pod["packets"]
