# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs and pairs are replaced and deleted under traffic."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time

from tests.support import driver_node as node
from tests.support.driver_node import Action, Meta, Programs, Rtnl, run, s32, u32
from tests.support.driver_topology import POD1, POD2, Topology, check, flood, refusal


@check
def program_replacement_loses_no_packet(topology: Topology) -> None:
    """All numbered datagrams arrive while programs are replaced, and each program processes some."""
    one, two = topology.pods()
    topology.set_action("from_pod", one, Action.REDIRECT_PEER, two)
    count, replaced = 3000, 0
    done = threading.Event()
    arrived: set[bytes] = set()
    with topology.pod1.udp() as sender, topology.pod2.udp(POD2) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        receiver.settimeout(5)
        topology.programs.clear_records()

        def count_up() -> None:
            for number in range(count):
                sender.sendto(struct.pack("=I", number), (POD2, 9))
            done.set()

        thread = threading.Thread(target=count_up)
        thread.start()
        while not done.is_set():
            name = ("from_pod_alt", "from_pod")[replaced % 2]
            topology.rtnl.change("p1", s32(Meta.PEER_PROG_FD, topology.programs.fd(name)))
            replaced += 1
        thread.join()
        with contextlib.suppress(TimeoutError):
            while len(arrived) < count:
                arrived.add(receiver.recv(100))
    with Rtnl(topology.pod1) as pod:
        dropped = pod.get("eth0").stats["tx_dropped"]
    shares = [topology.programs.record(p)["packets"] for p in (Programs.FROM_POD, Programs.FROM_POD_ALT)]
    facts = f"{len(arrived)} of {count} arrived, {replaced} replacements, {dropped} dropped, shares {shares}"
    assert len(arrived) == count and dropped == 0, facts
    assert sum(shares) >= count and min(shares) > 0 and replaced > 10, facts


@check
def program_is_freed_when_no_longer_attached(topology: Topology) -> None:
    """A pair holds its programs until they are replaced or detached, or the pair is deleted."""

    def create() -> int:
        """Create p1 with programs that only it holds; return the ID of the peer's program."""
        programs = Programs(topology.programs.path)
        topology.rtnl.create(
            "p1",
            s32(Meta.PROG_FD, programs.fd("to_pod")),
            s32(Meta.PEER_PROG_FD, programs.fd("from_pod")),
        )
        programs.close()
        return int(topology.rtnl.get("p1").number(Meta.PEER_PROG_ID) or 0)

    for how in ("replaced", "detached", "deleted"):
        number = create()
        time.sleep(0.2)
        assert node.program_exists(number)
        if how == "deleted":
            topology.rtnl.delete("p1")
        else:
            another = topology.programs.fd("from_pod") if how == "replaced" else -1
            topology.rtnl.change("p1", s32(Meta.PEER_PROG_FD, another))
        node.wait_until(lambda number=number: not node.program_exists(number), f"a program {how} is freed")
        if how != "deleted":
            topology.rtnl.delete("p1")


@check
def pair_is_deleted_under_traffic(topology: Topology) -> None:
    """The host deletes pairs, the Pod deletes its end, the Pod's namespace is deleted."""
    for who in ("host", "pod", "namespace"):
        one, two = topology.pods()
        topology.set_action("from_pod", one, Action.REDIRECT_PEER, two)
        topology.set_action("from_pod", two, Action.REDIRECT, one)
        with flood(topology.pod1, POD2), flood(topology.pod2, POD1), flood(topology.host, POD1, POD2):
            time.sleep(0.5)
            if who == "host":
                topology.rtnl.delete("p1")
                topology.rtnl.delete("p2")
            elif who == "pod":
                for pod in (topology.pod1, topology.pod2):
                    with Rtnl(pod) as rtnl:
                        rtnl.delete("eth0")
            else:
                topology.pod1.close()
                run("ip", "netns", "del", "pod1")
                time.sleep(0.2)
        # The flood's sockets hold the namespace until the flood ends.
        node.wait_until(lambda: "p1" not in topology.rtnl.names(), f"a pair deleted by {who}")
        assert ("p2" in topology.rtnl.names()) == (who == "namespace")


@check
def module_is_removed_under_traffic(topology: Topology) -> None:
    """rmmod removes all pairs in all namespaces; afterwards the module loads again."""
    one, two = topology.pods()
    topology.set_action("from_pod", one, Action.REDIRECT_PEER, two)
    topology.rtnl.create("s1", u32(Meta.PAIRING, Meta.SINGLE), u32(Meta.POLICY, Meta.PASS))
    topology.ip(topology.host, "link set s1 up", "route add 10.9.7.7 dev s1")
    with flood(topology.pod1, POD2), flood(topology.host, POD1, "10.9.7.7"):
        time.sleep(0.5)
        run("rmmod", "meta")
        assert not {"p1", "p2", "s1"} & set(topology.rtnl.names())
    with refusal(errno.EOPNOTSUPP):
        topology.rtnl.create("p1")
    run("insmod", topology.module)
    topology.pods()
    topology.host.ping(POD1)
