# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs and pairs that come and go under traffic."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time

from tests.support import driver_node as node
from tests.support.driver_node import How, Meta, Programs, Rtnl, run, s32, u32
from tests.support.driver_topology import POD1, POD2, Topology, check, flood, refusal


@check
def replacement_loses_nothing(topology: Topology) -> None:
    """Numbered UDP while the program is replaced over and over: all arrive, each program had its share."""
    one, two = topology.pods()
    topology.tell("from_pod", one, How.PEER, two)
    count, replaced = 3000, 0
    done = threading.Event()
    arrived: set[bytes] = set()
    with topology.pod1.udp() as sender, topology.pod2.udp(POD2) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        receiver.settimeout(5)
        topology.programs.forget()

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
    shares = [topology.programs.note(p)["packets"] for p in (Programs.FROM_POD, Programs.FROM_POD_ALT)]
    facts = f"{len(arrived)} of {count} arrived, {replaced} replacements, {dropped} dropped, shares {shares}"
    assert len(arrived) == count and dropped == 0, facts
    assert sum(shares) >= count and min(shares) > 0 and replaced > 10, facts


@check
def a_program_lives_as_long_as_it_is_attached(topology: Topology) -> None:
    """The pair alone holds its programs, and lets go when they are replaced or it is deleted."""

    def lent() -> int:
        """Create p1 with programs that only it holds; return the id of the peer's."""
        programs = Programs(topology.programs.path)
        topology.rtnl.create(
            "p1",
            s32(Meta.PROG_FD, programs.fd("to_pod")),
            s32(Meta.PEER_PROG_FD, programs.fd("from_pod")),
        )
        programs.close()
        return int(topology.rtnl.get("p1").number(Meta.PEER_PROG_ID) or 0)

    for how in ("replaced", "detached", "deleted"):
        number = lent()
        time.sleep(0.2)
        assert node.program_exists(number)
        if how == "deleted":
            topology.rtnl.delete("p1")
        else:
            another = topology.programs.fd("from_pod") if how == "replaced" else -1
            topology.rtnl.change("p1", s32(Meta.PEER_PROG_FD, another))
        node.eventually(lambda number=number: not node.program_exists(number), f"a program {how} is freed")
        if how != "deleted":
            topology.rtnl.delete("p1")


@check
def deletion_under_traffic(topology: Topology) -> None:
    """Pairs go while packets fly: by the host, by the Pod (which may), with the Pod's namespace."""
    for who in ("host", "pod", "namespace"):
        one, two = topology.pods()
        topology.tell("from_pod", one, How.PEER, two)
        topology.tell("from_pod", two, How.REDIRECT, one)
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
        # The flood's sockets hold the namespace for as long as it lasts.
        node.eventually(lambda: "p1" not in topology.rtnl.names(), f"a pair deleted by {who}")
        assert ("p2" in topology.rtnl.names()) == (who == "namespace")


@check
def removal_of_the_module_under_traffic(topology: Topology) -> None:
    """rmmod takes all pairs of all namespaces with it; the module comes back."""
    one, two = topology.pods()
    topology.tell("from_pod", one, How.PEER, two)
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
