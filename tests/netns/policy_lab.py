# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two nodes with veth Pods, programs, servers everywhere, and clients that try.

::

    node1: front web db other -- wire0 ======== wire0 -- remote, world :node2

The Pods have veth pairs with the programs; world is a machine without.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils import (
    _libbpf,
    _bpf_attach,
    _bpf_state,
    _datapath_info,
)

NODES = {"node1": ("172.31.0.1", "fd31::1"), "node2": ("172.31.0.2", "fd31::2")}
PODS = {
    "front": ("node1", "10.31.1.11", "fd31:1::11", {"app": "front", "ns": "shop"}),
    "web": ("node1", "10.31.1.12", "fd31:1::12", {"app": "web", "ns": "shop"}),
    "db": ("node1", "10.31.1.13", "fd31:1::13", {"app": "db", "ns": "shop"}),
    "other": ("node1", "10.31.1.14", "fd31:1::14", {"app": "other", "ns": "lab", "special": "yes"}),
    "remote": ("node2", "10.31.2.11", "fd31:2::11", {"app": "front", "ns": "shop"}),
}
WORLD = ("node2", "192.0.2.10", "2001:db8::10")
VIP = ("10.96.0.10", "fd96::10")
TCP, UDP, SCTP, ICMP = socket.SOCK_STREAM, socket.SOCK_DGRAM, "sctp", "icmp"
LISTEN = ((TCP, (80, 81, 443)), (UDP, (53, 80)))
PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP}

FORBIDDEN_FOR = 0.4  # seconds in which nothing that is forbidden may come
ALLOWED_WITHIN = 10.0  # on a busy machine


def address_of(name: str, version: int) -> str:
    place = 0 if version == 4 else 1
    if name in NODES:
        return NODES[name][place]
    if name == "vip":
        return VIP[place]
    return (WORLD if name == "world" else PODS[name])[1 + place]


@dataclass
class Check:
    """One attempt to talk, and what came back."""

    source: str
    target: str
    protocol: Any
    port: int
    version: int
    passes: bool
    answer: str = ""
    refusal: str = ""

    def __str__(self) -> str:
        words = {TCP: "tcp", UDP: "udp", ICMP: "icmp"}
        came = f"answered by {self.answer}" if self.answer else self.refusal or "no answer"
        return (
            f"{self.source} > {self.target} {words[self.protocol]}/{self.port} v{self.version}:"
            f" {'must' if self.passes else 'must not'} pass, {came}"
        )


def checks_of(text: str, passes: bool) -> Iterator[Check]:
    who, dummy, rest = text.partition(" > ")
    whom, what, *versions = rest.split(" ")
    for source, target, one in itertools.product(who.split(","), whom.split(","), what.split(",")):
        protocol, dummy, port = one.partition("/")
        for version in (4, 6):
            if not versions or versions[0] == f"v{version}":
                yield Check(source, target, PROTOCOLS[protocol], int(port or 0), version, passes)


class Lab:
    """Two nodes, their Pods and a machine outside, with servers everywhere."""

    def __init__(self, namespaces: Any, bpffs: str, datapath_object: str) -> None:
        self.ns, self.object = namespaces, datapath_object
        self.names = {name: namespaces(name) for name in (*NODES, *PODS, "world")}
        self.pins = {node: f"{bpffs}/policy-{self.names[node]}" for node in NODES}
        for name in self.names.values():
            namespaces.sysctl(
                name,
                ipv6__conf__all__accept_dad=0,
                ipv6__conf__default__accept_dad=0,
                ipv4__ping_group_range="0 2147483647",
            )
        self._connect_nodes()
        for pod in (*PODS, "world"):
            self._make_pod(pod)
        for node in NODES:
            self.attach(node, {})
        self.stop = threading.Event()
        self.server = threading.Thread(target=self._serve)
        self.server.start()

    def _connect_nodes(self) -> None:
        one, two = self.names["node1"], self.names["node2"]
        self.ns.ip(one, f"link add wire0 type veth peer name wire0 netns {two}")
        for number, node in enumerate((one, two), 1):
            self.ns.ip(
                node,
                f"addr add 172.31.0.{number}/30 dev wire0",
                f"addr add fd31::{number}/64 dev wire0 nodad",
                "link set wire0 up",
            )
            self.ns.sysctl(node, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        self.ns.ip(one, *(f"route add {to} via 172.31.0.2" for to in ("10.31.2.0/24", "192.0.2.0/24")))
        self.ns.ip(one, *(f"route add {to} via fd31::2" for to in ("fd31:2::/64", "2001:db8::/64")))
        self.ns.ip(two, "route add 10.31.1.0/24 via 172.31.0.1", "route add fd31:1::/64 via fd31::1")

    def _make_pod(self, pod: str) -> None:
        node, v4, v6 = (WORLD if pod == "world" else PODS[pod])[:3]
        mac = "02:00:00:00:00:01"
        self.ns.ip(
            self.names[node],
            f"link add {pod} address {mac} type veth peer name eth0 netns {self.names[pod]}",
            f"link set {pod} up",
            f"route add {v4}/32 dev {pod}",
            f"route add {v6}/128 dev {pod}",
        )
        self.ns.ip(
            self.names[pod],
            f"addr add {v4}/32 dev eth0",
            f"addr add {v6}/128 dev eth0 nodad",
            "link set eth0 up",
            f"neigh add 169.254.1.1 dev eth0 lladdr {mac}",
            f"neigh add fe80::1 dev eth0 lladdr {mac}",
            "route add default via 169.254.1.1 dev eth0 onlink",
            "route add default via fe80::1 dev eth0",
        )

    def attach(self, node: str, rodata: dict[str, int]) -> list[str]:
        """Load the programs and attach them everywhere; return what changed."""
        with _libbpf.BpfObject(self.object, rodata) as programs:
            return self.install(node, programs)

    def install(self, node: str, programs: _libbpf.BpfObject) -> list[str]:
        with self.ns.inside(self.names[node]):
            outcome = _bpf_attach.install(self.pins[node], programs, list(self._wishes(node)))
        return [f"{change.action} {change.kind} {change.name}" for change in outcome.changes]

    def _wishes(self, node: str) -> Iterator[_bpf_attach.Wish]:
        yield _bpf_attach.Wish("host_ingress", "wire0", "ingress")
        for pod, (where, *dummy) in PODS.items():
            if where == node:
                yield _bpf_attach.Wish("pod_egress", pod, "from_pod")
                yield _bpf_attach.Wish("pod_ingress", pod, "to_pod")

    def declare(
        self,
        policies: Sequence[dict[str, Any]] = (),
        services: Sequence[dict[str, Any]] = (),
        masqueraded: Sequence[str] = (),
    ) -> None:
        """Tell both nodes, as the role pods does."""
        raw = {
            name: {"name": name, "node": node, "addresses": [v4, v6], "labels": labels}
            for name, (node, v4, v6, labels) in PODS.items()
        }
        for node, (v4, v6) in NODES.items():
            here = [
                {**pod, "device": name, "masquerade": name in masqueraded}
                for name, pod in raw.items()
                if pod["node"] == node
            ]
            with self.ns.inside(self.names[node]):
                _bpf_state.run(
                    self.pins[node],
                    "site",
                    here,
                    remote_pods=[pod for pod in raw.values() if pod["node"] != node],
                    policies=policies,
                    services=services,
                    masquerade={"ipv4": v4, "ipv6": v6} if masqueraded else {},
                    node=node,
                )

    def info(self) -> dict[str, Any]:
        """Return what datapath_info says of node1's Pods, by name."""
        with self.ns.inside(self.names["node1"]):
            gathered = _datapath_info.gather(self.pins["node1"])
        return {pod["name"]: pod for pod in gathered["pods"]}

    def _serve(self) -> None:
        """Answer everybody with the name of who was asked."""
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as open_:
            for name in (*PODS, "world", "node1"):
                with self.ns.inside(self.names[name]):
                    for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
                        for kind, port in ((kind, port) for kind, ports in LISTEN for port in ports):
                            server = open_.enter_context(socket.socket(family, kind))
                            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                            if version == 6:
                                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                            # its own address: an answer comes from where the question went
                            server.bind((address_of(name, version), port))
                            server.setblocking(False)
                            if kind == TCP:
                                server.listen(64)
                            selector.register(server, selectors.EVENT_READ, (name, kind))
            while not self.stop.is_set():
                for key, dummy in selector.select(0.2):
                    name, kind = key.data
                    with contextlib.suppress(OSError):
                        if kind == UDP:
                            dummy, client = key.fileobj.recvfrom(64)  # type: ignore[union-attr]
                            key.fileobj.sendto(name.encode(), client)  # type: ignore[union-attr]
                        elif kind == TCP:
                            connection, dummy = key.fileobj.accept()  # type: ignore[union-attr]
                            connection.sendall(name.encode())
                            connection.setblocking(False)
                            selector.register(connection, selectors.EVENT_READ, (name, "echo"))
                        else:
                            got = key.fileobj.recv(64)  # type: ignore[union-attr]
                            if got:
                                key.fileobj.sendall(name.encode())  # type: ignore[union-attr]
                                continue
                            selector.unregister(key.fileobj)
                            key.fileobj.close()  # type: ignore[union-attr]

    def close(self) -> None:
        self.stop.set()
        self.server.join()
        for node in NODES:
            with self.ns.inside(self.names[node]):
                _bpf_attach.absent(self.pins[node])

    # Clients

    def start(self, check: Check) -> socket.socket:
        """Begin to talk."""
        family = socket.AF_INET if check.version == 4 else socket.AF_INET6
        with self.ns.inside(self.names[check.source]):
            if check.protocol == ICMP:
                protocol = socket.IPPROTO_ICMP if check.version == 4 else socket.IPPROTO_ICMPV6
                client = socket.socket(family, socket.SOCK_DGRAM, protocol)
            else:
                client = socket.socket(family, check.protocol)
        client.setblocking(False)
        client.bind((address_of(check.source, check.version), 0))
        try:
            client.connect((address_of(check.target, check.version), check.port))
            if check.protocol == UDP:
                client.send(b"?")
            elif check.protocol == ICMP:
                client.send(struct.pack("!BBHHH", 8 if check.version == 4 else 128, 0, 0, 0, 1))
        except BlockingIOError:
            pass
        except OSError as error:
            check.refusal = errno.errorcode.get(error.errno or 0, str(error))
        return client

    def attempt(self, checks: list[Check]) -> None:
        """Talk all at once; wait for what must pass, and long enough for what must not."""
        began = time.monotonic()
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as open_:
            for check in checks:
                client = open_.enter_context(self.start(check))
                if not check.refusal:
                    selector.register(client, selectors.EVENT_READ, check)
            while True:
                waited = time.monotonic() - began
                missing = any(c.passes and not c.answer and not c.refusal for c in checks)
                if waited > ALLOWED_WITHIN or (waited > FORBIDDEN_FOR and not missing):
                    return
                for key, dummy in selector.select(0.1):
                    self._receive(key.fileobj, key.data)
                    selector.unregister(key.fileobj)

    def _receive(self, client: Any, check: Check) -> None:
        try:
            got = client.recv(64)
        except OSError as error:
            check.refusal = errno.errorcode.get(error.errno or 0, str(error))
            return
        if check.protocol == ICMP:
            check.answer = check.target if got and got[0] in (0, 129) else ""
        else:
            check.answer = got.decode()
