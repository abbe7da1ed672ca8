# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services at socket level on a node: their backends, servers at these, and clients."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from tests.netns.bpf_node import Node
from tests.support.background import background

V4, V6, MAPPED = "v4", "v6", "mapped"
FLAVOURS = pytest.mark.parametrize("flavour", [V4, V6, MAPPED])
SERVICE, EMPTY = {4: "10.96.0.1", 6: "fd96::1"}, {4: "10.96.0.2", 6: "fd96::2"}
BACKENDS = {4: ("10.31.1.11", "10.31.1.12", "10.31.1.13"), 6: ("fd31:1::11", "fd31:1::12", "fd31:1::13")}
PORT, TARGET = 80, 8080


def service(
    name: str,
    address: str,
    *backends: str,
    draining: Sequence[str] = (),
    port: int = PORT,
    protocol: str = "tcp",
    **options: Any,
) -> dict[str, Any]:
    """Return a service as bpf_state declares it; its backends listen on ``TARGET``."""
    return {
        "name": name,
        "address": address,
        "port": port,
        "protocol": protocol,
        "backends": [
            *({"address": one, "port": TARGET} for one in backends),
            *({"address": one, "port": TARGET, "weight": 0} for one in draining),
        ],
        **options,
    }


class Cluster:
    """A node without Pods: backends are addresses of its loopback device, and its processes the clients."""

    def __init__(self, node: Node, group: str) -> None:
        self.node, self.group = node, group
        node.ns.ip(
            node.name,
            *(f"addr add {address}/32 dev lo" for address in BACKENDS[4]),
            *(f"addr add {address}/128 dev lo nodad" for address in BACKENDS[6]),
        )
        self.attach()

    def attach(self, **options: Any) -> Any:
        return self.node.attach(socket_lb="required", cgroup_path=self.group, **options)

    def declare(self, *services: dict[str, Any]) -> None:
        self.node.module("bpf_state", endpoints=[], services=list(services))

    def services(self, count: int = 3, **options: Any) -> None:
        """Declare services with ``count`` backends, and one without, for both families and protocols."""
        self.declare(
            *(
                service(f"{name}{version}{protocol}", at, *backends, protocol=protocol, **options)
                for version in (4, 6)
                for protocol in ("tcp", "udp")
                for name, at, backends in (
                    ("web", SERVICE[version], BACKENDS[version][:count]),
                    ("empty", EMPTY[version], ()),
                )
            )
        )

    def open(self, flavour: str, kind: int = socket.SOCK_STREAM, namespace: str = "") -> socket.socket:
        with self.node.ns.inside(namespace or self.node.name):
            made = socket.socket(socket.AF_INET if flavour == V4 else socket.AF_INET6, kind)
        made.settimeout(3)
        return made

    def connect(self, flavour: str, to: str, port: int = PORT, kind: int = socket.SOCK_STREAM) -> str:
        """Connect to an address and return that of the other end, as the server has it."""
        with self.open(flavour, kind) as client:
            client.connect((to, port))
            assert client.getpeername()[:2] == (to, port)
            client.send(b"?")
            return client.recv(64).decode()


def address(flavour: str, by_version: dict[int, str]) -> str:
    """Return an address as sockets of a flavour write it."""
    return {V4: by_version[4], V6: by_version[6], MAPPED: f"::ffff:{by_version[4]}"}[flavour]


def backends_of(flavour: str) -> tuple[str, ...]:
    return BACKENDS[6 if flavour == V6 else 4]


@contextlib.contextmanager
def servers(node: Node) -> Iterator[None]:
    """Answer all TCP connections and datagrams at the backends with the address that they arrived at."""
    tasks = []
    with contextlib.ExitStack() as files:
        for one in (*BACKENDS[4], *BACKENDS[6]):
            family = socket.AF_INET6 if ":" in one else socket.AF_INET
            with node.ns.inside(node.name):
                listener = files.enter_context(socket.create_server((one, TARGET), family=family))
                datagrams = files.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                datagrams.bind((one, TARGET))
            for target, made in ((_accept, listener), (_answer, datagrams)):
                made.settimeout(0.2)
                tasks.append(partial(target, made, one))
        with background(*tasks):
            yield


def _accept(listener: socket.socket, name: str, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(OSError):
            connection, _peer = listener.accept()
            with connection:
                connection.settimeout(60)  # a test may declare services meanwhile
                connection.recv(64)
                connection.send(name.encode())


def _answer(datagrams: socket.socket, name: str, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(OSError):
            _data, peer = datagrams.recvfrom(64)
            datagrams.sendto(name.encode(), peer)
