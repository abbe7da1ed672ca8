# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Pod with all capabilities in its namespace cannot bypass the pair's programs or reach the host."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from tests.support import driver_node as node
from tests.support.driver_node import Action, Meta, Programs, Rtnl, attribute, run, s32, text, u16, u32
from tests.support.driver_topology import POD1, Topology, check, refusal, send

SOL_PACKET, PACKET_VNET_HDR, PACKET_QDISC_BYPASS = 263, 15, 20
FRAME = (
    b"\xff" * 6 + b"\2\0\0\0\0\x10" + b"\x88\xb5" + bytes(50)
)  # broadcast, EtherType for local experiments


@check
def pod_cannot_change_the_pair(topology: Topology) -> None:
    """Root in the Pod cannot change the pair and does not see its programs."""
    topology.pods()
    before = topology.rtnl.get("p1").info
    with Rtnl(topology.pod1) as pod:
        for request in (
            [u32(Meta.POLICY, Meta.PASS)],
            [u32(Meta.PEER_POLICY, Meta.PASS)],
            [s32(Meta.PROG_FD, -1)],
            [s32(Meta.PEER_PROG_FD, -1)],
            [s32(Meta.PEER_PROG_FD, topology.programs.fd("from_pod"))],
            [u32(Meta.SCRUB, 0)],
            [u32(Meta.MODE, 0)],
            [u16(Meta.HEADROOM, 100)],
            [u32(Meta.PEER_POLICY, Meta.PASS), s32(Meta.PROG_FD, -1), s32(Meta.PEER_PROG_FD, -1)],
            [],
        ):
            with refusal(errno.EACCES, "attributes can be changed only through the primary"):
                pod.change("eth0", *request)
        with refusal(errno.EOPNOTSUPP):  # a MAC address in L3 mode
            pod.link_request(node.RTM_NEWLINK, 0, "eth0", attribute(node.IFLA_ADDRESS, b"\2\0\0\0\0\1"))
        # The same requests with other flags, kinds and message types.
        policy = attribute(node.IFLA_INFO_DATA, u32(Meta.PEER_POLICY, Meta.PASS), s32(Meta.PROG_FD, -1))
        for kind, flags, number in (
            ("meta", node.NLM_F_CREATE, errno.EACCES),
            ("meta", node.NLM_F_REPLACE, errno.EOPNOTSUPP),
            ("meta", node.NLM_F_CREATE | node.NLM_F_REPLACE, errno.EOPNOTSUPP),
            ("meta", node.NLM_F_CREATE | node.NLM_F_EXCL, errno.EEXIST),
            ("veth", node.NLM_F_CREATE, errno.EOPNOTSUPP),
            ("dummy", node.NLM_F_CREATE | node.NLM_F_REPLACE, errno.EOPNOTSUPP),
        ):
            linkinfo = attribute(node.IFLA_LINKINFO, text(node.IFLA_INFO_KIND, kind), policy)
            with refusal(number):
                pod.link_request(node.RTM_NEWLINK, flags, "eth0", linkinfo)
        linkinfo = attribute(node.IFLA_LINKINFO, text(node.IFLA_INFO_KIND, "meta"), policy)
        pod.link_request(node.RTM_SETLINK, 0, "eth0", linkinfo)  # RTM_SETLINK ignores IFLA_INFO_DATA
        info = pod.get("eth0").info
    for program in (Meta.PROG_ID, Meta.PEER_PROG_ID, Meta.PROG_TAG, Meta.PEER_PROG_TAG):
        assert program not in info
    # What the Pod may change does not bypass the program: flags, qdiscs, PACKET_QDISC_BYPASS.
    topology.set_ipv6(False)
    run("tc", "-n", "pod1", "qdisc", "add", "dev", "eth0", "root", "pfifo")
    states = ("arp on", "promisc on", "allmulticast on", "down", "up")
    topology.ip(topology.pod1, *(f"link set eth0 {state}" for state in states))
    topology.programs.clear_records()
    with topology.pod1.raw() as raw:
        raw.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        raw.sendto(
            bytes(12) + b"\x08\x00" + bytes(40), ("eth0", 0x86DD)
        )  # an IPv4 packet with the EtherType of IPv6
    record = topology.programs.record(Programs.FROM_POD)
    assert (record["packets"], record["protocol"]) == (1, socket.htons(0x0800)), record
    assert topology.rtnl.get("p1").info == before


@check
def pod_has_no_netns_id_of_the_host(topology: Topology) -> None:
    """The Pod has no nsid of the host's namespace, with which CAP_NET_ADMIN would reach the host's links."""
    topology.pods()
    assert node.IFLA_LINK_NETNSID in topology.rtnl.get("p1").attributes  # the host has an nsid of the Pod
    with Rtnl(topology.pod1) as pod:
        assert node.IFLA_LINK_NETNSID not in pod.get("eth0").attributes
        for number in range(20):
            target = s32(node.IFLA_TARGET_NETNSID, number)
            for kind, name in (
                (node.RTM_GETLINK, "p1"),
                (node.RTM_DELLINK, "p1"),
                (node.RTM_NEWLINK, "eth0"),
            ):
                with refusal(errno.EINVAL):
                    pod.link_request(kind, 0, name, target)
    # The same request succeeds with an nsid, which the host has of the Pod's namespace.
    number = struct.unpack("=i", topology.rtnl.get("p1").attributes[node.IFLA_LINK_NETNSID])[0]
    topology.rtnl.link_request(node.RTM_GETLINK, 0, "eth0", s32(node.IFLA_TARGET_NETNSID, number))
    topology.rtnl.link_request(node.RTM_DELLINK, 0, "eth0", s32(node.IFLA_TARGET_NETNSID, number))
    assert "p1" not in topology.rtnl.names()


class Attempts:
    """Devices that root in pod1 creates, and attempts to send a frame that bypasses the program of eth0."""

    def __init__(self, topology: Topology) -> None:
        self.topology, self.pod = topology, topology.pod1
        topology.ip(
            self.pod,
            "link add inner type veth peer name outer",
            "link add link eth0 name tagged address 02:00:00:00:00:11 type vlan id 5",
            "link add link eth0 name macv type macvlan mode bridge",
            "link add br0 type bridge",
            *(f"link set {name} up" for name in ("inner", "outer", "tagged", "macv", "br0")),
        )
        topology.attach_ingress(self.pod, "outer")
        with Rtnl(self.pod) as pod:
            self.outer, self.eth0 = pod.get("outer").index, pod.get("eth0").index

    def raw(self, device: str, *options: int, before: bytes = b"") -> None:
        with self.pod.raw() as raw:
            for option in options:
                raw.setsockopt(SOL_PACKET, option, 1)
            with contextlib.suppress(OSError):  # a drop is reported as ENOBUFS
                raw.sendto(before + FRAME, (device, 0x88B5))

    def redirected(self, how: int) -> None:
        """Redirect a frame to the Pod's end by a program at a tc ingress hook of the Pod."""
        self.topology.set_action("ingress", self.outer, how, self.eth0)
        self.raw("inner")

    def bounced(self) -> None:
        """Send received packets back by XDP_TX at the Pod's end."""
        ifla_xdp_fd, ifla_xdp_flags, xdp_flags_skb_mode = 1, 3, 2
        flags = u32(ifla_xdp_flags, xdp_flags_skb_mode)
        record = self.topology.programs.record
        with Rtnl(self.pod) as pod, self.topology.host.udp() as udp:
            for fd in (self.topology.programs.fd("xdp_tx"), -1):
                xdp = attribute(node.IFLA_XDP, s32(ifla_xdp_fd, fd), flags)
                pod.link_request(node.RTM_SETLINK, 0, "eth0", xdp)
                if fd >= 0:
                    send(udp, POD1)
                    node.wait_until(lambda: record(Programs.FROM_POD)["packets"], "a packet bounced")

    def bridged(self) -> None:
        self.topology.ip(self.pod, "link del macv", "link set eth0 master br0")
        ports = ("bridge", "-n", self.pod.name, "link")
        node.wait_until(lambda: "forwarding" in run(*ports), "a port that forwards")
        self.raw("br0")
        self.topology.ip(self.pod, "link set eth0 nomaster")


def try_to_bypass(topology: Topology, mode: int) -> None:
    """Assert that the program processes and drops every frame that the Pod sends, through any device."""
    one, dummy = topology.pods(mode=mode)
    topology.set_action("from_pod", one, Action.VERDICT, Meta.DROP)
    topology.set_ipv6(False)
    attempts = Attempts(topology)

    def received() -> list[int]:
        return [topology.rtnl.get(primary).stats["rx_packets"] for primary in ("p1", "p2")]

    def recorded(program: int) -> int:
        return topology.programs.record(program)["packets"]

    before = received()
    for name, attempt in {
        "raw": lambda: attempts.raw("eth0"),
        "qdisc bypass": lambda: attempts.raw("eth0", PACKET_QDISC_BYPASS),
        "with offloads": lambda: attempts.raw("eth0", PACKET_VNET_HDR, before=bytes(10)),
        "VLAN": lambda: attempts.raw("tagged"),
        "macvlan": lambda: attempts.raw("macv"),
        "tc redirect": lambda: attempts.redirected(Action.REDIRECT),
        "XDP": attempts.bounced,
        # A bridge port needs a MAC address.
        **({"bridge": attempts.bridged} if mode == Meta.L2 else {}),
    }.items():
        topology.programs.clear_records()
        attempt()
        assert recorded(Programs.FROM_POD) >= 1, f"{name}: the program did not see it"
        assert received() == before, f"{name}: {before} {received()}"
    # bpf_redirect_peer() to the Pod's end would lead into the host's namespace.
    topology.programs.clear_records()
    attempts.redirected(Action.REDIRECT_PEER)
    assert recorded(Programs.INGRESS) == 1
    assert received() == before, "bpf_redirect_peer()"

    # The program also sees frames after the Pod has moved its end to another of its namespaces.
    topology.ip(topology.pod1, "link set eth0 down", "link set eth0 name moved", "link set moved netns far")
    topology.ip(topology.far, "link set moved up")
    with topology.far.raw() as raw, Rtnl(topology.far) as far:

        def seen() -> bool:
            with contextlib.suppress(OSError):
                raw.sendto(FRAME, ("moved", 0x88B5))
            return recorded(Programs.FROM_POD) >= 1

        node.wait_until(seen, "a frame from the namespace it was moved to")
        with refusal(errno.EACCES, "only through the primary"):
            far.change("moved", u32(Meta.PEER_POLICY, Meta.PASS))
    assert received() == before, "moved"


@check
def pod_cannot_bypass_its_program_in_l3_mode(topology: Topology) -> None:
    """Raw sockets, VLANs, macvlans, tc, XDP and another namespace all pass the program."""
    try_to_bypass(topology, Meta.L3)


@check
def pod_cannot_bypass_its_program_in_l2_mode(topology: Topology) -> None:
    """The same with MAC addresses, and a bridge."""
    try_to_bypass(topology, Meta.L2)


@check
def pair_created_by_pod_stays_in_its_namespace(topology: Topology) -> None:
    """The Pod can delete its link and create pairs, which stay in its namespace."""
    topology.pods()
    before = set(topology.rtnl.names())
    with Rtnl(topology.pod1) as pod:
        pod.delete("eth0")
        assert set(topology.rtnl.names()) == before - {"p1"}
        pod.create("eth0", u32(Meta.POLICY, Meta.PASS), peer=text(node.IFLA_IFNAME, "p1"))
        assert {"eth0", "p1"} <= set(pod.names())
    assert set(topology.rtnl.names()) == before - {"p1"}


@check
def user_namespace_capabilities_do_not_reach_the_host(topology: Topology) -> None:
    """Capabilities of a user namespace apply to its network namespace only, not to the host's devices."""

    def try_it() -> None:
        node.enter_user_namespace()
        with Rtnl() as rtnl:
            rtnl.create("own", u32(Meta.POLICY, Meta.PASS), peer=text(node.IFLA_IFNAME, "other"))
            with refusal(errno.EPERM):
                to_host = s32(node.IFLA_NET_NS_FD, topology.host.fd)
                rtnl.create("new", peer=text(node.IFLA_IFNAME, "evil") + to_host)
            assert sorted(rtnl.names()) == ["lo", "other", "own"], rtnl.names()
        # The same holds for sockets that the process opened before or received.
        for number in (node.RTM_NEWLINK, node.RTM_DELLINK):
            with refusal(errno.EPERM):
                topology.rtnl.link_request(number, 0, "p1")

    topology.pods()
    before = topology.rtnl.names(), topology.rtnl.get("p1").info
    node.run_in_child(try_it)
    assert (topology.rtnl.names(), topology.rtnl.get("p1").info) == before


@check
def unprivileged_requests_are_refused(topology: Topology) -> None:
    """A user without capabilities can change nothing, on the host or in the Pod."""
    topology.pods()
    before = topology.rtnl.get("p1").info

    def try_it() -> None:
        os.setgroups([])
        os.setuid(65534)
        with refusal(errno.EPERM):
            pod.change("eth0", u32(Meta.POLICY, Meta.PASS))
        with refusal(errno.EPERM):
            topology.rtnl.change("p1", s32(Meta.PEER_PROG_FD, -1))
        with refusal(errno.EPERM):
            topology.rtnl.create("new")

    with Rtnl(topology.pod1) as pod:
        node.run_in_child(try_it)
    assert topology.rtnl.get("p1").info == before and "new" not in topology.rtnl.names()
