# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Pod, with all its capabilities, cannot do."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct

from tests.support import driver_node as node
from tests.support.driver_node import How, Meta, Programs, Rtnl, attribute, run, s32, text, u16, u32
from tests.support.driver_topology import POD1, Topology, check, refusal, send

SOL_PACKET, PACKET_VNET_HDR, PACKET_QDISC_BYPASS = 263, 15, 20
FRAME = b"\xff" * 6 + b"\2\0\0\0\0\x10" + b"\x88\xb5" + bytes(50)  # broadcast, of a local experiment


@check
def the_pod_changes_nothing(topology: Topology) -> None:
    """Root in the Pod's namespace is refused every change of the pair, and is not told of programs."""
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
        # The same under other names: replaced, made anew, made another kind's, set.
        policy = attribute(node.IFLA_INFO_DATA, u32(Meta.PEER_POLICY, Meta.PASS), s32(Meta.PROG_FD, -1))
        for kind, flags, number in (
            ("meta", node.NLM_F_CREATE, errno.EACCES),
            ("meta", node.NLM_F_REPLACE, errno.EOPNOTSUPP),
            ("meta", node.NLM_F_CREATE | node.NLM_F_REPLACE, errno.EOPNOTSUPP),
            ("meta", node.NLM_F_CREATE | node.NLM_F_EXCL, errno.EEXIST),
            ("veth", node.NLM_F_CREATE, errno.EOPNOTSUPP),
            ("dummy", node.NLM_F_CREATE | node.NLM_F_REPLACE, errno.EOPNOTSUPP),
        ):
            info = attribute(node.IFLA_LINKINFO, text(node.IFLA_INFO_KIND, kind), policy)
            with refusal(number):
                pod.link_request(node.RTM_NEWLINK, flags, "eth0", info)
        info = attribute(node.IFLA_LINKINFO, text(node.IFLA_INFO_KIND, "meta"), policy)
        pod.link_request(node.RTM_SETLINK, 0, "eth0", info)  # which the kernel does not look at
        info = pod.get("eth0").info
    for kind in (Meta.PROG_ID, Meta.PEER_PROG_ID, Meta.PROG_TAG, Meta.PEER_PROG_TAG):
        assert kind not in info
    # Nor gets it past the program by what it may do: flags, queues, raw sockets past the queue.
    topology.quiet()
    run("tc", "-n", "pod1", "qdisc", "add", "dev", "eth0", "root", "pfifo")
    flags = ("arp on", "promisc on", "allmulticast on", "down", "up")
    topology.ip(topology.pod1, *(f"link set eth0 {flag}" for flag in flags))
    topology.programs.forget()
    with topology.pod1.raw() as raw:
        raw.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        raw.sendto(bytes(12) + b"\x08\x00" + bytes(40), ("eth0", 0x86DD))  # IPv4, called IPv6
    note = topology.programs.note(Programs.FROM_POD)
    assert (note["packets"], note["protocol"]) == (1, socket.htons(0x0800)), note
    assert topology.rtnl.get("p1").info == before


@check
def the_pod_has_no_handle_on_the_host(topology: Topology) -> None:
    """No id of the host's namespace gets to the Pod's, by which CAP_NET_ADMIN would reach its links."""
    topology.pods()
    assert node.IFLA_LINK_NETNSID in topology.rtnl.get("p1").attributes  # the host knows where the Pod is
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
    # With an id, as the host has one of the Pod's namespace, the same request has its way.
    number = struct.unpack("=i", topology.rtnl.get("p1").attributes[node.IFLA_LINK_NETNSID])[0]
    topology.rtnl.link_request(node.RTM_GETLINK, 0, "eth0", s32(node.IFLA_TARGET_NETNSID, number))
    topology.rtnl.link_request(node.RTM_DELLINK, 0, "eth0", s32(node.IFLA_TARGET_NETNSID, number))
    assert "p1" not in topology.rtnl.names()


class Attempts:
    """What root in pod1 builds upon eth0 and does with frames; every attempt sends at least one."""

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
            with contextlib.suppress(OSError):  # a drop comes back as ENOBUFS
                raw.sendto(before + FRAME, (device, 0x88B5))

    def redirected(self, how: int) -> None:
        """Have a program at a tc ingress of the Pod's send it to the Pod's end."""
        self.topology.tell("ingress", self.outer, how, self.eth0)
        self.raw("inner")

    def bounced(self) -> None:
        """Have the Pod's end return what it receives: XDP_TX."""
        ifla_xdp_fd, ifla_xdp_flags, xdp_flags_skb_mode = 1, 3, 2
        flags = u32(ifla_xdp_flags, xdp_flags_skb_mode)
        note = self.topology.programs.note
        with Rtnl(self.pod) as pod, self.topology.host.udp() as udp:
            for fd in (self.topology.programs.fd("xdp_tx"), -1):
                xdp = attribute(node.IFLA_XDP, s32(ifla_xdp_fd, fd), flags)
                pod.link_request(node.RTM_SETLINK, 0, "eth0", xdp)
                if fd >= 0:
                    send(udp, POD1)
                    node.eventually(lambda: note(Programs.FROM_POD)["packets"], "a packet bounced")

    def bridged(self) -> None:
        self.topology.ip(self.pod, "link del macv", "link set eth0 master br0")
        ports = ("bridge", "-n", self.pod.name, "link")
        node.eventually(lambda: "forwarding" in run(*ports), "a port that forwards")
        self.raw("br0")
        self.topology.ip(self.pod, "link set eth0 nomaster")


def try_to_pass(topology: Topology, mode: int) -> None:
    """Whatever the Pod builds upon its end or does with frames, they meet the program, which drops them."""
    one, dummy = topology.pods(mode=mode)
    topology.tell("from_pod", one, How.VERDICT, Meta.DROP)
    topology.quiet()
    attempts = Attempts(topology)

    def received() -> list[int]:
        return [topology.rtnl.get(primary).stats["rx_packets"] for primary in ("p1", "p2")]

    def noted(program: int) -> int:
        return topology.programs.note(program)["packets"]

    before = received()
    for name, attempt in {
        "raw": lambda: attempts.raw("eth0"),
        "past the queue": lambda: attempts.raw("eth0", PACKET_QDISC_BYPASS),
        "with offloads": lambda: attempts.raw("eth0", PACKET_VNET_HDR, before=bytes(10)),
        "VLAN": lambda: attempts.raw("tagged"),
        "macvlan": lambda: attempts.raw("macv"),
        "tc redirect": lambda: attempts.redirected(How.REDIRECT),
        "XDP": attempts.bounced,
        # A bridge wants a MAC address.
        **({"bridge": attempts.bridged} if mode == Meta.L2 else {}),
    }.items():
        topology.programs.forget()
        attempt()
        assert noted(Programs.FROM_POD) >= 1, f"{name}: not seen by the program"
        assert received() == before, f"{name}: {before} {received()}"
    # To the "peer" of the Pod's end, that is, into the host: there is no such way.
    topology.programs.forget()
    attempts.redirected(How.PEER)
    assert noted(Programs.INGRESS) == 1
    assert received() == before, "bpf_redirect_peer()"

    # In another namespace of the Pod's the end is the same.
    topology.ip(topology.pod1, "link set eth0 down", "link set eth0 name moved", "link set moved netns far")
    topology.ip(topology.far, "link set moved up")
    with topology.far.raw() as raw, Rtnl(topology.far) as far:

        def seen() -> bool:
            with contextlib.suppress(OSError):
                raw.sendto(FRAME, ("moved", 0x88B5))
            return noted(Programs.FROM_POD) >= 1

        node.eventually(seen, "a frame from the namespace it was moved to")
        with refusal(errno.EACCES, "only through the primary"):
            far.change("moved", u32(Meta.PEER_POLICY, Meta.PASS))
    assert received() == before, "moved"


@check
def nothing_of_the_pod_passes_its_program_in_l3(topology: Topology) -> None:
    """Raw sockets, VLANs, macvlans, tc, XDP, another namespace: all meet the program."""
    try_to_pass(topology, Meta.L3)


@check
def nothing_of_the_pod_passes_its_program_in_l2(topology: Topology) -> None:
    """The same with MAC addresses, and a bridge."""
    try_to_pass(topology, Meta.L2)


@check
def a_pair_of_the_pods_own_leads_nowhere(topology: Topology) -> None:
    """The Pod may delete its link and make pairs of its own: they are all within its namespace."""
    topology.pods()
    before = set(topology.rtnl.names())
    with Rtnl(topology.pod1) as pod:
        pod.delete("eth0")
        assert set(topology.rtnl.names()) == before - {"p1"}
        pod.create("eth0", u32(Meta.POLICY, Meta.PASS), peer=text(node.IFLA_IFNAME, "p1"))
        assert {"eth0", "p1"} <= set(pod.names())
    assert set(topology.rtnl.names()) == before - {"p1"}


@check
def a_user_namespace_gives_no_power_over_others(topology: Topology) -> None:
    """All capabilities of a user namespace do for its own network namespace, and for no end in the host's."""

    def try_it() -> None:
        node.become_root_of_a_user_namespace()
        with Rtnl() as rtnl:
            rtnl.create("own", u32(Meta.POLICY, Meta.PASS), peer=text(node.IFLA_IFNAME, "other"))
            with refusal(errno.EPERM):
                to_host = s32(node.IFLA_NET_NS_FD, topology.host.fd)
                rtnl.create("new", peer=text(node.IFLA_IFNAME, "evil") + to_host)
            assert sorted(rtnl.names()) == ["lo", "other", "own"], rtnl.names()
        # With sockets opened before, as a process has that was given them.
        for number in (node.RTM_NEWLINK, node.RTM_DELLINK):
            with refusal(errno.EPERM):
                topology.rtnl.link_request(number, 0, "p1")

    topology.pods()
    before = topology.rtnl.names(), topology.rtnl.get("p1").info
    node.in_child(try_it)
    assert (topology.rtnl.names(), topology.rtnl.get("p1").info) == before


@check
def without_capabilities_nothing_is_done(topology: Topology) -> None:
    """An ordinary user is refused on the host, in the Pod, with programs of his own or without."""
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
        node.in_child(try_it)
    assert topology.rtnl.get("p1").info == before and "new" not in topology.rtnl.names()
