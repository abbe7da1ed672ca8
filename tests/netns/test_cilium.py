# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What cilium_info reads of a node, and what cilium_probe verifies, on pairs of devices without Cilium."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import devices, verify
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netlink

BIG, LEGACY = 196608, 65536
SIZES = (41, 58, 63, 64)  # IFLA_GSO_MAX_SIZE, IFLA_GRO_MAX_SIZE, and those of IPv4
EXPECTED = {"host_routing": "bpf", "device_mode": "veth", "big_tcp": "enabled", "bbr": "disabled"}
SIZE = 16 * 1024 * 1024


class Hosts:
    """A host that forwards between two Pods and another node."""

    def __init__(self, namespaces: Any) -> None:
        self.namespaces = namespaces
        self.host, self.pods = namespaces("host"), [namespaces("pod1"), namespaces("pod2")]
        self.other = namespaces("other")
        for number, name in enumerate([*self.pods, self.other], 1):
            namespaces.ip(
                name,
                f"link add eth0 type veth peer name lxc{number} netns {self.host}",
                f"address add 10.9.{number}.1/24 dev eth0",
                "link set eth0 up",
                f"route add default via 10.9.{number}.254",
            )
            namespaces.ip(
                self.host, f"address add 10.9.{number}.254/24 dev lxc{number}", f"link set lxc{number} up"
            )
        namespaces.sysctl(self.host, ipv4__ip_forward=1)

    def resize(self, size: int) -> None:
        """Set the GSO and GRO sizes of all devices."""
        for number, name in enumerate([*self.pods, self.other], 1):
            for where, device in ((name, "eth0"), (self.host, f"lxc{number}")):
                with self.namespaces.inside(where), netlink.Socket(netlink.NETLINK_ROUTE) as rtnl:
                    index = socket.if_nametoindex(device)
                    # ip(8) of Debian 12 cannot set the sizes of IPv4.
                    values = b"".join(netlink.attribute(one, struct.pack("=I", size)) for one in SIZES)
                    message = struct.pack("=BxHiII", 0, 0, index, 0, 0) + values
                    rtnl.request(message, netlink.RTM_SETLINK)

    def endpoints(self) -> list[dict[str, Any]]:
        return [
            {
                "namespace": "default",
                "name": f"pod{number}",
                "state": "ready",
                "device": f"lxc{number}",
                "container_device": "eth0",
                "addresses": [f"10.9.{number}.1"],
            }
            for number in (1, 2)
        ]

    def measure(self, peers: list[str]) -> dict[str, Any]:
        with self.namespaces.inside(self.host):
            pods = verify.find(self.endpoints(), ["default/pod1", "default/pod2"])
            return verify.measure(pods, peers, SIZE)


@pytest.fixture(scope="module")
def hosts(module_namespaces: Any) -> Iterator[Hosts]:
    yield Hosts(module_namespaces)


def test_big_tcp_is_observed(hosts: Hosts) -> None:
    hosts.resize(BIG)
    found = hosts.measure([])
    assert found["kinds"] == {"default/pod1": "veth", "default/pod2": "veth"}
    assert found["gso_max_size"] == found["gso_ipv4_max_size"] == BIG
    (stream,) = found["streams"]
    assert LEGACY < stream["largest_packet"] <= BIG, stream
    assert verify.problems(found, EXPECTED) == []


def test_legacy_sizes_are_reported(hosts: Hosts) -> None:
    hosts.resize(LEGACY)
    found = hosts.measure([])
    assert 1500 < found["streams"][0]["largest_packet"] <= LEGACY
    problems = verify.problems(found, EXPECTED)
    assert "gso_ipv4_max_size in a Pod is 65536, which is no BIG TCP" in problems
    assert any("the largest packet of a transfer to 10.9.2.1 had" in one for one in problems)
    assert verify.problems(found, {**EXPECTED, "big_tcp": "disabled"}) == []


def test_forwarded_packets_are_reported(hosts: Hosts) -> None:
    """The host of this test forwards in its upper stack, as Cilium with legacy host routing does."""
    found = hosts.measure(["10.9.3.1"])
    assert found["sent"] == found["received"] == verify.ECHO_REQUESTS
    assert found["forwarded"] >= found["sent"]
    expected = {**EXPECTED, "big_tcp": "disabled"}
    (problem,) = verify.problems(found, expected)
    assert problem.startswith(f"the upper stack forwarded {found['forwarded']} packets")
    assert verify.problems(found, {**expected, "host_routing": "legacy"}) == []


def test_other_device_and_congestion_control_are_reported(hosts: Hosts) -> None:
    found = hosts.measure([])
    expected = {"device_mode": "netkit", "bbr": "enabled"}
    problems = verify.problems({**found, "congestion_control": "cubic"}, expected)
    assert problems == [
        "default/pod1, default/pod2 have devices of kind veth instead of netkit",
        "the Pods' congestion control is cubic instead of bbr",
    ]


def test_pod_without_endpoint_is_reported(hosts: Hosts) -> None:
    with hosts.namespaces.inside(hosts.host):
        with pytest.raises(Problem, match="default/other has no ready endpoint on this node"):
            verify.find(hosts.endpoints(), ["default/other"])
        waiting = [{**one, "state": "waiting-for-identity"} for one in hosts.endpoints()]
        with pytest.raises(Problem, match="waiting-for-identity"):
            verify.find(waiting, ["default/pod1"])


def test_support_of_the_running_kernel(hosts: Hosts) -> None:
    with hosts.namespaces.inside(hosts.host):
        found = devices.support(["lxc1", "lxc2"])
        assert found["kernel"] == os.uname().release and found["gso_limit"] > LEGACY
        assert found["ipv4_big_tcp"] and found["ipv6_big_tcp"]
        assert devices.support([])["gso_limit"] == 0
        endpoints = devices.add_kinds([*hosts.endpoints(), {"device": "gone"}], devices.read())
        assert devices.by_kind(endpoints) == {"veth": 2}
