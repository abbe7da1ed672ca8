# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two nodes with programs and Pods, servers in every namespace, and clients that test connections.

::

    node1: front web db other -- wire0 ======== wire0 -- remote, world :node2

world is a host outside of the cluster, without programs.
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

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import apply
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import info as _datapath_info
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import libbpf
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach as _bpf_attach
from ansible_collections.podnet.datapath.plugins.module_utils._programs.resolve import Request
from tests.support.pod_nodes import NODES, Devices, Nodes, Pod

PODS = {
    "front": Pod("node1", "10.31.1.11", "fd31:1::11", {"app": "front", "ns": "shop"}),
    "web": Pod("node1", "10.31.1.12", "fd31:1::12", {"app": "web", "ns": "shop"}),
    "db": Pod("node1", "10.31.1.13", "fd31:1::13", {"app": "db", "ns": "shop"}),
    "other": Pod("node1", "10.31.1.14", "fd31:1::14", {"app": "other", "ns": "lab", "special": "yes"}),
    "remote": Pod("node2", "10.31.2.11", "fd31:2::11", {"app": "front", "ns": "shop"}),
    "world": Pod("node2", "192.0.2.10", "2001:db8::10", programs=False),
}
VIP = ("10.96.0.10", "fd96::10")
TCP, UDP, SCTP, ICMP = socket.SOCK_STREAM, socket.SOCK_DGRAM, "sctp", "icmp"
LISTEN = ((TCP, (80, 81, 443)), (UDP, (53, 80)), (SCTP, (80, 81)))
PROTOCOLS = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "sctp": SCTP}

FORBIDDEN_FOR = 0.4  # seconds to wait for packets that must not arrive
ALLOWED_WITHIN = 10.0  # seconds for packets that must arrive, on a busy machine


def address_of(name: str, version: int) -> str:
    index = 0 if version == 4 else 1
    if name in PODS:
        return (PODS[name].v4, PODS[name].v6)[index]
    return {**NODES, "vip": VIP}[name][index]


@dataclass
class Check:
    """One connection attempt and its result."""

    source: str
    target: str
    protocol: Any
    port: int
    version: int
    passes: bool
    answer: str = ""
    refusal: str = ""

    def __str__(self) -> str:
        words = {protocol: word for word, protocol in PROTOCOLS.items()}
        came = f"answered by {self.answer}" if self.answer else self.refusal or "no answer"
        return (
            f"{self.source} > {self.target} {words[self.protocol]}/{self.port} v{self.version}:"
            f" {'must' if self.passes else 'must not'} pass, {came}"
        )


def has_sctp() -> bool:
    """Return whether the running kernel supports SCTP."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


def open_socket(version: int, protocol: Any) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    if protocol == SCTP:
        return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_SCTP)
    if protocol == ICMP:
        icmp = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        return socket.socket(family, socket.SOCK_DGRAM, icmp)
    return socket.socket(family, protocol)


def checks_of(text: str, passes: bool) -> Iterator[Check]:
    sources, dummy, rest = text.partition(" > ")
    targets, protocols, *versions = rest.split(" ")
    for source, target, one in itertools.product(
        sources.split(","), targets.split(","), protocols.split(",")
    ):
        protocol, dummy, port = one.partition("/")
        for version in (4, 6):
            if not versions or versions[0] == f"v{version}":
                yield Check(source, target, PROTOCOLS[protocol], int(port or 0), version, passes)


class Lab(Nodes):
    """The nodes with attached programs and running servers."""

    def __init__(
        self, namespaces: Any, bpffs: str, datapath_object: str, devices: Devices | None = None
    ) -> None:
        super().__init__(namespaces, PODS, devices)
        self.object = datapath_object
        self.pins = {node: f"{bpffs}/policy-{self.names[node]}" for node in NODES}
        for name in self.names.values():
            namespaces.sysctl(name, ipv4__ping_group_range="0 2147483647")
        for node in NODES:
            self.attach(node)
        self.stop = threading.Event()
        self.server = threading.Thread(target=self._serve)
        self.server.start()

    def attach(self, node: str, **rodata: int) -> list[str]:
        """Load the programs and attach them on a node; return the changes."""
        with libbpf.BpfObject(self.object, rodata) as programs:
            return self.install(node, programs)

    def install(self, node: str, programs: libbpf.BpfObject) -> list[str]:
        attachments = [Request(*words) for words in self.attachments(node)]
        with self.ns.inside(self.names[node]):
            result = _bpf_attach.install(_bpf_attach.Desired(self.pins[node], attachments), programs)
        return list(result.values["changes"])

    def declare(
        self,
        policies: Sequence[dict[str, Any]] = (),
        services: Sequence[dict[str, Any]] = (),
        masqueraded: Sequence[str] = (),
        stack_services: Sequence[str] = (),
    ) -> None:
        """Apply Pods, policies and services to both nodes, as the role pods does."""
        raw = {
            name: {"name": name, "node": pod.node, "addresses": [pod.v4, pod.v6], "labels": {**pod.labels}}
            for name, pod in PODS.items()
            if pod.programs
        }
        for node, (v4, v6) in NODES.items():
            here = [
                {**pod, "device": name, "masquerade": name in masqueraded}
                for name, pod in raw.items()
                if pod["node"] == node
            ]
            with self.ns.inside(self.names[node]):
                options = {
                    "endpoints": here,
                    "remote_pods": [pod for pod in raw.values() if pod["node"] != node],
                    "policies": policies,
                    "services": services,
                    "masquerade": {"ipv4": v4, "ipv6": v6} if masqueraded else {},
                    "stack_services": stack_services,
                    "node": node,
                }
                apply.configure(apply.Desired(self.pins[node], "site", options))

    def info(self) -> dict[str, Any]:
        """Return node1's Pods of datapath_info by name."""
        with self.ns.inside(self.names["node1"]):
            gathered = _datapath_info.gather(self.pins["node1"])
        return {pod["name"]: pod for pod in gathered["pods"]}

    def _serve(self) -> None:
        """Answer every client with the name of the server's namespace."""
        listen = [(kind, port) for kind, ports in LISTEN for port in ports if kind != SCTP or has_sctp()]
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as open_:
            for name, version, (kind, port) in itertools.product((*PODS, "node1"), (4, 6), listen):
                with self.ns.inside(self.names[name]):
                    server = open_.enter_context(open_socket(version, kind))
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if version == 6:
                    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # bind to the address, so that a UDP reply has it as source
                server.bind((address_of(name, version), port))
                server.setblocking(False)
                if kind != UDP:
                    server.listen(64)
                selector.register(server, selectors.EVENT_READ, (name, kind))
            while not self.stop.is_set():
                for key, dummy in selector.select(0.2):
                    name, kind = key.data
                    with contextlib.suppress(OSError):
                        if kind == UDP:
                            dummy, client = key.fileobj.recvfrom(64)  # type: ignore[union-attr]
                            key.fileobj.sendto(name.encode(), client)  # type: ignore[union-attr]
                        elif kind in (TCP, SCTP):
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

    def start(self, check: Check) -> socket.socket:
        """Open a client socket and send the first packet; store an immediate error in the check."""
        with self.ns.inside(self.names[check.source]):
            client = open_socket(check.version, check.protocol)
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
        """Run all checks at once; wait for all required answers, and at least FORBIDDEN_FOR seconds."""
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
