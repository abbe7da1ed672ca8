# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The device: ends, modes, sizes, addresses, packet metadata."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from pathlib import Path

from tests.support import driver_node as node
from tests.support.driver_node import Action, Meta, Programs, Rtnl, attribute, run, s32, text, u16, u32
from tests.support.driver_topology import (
    HOST,
    POD1,
    POD1_6,
    POD2,
    POD2_6,
    Topology,
    check,
    datagram,
    drop_reasons,
    refusal,
    send,
    transfer,
)


@check
def pair_is_created_and_peer_moves_to_pod(topology: Topology) -> None:
    """A pair is created with its peer in the Pod's namespace, or the peer moves there later."""
    topology.pair("p1", topology.pod1)
    link = topology.rtnl.get("p1")
    assert link.flags & node.IFF_NOARP
    assert (link.number(Meta.PRIMARY), link.number(Meta.MODE)) == (1, Meta.L3)
    assert (link.number(Meta.POLICY), link.number(Meta.PEER_POLICY)) == (Meta.DROP, Meta.DROP)
    assert (link.number(Meta.SCRUB), link.number(Meta.PEER_SCRUB)) == (1, 1)
    assert link.number(Meta.PROG_ID) is None
    with Rtnl(topology.pod1) as pod:
        assert pod.get("eth0").number(Meta.PRIMARY) == 0

    # The peer is created in the host's namespace and moved later.
    topology.rtnl.create("p2", peer=text(node.IFLA_IFNAME, "p2peer"))
    topology.rtnl.link_request(node.RTM_NEWLINK, 0, "p2peer", s32(node.IFLA_NET_NS_FD, topology.pod2.fd))
    assert "p2peer" not in topology.rtnl.names()
    # Only the kind is mandatory.
    topology.rtnl.create("p3")
    assert "meta0" in topology.rtnl.names()


@check
def without_program_all_packets_are_dropped_and_counted(topology: Topology) -> None:
    """The default policy of both directions is drop; the policy pass lets packets through."""
    topology.pods()
    topology.set_ipv6(False)
    topology.rtnl.change("p1", s32(Meta.PROG_FD, -1), s32(Meta.PEER_PROG_FD, -1))
    before = topology.rtnl.get("p1")
    assert before.number(Meta.PROG_ID) is None and before.number(Meta.PEER_PROG_ID) is None
    with Rtnl(topology.pod1) as pod:
        pod_before = pod.get("eth0").stats
        with topology.pod1.udp() as up, topology.host.udp() as down, drop_reasons() as reasons:
            for dummy in range(10):
                send(up, HOST)
                send(down, POD1)
            traced = reasons()
        pod_after, after = pod.get("eth0").stats, topology.rtnl.get("p1").stats
    assert pod_after["tx_dropped"] - pod_before["tx_dropped"] == 10, (pod_before, pod_after)
    assert after["tx_dropped"] - before.stats["tx_dropped"] == 10, (before.stats, after)
    for name in ("tx_packets", "rx_packets"):
        assert pod_after[name] == pod_before[name] and after[name] == before.stats[name]
    assert traced.count("TC_CHAIN_NOTFOUND") >= 20, traced

    topology.rtnl.change("p1", u32(Meta.POLICY, Meta.PASS), u32(Meta.PEER_POLICY, Meta.PASS))
    topology.pod1.ping(HOST)


@check
def programs_are_attached_by_file_descriptor(topology: Topology) -> None:
    """Programs given at creation process the first packet; the link reports their IDs and tags."""
    index, dummy = topology.pods()
    before = topology.rtnl.get("p1")
    for kind, tag, name in (
        (Meta.PROG_ID, Meta.PROG_TAG, "to_pod"),
        (Meta.PEER_PROG_ID, Meta.PEER_PROG_TAG, "from_pod"),
    ):
        info = Path(f"/proc/self/fdinfo/{topology.programs.fd(name)}").read_text()
        facts = dict(line.split(":\t", 1) for line in info.splitlines() if ":\t" in line)
        assert before.number(kind) == int(facts["prog_id"])
        assert before.info[tag].hex() == facts["prog_tag"]
    topology.set_ipv6(False)  # so that the last packet is an echo request
    topology.pod1.ping(HOST)
    topology.host.ping(POD1)
    for program in (Programs.FROM_POD, Programs.TO_POD):
        record = topology.programs.record(program)
        assert (record["ifindex"], record["protocol"]) == (index, socket.htons(0x0800)), record
    after = topology.rtnl.get("p1").stats
    assert after["tx_dropped"] == 0 and min(after["rx_packets"], after["tx_packets"]) >= 10, after


@check
def unknown_verdicts_drop(topology: Topology) -> None:
    """TCX_NEXT and TCX_PASS pass; TCX_DROP and unknown verdicts drop."""
    one, dummy = topology.pods()
    topology.set_ipv6(False)
    verdicts = (1, 2, 3, 4, 5, 6, 8, 100, -2)
    server, udp = topology.host.udp(HOST), topology.pod1.udp()
    with udp, server, Rtnl(topology.pod1) as pod, drop_reasons() as reasons:
        for verdict in (-1, 0):
            topology.set_action("from_pod", one, Action.VERDICT, verdict)
            send(udp, HOST, str(verdict).encode())
            assert server.recv(10) == str(verdict).encode()
        before = pod.get("eth0").stats["tx_dropped"]
        for verdict in verdicts:
            topology.set_action("from_pod", one, Action.VERDICT, verdict)
            send(udp, HOST)
        dropped, traced = pod.get("eth0").stats["tx_dropped"] - before, reasons()
    assert dropped == len(verdicts), dropped
    assert traced.count("TC_EGRESS") >= len(verdicts), traced


@check
def scrub_clears_mark_and_priority_between_namespaces(topology: Topology) -> None:
    """A socket's mark and priority are cleared between namespaces, unless scrub is none."""
    for scrub in (1, 0):
        topology.pods(u32(Meta.SCRUB, scrub), u32(Meta.PEER_SCRUB, scrub))
        for sender, address, program in (
            (topology.pod1, HOST, Programs.FROM_POD),
            (topology.host, POD1, Programs.TO_POD),
        ):
            topology.set_ipv6(False)
            with sender.udp() as udp:
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 42)
                udp.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 5)
                send(udp, address)
            record = topology.programs.record(program)
            assert (record["mark"], record["priority"]) == ((0, 0) if scrub else (42, 5)), (scrub, record)
        for name in ("p1", "p2"):
            topology.rtnl.delete(name)
        topology.set_ipv6(True)
    # Within one namespace nothing is cleared.
    to_pod = s32(Meta.PROG_FD, topology.programs.fd("to_pod"))
    topology.rtnl.create("side1", to_pod, peer=text(node.IFLA_IFNAME, "side2"))
    topology.set_ipv6(False)
    topology.ip(topology.host, "link set side1 up", "link set side2 up", "address add 10.9.5.1/24 dev side1")
    topology.wait_running("side1")
    with topology.host.udp() as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 42)
        send(udp, "10.9.5.2")
    assert topology.programs.record(Programs.TO_POD)["mark"] == 42


@check
def program_can_set_packet_type(topology: Topology) -> None:
    """A frame for another MAC reaches the Pod in L3 mode, in L2 mode only if the program sets the type."""
    frame = b"\2\0\0\0\0\x63\2\0\0\0\0\x64\x08\0" + datagram(HOST, POD1, b"here")

    def arrives(how: int) -> bool:
        topology.set_action("to_pod", index, how, Meta.PASS)
        with topology.pod1.udp(POD1) as server, topology.host.raw() as raw, contextlib.suppress(TimeoutError):
            server.settimeout(1)
            raw.sendto(frame, ("p1", 0x0800))
            return bool(server.recv(100) == b"here")
        return False

    for mode, pkt_type, arrives_by_default in ((Meta.L3, 0, True), (Meta.L2, 3, False)):  # HOST, OTHERHOST
        index, dummy = topology.pods(mode=mode)
        topology.set_ipv6(False)
        assert arrives(Action.VERDICT) == arrives_by_default, mode
        assert topology.programs.record(Programs.TO_POD)["pkt_type"] == pkt_type
        assert arrives(Action.SET_PKT_TYPE), mode
        for name in ("p1", "p2"):
            topology.rtnl.delete(name)
        topology.set_ipv6(True)


@check
def l2_mode_has_mac_addresses_and_resolves_neighbours(topology: Topology) -> None:
    """MAC addresses are set or random; ARP and neighbour discovery pass the programs."""
    mac = b"\2\0\0\0\0\x31"
    peer = text(node.IFLA_IFNAME, "m2") + attribute(node.IFLA_ADDRESS, mac)
    topology.rtnl.create("m1", u32(Meta.MODE, Meta.L2), peer=peer)
    link, other = topology.rtnl.get("m1"), topology.rtnl.get("m2")
    assert other.attributes[node.IFLA_ADDRESS] == mac
    assert link.attributes[node.IFLA_ADDRESS] not in (mac, bytes(6))
    assert not (link.flags | other.flags) & node.IFF_NOARP
    one, two = topology.pods(mode=Meta.L2)
    topology.pod1.ping(POD2)
    topology.pod1.ping(POD2_6)
    transfer(topology.pod2, topology.pod1, POD2)
    assert "lladdr" in run("ip", "-n", "pod1", "neigh", "show", "169.254.1.1")
    assert (
        topology.programs.record(Programs.FROM_POD)["arps"]
        and topology.programs.record(Programs.TO_POD)["arps"]
    )
    # A frame that is redirected to the peer is accepted with any destination MAC address.
    topology.set_action("from_pod", one, Action.REDIRECT_PEER, two)
    with topology.pod2.udp(POD2) as server, topology.pod1.udp() as client:
        send(client, POD2, b"for you")
        assert server.recv(10) == b"for you"


@check
def headroom_tailroom_mtu_and_gso_size_are_kept(topology: Topology) -> None:
    """Headroom, tailroom, MTU and BIG TCP sizes are set and reported; an invalid MTU is refused."""
    gso = u32(node.IFLA_GSO_MAX_SIZE, 185000)
    peer = text(node.IFLA_IFNAME, "m2") + u32(node.IFLA_MTU, 9000) + gso
    topology.rtnl.create("m1", u16(Meta.HEADROOM, 200), u16(Meta.TAILROOM, 60), peer=peer, more=gso)
    for name, mtu in (("m1", 1500), ("m2", 9000)):
        link = topology.rtnl.get(name)
        assert (link.number(Meta.HEADROOM), link.number(Meta.TAILROOM)) == (200, 60)
        assert struct.unpack("=I", link.attributes[node.IFLA_GSO_MAX_SIZE])[0] == 185000
        assert struct.unpack("=I", link.attributes[node.IFLA_MTU])[0] == mtu
    for mtu in (10, 70000):
        with refusal(errno.EINVAL, "mtu"):
            topology.rtnl.link_request(node.RTM_NEWLINK, 0, "m1", u32(node.IFLA_MTU, mtu))


@check
def carrier_requires_both_ends_up(topology: Topology) -> None:
    """The carrier is on only while both ends are up; traffic resumes with it."""
    topology.pods()

    topology.ip(topology.pod1, "link set eth0 down")
    node.wait_until(lambda: not topology.rtnl.get("p1").flags & node.IFF_RUNNING, "no carrier")
    topology.ip(topology.pod1, "link set eth0 up", "route add default dev eth0")
    topology.wait_running("p1")
    topology.host.ping(POD1)


@check
def l3_mode_resolves_no_neighbours(topology: Topology) -> None:
    """Both ends have a zero MAC address; nothing sends ARP or neighbour discovery."""
    topology.pods()
    topology.pod1.ping(POD2)
    topology.host.ping(POD1)
    with Rtnl(topology.pod1) as pod:
        for link in (topology.rtnl.get("p1"), pod.get("eth0")):
            assert link.attributes[node.IFLA_ADDRESS] == bytes(6)
    for program in (Programs.FROM_POD, Programs.TO_POD):
        record = topology.programs.record(program)
        assert record["packets"] and not record["arps"], record


@check
def packet_type_follows_destination_mac(topology: Topology) -> None:
    """Programs see host, broadcast, multicast and other host; in L3 mode all unicast is host."""
    host, broadcast, multicast, other = range(4)
    for mode in (Meta.L2, Meta.L3):
        topology.pods(mode=mode)
        topology.set_ipv6(False)
        with Rtnl(topology.pod1) as pod:
            own = pod.get("eth0").attributes[node.IFLA_ADDRESS]
        for address, expected in (
            (own, host),
            (b"\xff" * 6, broadcast),
            (b"\1\0\x5e\0\0\1", multicast),
            (b"\2\0\0\0\0\x63", other if mode == Meta.L2 else host),
        ):
            with topology.host.raw() as raw:
                raw.sendto(address + bytes(6) + b"\x08\0" + datagram(HOST, POD1, b""), ("p1", 0x0800))
            assert topology.programs.record(Programs.TO_POD)["pkt_type"] == expected, (mode, address)
        for name in ("p1", "p2"):
            topology.rtnl.delete(name)
        topology.set_ipv6(True)


@check
def virtual_machine_behind_bridge_uses_pod_addresses(topology: Topology) -> None:
    """In L2 mode a machine behind a bridge in the Pod uses the Pod's addresses and answers ARP and ND."""
    topology.pods(mode=Meta.L2)
    with Rtnl(topology.pod1) as pod:
        mac = pod.get("eth0").attributes[node.IFLA_ADDRESS].hex(":")
    topology.ip(
        topology.pod1,
        "address flush dev eth0",
        "link set eth0 down",
        "link set eth0 address 02:00:00:00:00:77",  # allowed for the Pod in L2 mode
        "link set eth0 up",
        "link add br0 type bridge mcast_snooping 0",
        "link add tap0 type veth peer name eth0 netns far",
        *(f"link set {name} master br0" for name in ("eth0", "tap0")),
        *(f"link set {name} up" for name in ("br0", "tap0")),
    )
    topology.ip(
        topology.far,
        f"link set eth0 address {mac}",
        "link set eth0 up",
        f"address add {POD1}/32 dev eth0",
        f"address add {POD1_6}/128 dev eth0 nodad",
        "route add default via 169.254.1.1 dev eth0 onlink",
        "route add ::/0 via fe80::1 dev eth0",
    )
    for address in (HOST, POD2, POD2_6):
        topology.far.ping(address)
    topology.host.ping(POD1)
    topology.host.ping(POD1_6)
    for address in (POD1, POD1_6):
        assert f"lladdr {mac}" in run("ip", "-n", "host", "neigh", "show", address)
    transfer(topology.far, topology.pod2, POD1)


@check
def mac_address_survives_down_and_move(topology: Topology) -> None:
    """In L2 mode an end keeps its MAC address when it goes down and moves to another namespace."""
    topology.pods(mode=Meta.L2)
    with Rtnl(topology.pod1) as pod, Rtnl(topology.pod2) as other:
        before = pod.get("eth0").attributes[node.IFLA_ADDRESS]
        topology.ip(
            topology.pod1, "link set eth0 down", "link set eth0 name moved", "link set moved netns pod2"
        )
        assert other.get("moved").attributes[node.IFLA_ADDRESS] == before
        topology.ip(topology.pod2, "link set moved up", "link set moved netns pod1")
        assert pod.get("moved").attributes[node.IFLA_ADDRESS] == before


@check
def both_ends_move_between_namespaces(topology: Topology) -> None:
    """Programs and policies stay with a moved peer or primary; programs see the primary's new ifindex."""
    one, dummy = topology.pods()
    before = topology.rtnl.get("p1").info
    topology.ip(topology.pod1, "link set eth0 down", "link set eth0 name moved", "link set moved netns far")
    commands = (f"address add {POD1}/32 dev moved", "link set moved up", "route add default dev moved")
    topology.ip(topology.far, *commands)
    topology.programs.clear_records()
    topology.far.ping(HOST)
    assert topology.rtnl.get("p1").info == before
    assert topology.programs.record(Programs.FROM_POD)["ifindex"] == one

    # After the primary has moved, only its new namespace can change the pair.
    topology.ip(topology.host, "link set p1 netns pod1")
    with Rtnl(topology.pod1) as pod, Rtnl(topology.far) as far:
        link = pod.get("p1")
        assert link.info == before
        topology.ip(
            topology.pod1, "link set p1 up", f"address add {HOST}/32 dev lo", f"route add {POD1} dev p1"
        )
        for program in ("to_pod", "from_pod"):
            topology.set_action(program, link.index, Action.VERDICT, Meta.PASS)
        topology.programs.clear_records()
        topology.far.ping(HOST)
        assert topology.programs.record(Programs.FROM_POD)["ifindex"] == link.index
        pod.change("p1", u32(Meta.POLICY, Meta.PASS))
        with refusal(errno.EACCES, "only through the primary"):
            far.change("moved", u32(Meta.POLICY, Meta.PASS))


@check
def single_device_receives_its_own_packets(topology: Topology) -> None:
    """A single device has no peer: its program redirects a sent packet, or the device receives it."""
    one, dummy = topology.pods()
    program = s32(Meta.PROG_FD, topology.programs.fd("to_pod"))
    topology.rtnl.create("s1", u32(Meta.PAIRING, Meta.SINGLE))
    assert {name for name in topology.rtnl.names() if name.startswith(("s1", "meta"))} == {"s1"}
    link = topology.rtnl.get("s1")
    assert (link.number(Meta.PAIRING), link.number(Meta.PRIMARY)) == (Meta.SINGLE, 1)
    assert not {Meta.PEER_POLICY, Meta.PEER_SCRUB, Meta.PEER_PROG_ID} & set(link.info)
    assert topology.rtnl.get("p1").number(Meta.PAIRING) == Meta.PAIR
    topology.ip(topology.host, "link set s1 up", "route add 10.9.7.7 dev s1")
    topology.ip(topology.pod1, "address add 10.9.7.7/32 dev lo")
    topology.set_ipv6(False)
    topology.wait_running("s1")
    stats = topology.rtnl.get("s1").stats
    with topology.host.udp() as udp, drop_reasons() as reasons:
        send(udp, "10.9.7.7")
        assert "TC_CHAIN_NOTFOUND" in reasons()
    assert topology.rtnl.get("s1").stats["tx_dropped"] == stats["tx_dropped"] + 1

    topology.rtnl.change("s1", program)
    topology.set_action("to_pod", link.index, Action.REDIRECT, one)
    with topology.pod1.udp("10.9.7.7") as server, topology.host.udp() as udp:
        send(udp, "10.9.7.7", b"redirected")
        assert server.recv(20) == b"redirected"
    topology.set_action("to_pod", link.index, Action.VERDICT, Meta.PASS)
    with topology.host.udp() as udp:
        send(udp, "10.9.7.7")
        node.wait_until(
            lambda: topology.rtnl.get("s1").stats["rx_packets"], "the device to receive its own packet"
        )
    # A single device has no peer to redirect to.
    topology.set_action("from_pod", one, Action.REDIRECT_PEER, link.index)
    with topology.pod1.udp() as udp, Rtnl(topology.pod1) as pod:
        dropped = pod.get("eth0").stats["tx_dropped"]
        send(udp, HOST)
        assert pod.get("eth0").stats["tx_dropped"] == dropped + 1
    topology.ip(topology.host, "link set s1 netns far")
    with Rtnl(topology.far) as far:
        assert far.get("s1").number(Meta.PROG_ID)
        far.delete("s1")


@check
def ethtool_reports_driver_version_and_peer(topology: Topology) -> None:
    """ethtool reports driver, version and the peer's ifindex, named as in veth."""
    topology.pods()
    with Rtnl(topology.pod1) as pod:
        index = pod.get("eth0").index
    with topology.host.inside():
        output = run("ethtool", "-i", "p1")
        assert (
            "driver: meta" in output and f"version: {Path('/sys/module/meta/version').read_text()}" in output
        )
        assert f"peer_ifindex: {index}\n" in run("ethtool", "-S", "p1")


@check
def netpoll_is_refused(topology: Topology) -> None:
    """netconsole can use a dummy device, but not a meta device."""
    run("modprobe", "netconsole")
    targets = Path("/sys/kernel/config/netconsole")
    if not targets.exists():
        run("mount", "-t", "configfs", "none", "/sys/kernel/config")
    topology.pods()
    topology.ip(topology.host, "link add d1 type dummy", "link set d1 up", "address add 10.9.8.1/24 dev d1")
    for device, refused in (("d1", False), ("p1", True)):
        target = targets / f"driver_checks_{device}"
        target.mkdir()
        for name, value in (("dev_name", device), ("local_ip", "10.9.8.1"), ("remote_ip", "10.9.8.2")):
            (target / name).write_text(value)
        try:
            with topology.host.inside():
                (target / "enabled").write_text("1")
        except OSError:
            assert refused, device
        else:
            assert not refused, device
            (target / "enabled").write_text("0")
        target.rmdir()


@check
def only_delivery_times_cross_namespaces(topology: Topology) -> None:
    """SO_TXTIME is cleared between namespaces; TCP's delivery time, which fq paces by, is kept."""
    so_txtime = scm_txtime = 61
    so_timestampns = 35
    wanted = time.time_ns() + 10**9

    def send_at(udp: socket.socket, address: str) -> None:
        udp.setsockopt(socket.SOL_SOCKET, so_txtime, struct.pack("=iI", time.CLOCK_REALTIME, 0))
        udp.sendmsg([b"x"], [(socket.SOL_SOCKET, scm_txtime, struct.pack("=Q", wanted))], 0, (address, 9))

    one, dummy = topology.pods()
    topology.rtnl.create(
        "side1", s32(Meta.PROG_FD, topology.programs.fd("to_pod")), peer=text(node.IFLA_IFNAME, "side2")
    )
    topology.set_ipv6(False)
    topology.ip(topology.host, "link set side1 up", "link set side2 up", "address add 10.9.5.1/24 dev side1")
    topology.wait_running("side1")
    for sender, address, program, expected in (
        (topology.pod1, HOST, Programs.FROM_POD, 0),
        (topology.host, POD1, Programs.TO_POD, 0),
        (topology.host, "10.9.5.2", Programs.TO_POD, wanted),
    ):
        with sender.udp() as udp:
            send_at(udp, address)
        record = topology.programs.record(program)
        assert record["packets"] and record["tstamp"] == expected, (address, record)
        topology.programs.clear_records()

    transfer(topology.host, topology.pod1, HOST)
    assert topology.programs.record(Programs.FROM_POD)["tstamp"]

    # A delivery time set by the program is not reported as receive time.
    topology.set_action("from_pod", one, Action.SET_TSTAMP)
    with topology.host.udp(HOST) as server, topology.pod1.udp() as client:
        server.setsockopt(socket.SOL_SOCKET, so_timestampns, 1)
        send(client, HOST)
        _data, control, _flags, _address = server.recvmsg(10, 100)
    seconds = struct.unpack_from("=q", control[0][2])[0]
    assert abs(seconds - time.time()) < 30, seconds


@check
def big_tcp_packets_are_not_segmented(topology: Topology) -> None:
    """Redirects pass IPv6 packets above 64 KiB from Pod to Pod unsegmented, by peer and by primary.

    The host's stack is excluded: kernels that add a hop-by-hop header refuse to forward such packets.
    """
    one, two = topology.pods()
    size = u32(node.IFLA_GSO_MAX_SIZE, 185000)
    for pod in (topology.pod1, topology.pod2):
        with Rtnl(pod) as rtnl:
            rtnl.link_request(node.RTM_NEWLINK, 0, "eth0", size)
        # By default TCP limits a packet to 1 ms of data if round trips are long, as on a slow node.
        pod.write("ipv4/tcp_tso_rtt_log", 31)
    for name in ("p1", "p2"):
        topology.rtnl.link_request(node.RTM_NEWLINK, 0, name, size)
    for how, argument in ((Action.REDIRECT_PEER, two), (Action.REDIRECT, two)):
        topology.set_action("from_pod", one, how, argument)
        topology.programs.clear_records()
        transfer(topology.pod2, topology.pod1, POD2_6, 64 << 20)
        longest = topology.programs.record(Programs.FROM_POD)["longest"]
        assert longest > 70000, longest
    longest = topology.programs.record(Programs.TO_POD)["longest"]
    assert longest > 70000, longest
