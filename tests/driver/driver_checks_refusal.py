# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Invalid requests are refused with a message and change nothing."""

from __future__ import annotations

import errno
import os
import random
import struct
import sys
from typing import Any

from tests.support import driver_node as node
from tests.support.driver_node import Meta, NetlinkError, Rtnl, attribute, s32, text, u16, u32
from tests.support.driver_topology import Topology, check, refusal

NOT_OPEN = 1000  # a file descriptor


@check
def invalid_changes_are_refused_with_a_message(topology: Topology) -> None:
    """Malformed and contradictory changes are refused and change nothing."""
    topology.pods()
    before = topology.rtnl.get("p1").info
    not_bpf = os.open("/dev/null", os.O_RDONLY)
    wrong_type = topology.programs.fd("xdp_pass")
    cases = []
    for kind in (Meta.PROG_FD, Meta.PEER_PROG_FD):
        cases += [
            (errno.EINVAL, "file descriptor is not a BPF program of type sched_cls", [s32(kind, wrong_type)]),
            (errno.EINVAL, "file descriptor is not a BPF program of type sched_cls", [s32(kind, not_bpf)]),
            (errno.EBADF, "program file descriptor is not open", [s32(kind, NOT_OPEN)]),
            (errno.EINVAL, "program must be a file descriptor, or -1 to detach", [s32(kind, -2)]),
            (errno.EINVAL, "invalid attribute length", [attribute(kind, b"\1")]),
        ]
    for kind, whose in ((Meta.POLICY, "meta: policy"), (Meta.PEER_POLICY, "meta: peer policy")):
        for value in (1, 3, 7, 32, 0xFFFFFFFF):
            cases.append((errno.EINVAL, f"{whose} must be 0 (pass) or 2 (drop)", [u32(kind, value)]))
    for given, what in (
        (u32(Meta.MODE, 1), "mode"),
        (u32(Meta.SCRUB, 1), "scrub"),
        (u32(Meta.PEER_SCRUB, 1), "peer scrub"),
        (u16(Meta.HEADROOM, 1), "headroom"),
        (u16(Meta.TAILROOM, 1), "tailroom"),
        (u32(Meta.PAIRING, 0), "pairing"),
        (attribute(Meta.PEER_INFO, bytes(16)), "peer"),
    ):
        cases.append((errno.EOPNOTSUPP, f"meta: {what} cannot be changed after creation", [given]))
    for kind, what in (
        (Meta.PRIMARY, "primary attribute"),
        (Meta.PROG_ID, "program ID"),
        (Meta.PEER_PROG_ID, "peer program ID"),
        (Meta.PROG_TAG, "program tag"),
        (Meta.PEER_PROG_TAG, "peer program tag"),
    ):
        cases.append((errno.EINVAL, f"meta: {what} is read-only", [u32(kind, 1)]))
    cases += [
        (errno.EINVAL, "", [u32(20, 1)]),  # an unknown attribute
        # A valid attribute beside an invalid one is not applied.
        (errno.EINVAL, "peer policy", [u32(Meta.POLICY, Meta.PASS), u32(Meta.PEER_POLICY, 5)]),
        (errno.EBADF, "not open", [s32(Meta.PROG_FD, -1), s32(Meta.PEER_PROG_FD, NOT_OPEN)]),
    ]
    for number, message, request in cases:
        with refusal(number, message):
            topology.rtnl.change("p1", *request)
        assert topology.rtnl.get("p1").info == before, message
    os.close(not_bpf)


def invalid_attributes(topology: Topology) -> list[tuple[int, str, bytes]]:
    """Return errno, message and attributes of pairs that meta refuses."""
    fd = topology.programs.fd
    good_program = s32(Meta.PROG_FD, fd("to_pod"))
    single = u32(Meta.PAIRING, Meta.SINGLE)
    return [
        (errno.EINVAL, "meta: mode must be 0 (L2) or 1 (L3)", u32(Meta.MODE, 2)),
        (errno.EINVAL, "meta: scrub must be 0 (none) or 1 (default)", u32(Meta.SCRUB, 2)),
        (errno.EINVAL, "meta: peer scrub must be 0 (none) or 1 (default)", u32(Meta.PEER_SCRUB, 9)),
        (errno.EINVAL, "meta: policy must be 0 (pass) or 2 (drop)", u32(Meta.POLICY, 7)),
        (errno.EBADF, "program file descriptor is not open", good_program + s32(Meta.PEER_PROG_FD, NOT_OPEN)),
        (errno.EINVAL, "of type sched_cls", s32(Meta.PEER_PROG_FD, fd("xdp_pass"))),
        (errno.ERANGE, "", attribute(Meta.PEER_INFO, bytes(4))),
        (errno.EINVAL, "meta: pairing must be 0 (pair) or 1 (single)", u32(Meta.PAIRING, 2)),
        (errno.EINVAL, "meta: headroom must not exceed 1024 bytes", u16(Meta.HEADROOM, 1025)),
        (errno.EINVAL, "meta: tailroom must not exceed 1024 bytes", u16(Meta.TAILROOM, 65535)),
        *(
            (errno.EINVAL, "a single device has no peer", single + of_peer)
            for of_peer in (
                attribute(Meta.PEER_INFO, bytes(16)),
                u32(Meta.PEER_POLICY, Meta.PASS),
                u32(Meta.PEER_SCRUB, 0),
                s32(Meta.PEER_PROG_FD, fd("from_pod")),
            )
        ),
    ]


def invalid_devices() -> list[tuple[int, str, dict[str, Any]]]:
    """Return errno, message and arguments of Rtnl.create() for devices that meta or the kernel refuses."""

    def mac(*address: int) -> bytes:
        return attribute(node.IFLA_ADDRESS, bytes(address))

    l2 = u32(Meta.MODE, Meta.L2)
    in_use = "cannot register the peer; name or index in use?"
    unicast, zero = "MAC address must be unicast and non-zero", mac(0, 0, 0, 0, 0, 0)
    cases: list[tuple[int, str, dict[str, Any]]] = [
        (errno.EOPNOTSUPP, "a MAC address requires L2 mode", {"peer": mac(2, 0, 0, 0, 0, 1)}),
        (errno.EOPNOTSUPP, "a MAC address requires L2 mode", {"more": mac(2, 0, 0, 0, 0, 1)}),
        (errno.EADDRNOTAVAIL, unicast, {"data": l2, "more": mac(1, 0, 0, 0, 0, 1)}),
        (errno.EADDRNOTAVAIL, unicast, {"data": l2, "peer": zero}),
        (errno.EINVAL, "", {"data": l2, "more": mac(2, 0, 0)}),
        (errno.EEXIST, in_use, {"peer": text(node.IFLA_IFNAME, "p1")}),
        (errno.EINVAL, "", {"peer": text(node.IFLA_IFNAME, "no/name")}),
    ]
    for peer in (b"", text(node.IFLA_IFNAME, "peer")):
        for mtu in (10, 70000):
            cases.append((errno.EINVAL, "mtu", {"peer": peer + u32(node.IFLA_MTU, mtu)}))
            cases.append((errno.EINVAL, "mtu", {"peer": peer, "more": u32(node.IFLA_MTU, mtu)}))
    return cases


@check
def invalid_pairs_are_refused_with_a_message(topology: Topology) -> None:
    """Invalid pairs are refused and leave no device."""
    topology.pair("p1", topology.pod1)
    names = topology.rtnl.names()
    for number, message, attributes in invalid_attributes(topology):
        with refusal(number, message):
            topology.rtnl.create("new", attributes)
    for number, message, arguments in invalid_devices():
        data = arguments.pop("data", b"")
        with refusal(number, message):
            topology.rtnl.create("new", data, **arguments)
    # A missing namespace: from 6.13 on the kernel looks it up itself, without a message.
    not_namespace = os.open("/dev/null", os.O_RDONLY)
    peer = text(node.IFLA_IFNAME, "peer")
    for where, number in (
        (s32(node.IFLA_NET_NS_FD, not_namespace), errno.EINVAL),
        (s32(node.IFLA_NET_NS_FD, NOT_OPEN), errno.EBADF),
        (s32(node.IFLA_NET_NS_PID, 4194304), errno.ESRCH),  # above any process id
    ):
        with refusal(number):
            topology.rtnl.create("new", peer=peer + where)
    os.close(not_namespace)
    assert topology.rtnl.names() == names
    # An existing single device refuses changes of a peer as well.
    topology.rtnl.create("s1", u32(Meta.PAIRING, Meta.SINGLE))
    before = topology.rtnl.get("s1").info
    for of_peer in (u32(Meta.PEER_POLICY, Meta.PASS), s32(Meta.PEER_PROG_FD, -1)):
        with refusal(errno.EINVAL, "a single device has no peer"):
            topology.rtnl.change("s1", u32(Meta.POLICY, Meta.PASS), of_peer)
    assert topology.rtnl.get("s1").info == before


class Fuzz:
    """Random requests from a seed, well formed or not."""

    KINDS = (*range(1, 11), *range(32, 38))
    PEER_KINDS = (node.IFLA_ADDRESS, node.IFLA_IFNAME, node.IFLA_MTU, node.IFLA_LINKINFO, node.IFLA_NET_NS_FD)

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def random_bytes(self, most: int) -> bytes:
        return self.random.randbytes(self.random.randrange(most))

    def number(self) -> bytes:
        value = self.random.choice(
            (0, 1, 2, 7, 31, 32, 1024, 0xFFFF, 0xFFFFFFFF, self.random.getrandbits(32))
        )
        return struct.pack("=Q", value)[: self.random.choice((1, 2, 4, 4, 4, 8))]

    def attribute(self, kinds: tuple[int, ...], value: bytes) -> bytes:
        kind = self.random.choice(kinds) if self.random.random() < 0.9 else self.random.getrandbits(16)
        made = attribute(kind, value)
        if self.random.random() < 0.05:  # an invalid length
            made = struct.pack("=H", self.random.choice((0, 3, len(made) + 4, 0xFFFF))) + made[2:]
        return made

    def peer(self) -> bytes:
        names = (b"lo\0", b"p1\0", b"fuzzed%d\0", b"x" * 20, b"", b"a/b\0", self.random_bytes(16))
        header = struct.pack("=BxHiII", 0, 0, self.random.choice((0, 0, 0, 1, -1)), 0, 0)
        return self.random.choice((header, header, header, self.random_bytes(20))) + b"".join(
            self.attribute(
                self.PEER_KINDS, self.random.choice((*names, self.number(), self.random_bytes(40)))
            )
            for dummy in range(self.random.randrange(4))
        )

    def data(self) -> bytes:
        return b"".join(
            self.attribute((Meta.PEER_INFO,), self.peer())
            if self.random.random() < 0.2
            else self.attribute(
                self.KINDS, self.number() if self.random.random() < 0.8 else self.random_bytes(40)
            )
            for dummy in range(self.random.randrange(6))
        )


@check
def refused_random_requests_change_nothing(topology: Topology) -> None:
    """Random creations and changes from both ends are applied completely or not at all."""
    topology.pods()
    seed = random.randrange(1 << 32)
    print(f"seed of the random requests: {seed}", file=sys.stderr)
    fuzz = Fuzz(seed)
    done = {"creation": 0, "change": 0}
    with Rtnl(topology.pod1) as pod:

        def state() -> object:
            links = topology.rtnl.get("p1"), pod.get("eth0")
            # IFF_RUNNING follows the carrier with a delay.
            facts = [
                (link.info, link.flags & ~node.IFF_RUNNING, link.attributes[node.IFLA_ADDRESS])
                for link in links
            ]
            return facts, topology.rtnl.names(), pod.names()

        before = state()
        for number in range(1500):
            what = ("creation", "change", "change from the Pod")[number % 3]
            data = fuzz.data()
            facts = f"seed {seed}, request {number}, {what} with {data.hex()}"
            try:
                if what == "creation":
                    topology.rtnl.create("fuzz", data)
                elif what == "change":
                    topology.rtnl.change("p1", data)
                else:
                    pod.change("eth0", data)
            except NetlinkError:
                after = state()
                assert after == before, f"{facts}: {after} instead of {before}"
                continue
            assert what != "change from the Pod", facts
            done[what] += 1
            if what == "creation":
                topology.rtnl.delete("fuzz")
                assert state() == before, facts
            else:
                before = state()
    assert min(done.values()) > 20, f"seed {seed}: too few requests succeeded, {done}"
