# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node whose Pods are created and removed in one call, and packets of Pods to the node."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Result
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import info
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Store
from ansible_collections.podnet.datapath.plugins.module_utils._pods import api
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal
from tests.netns.bpf_node import Node
from tests.support.namespaces import Namespaces

PORT = 7000
HOST = "10.77.1.1"  # an address of the node


def command(words: Sequence[str]) -> tuple[int, str, str]:
    """Stand in for modprobe and systemctl."""
    return 1, "", "not available in this test"


def pings(namespaces: Namespaces, netns: str, to: str) -> bool:
    """Return whether one of three packets to an address is answered; a busy machine may delay one."""
    return " 1 received" in namespaces.run(netns, "ping", "-c1", "-w3", to, check=False)


class Bench:
    """A node with pinned programs, and the owner of its Pods."""

    def __init__(self, node: Node, owner: str) -> None:
        self.node, self.owner = node, owner
        node.ns.sysctl(node.name, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        node.ns.ip(node.name, f"address add {HOST}/32 dev lo")
        node.attach()

    def pod(self, name: str, number: int, **others: Any) -> api.PodSpec:
        addresses = [f"10.77.0.{number}/32", f"fd77::{number}/128"]
        return api.PodSpec(**{"name": f"{self.owner}-{name}", "addresses": addresses, **others})

    def spec(self, **others: Any) -> api.NodeSpec:
        options = {"driver": "veth", "owner": self.owner, "object": self.node.object}
        return api.NodeSpec(**{**options, "pin_path": self.node.pins, **others})

    def ensure(
        self, *pods: api.PodSpec, remove_others: bool = True, check: bool = False, **others: Any
    ) -> Result:
        with self.node.ns.inside(self.node.name):
            return api.ensure(self.spec(**others), pods, remove_others, command, check)

    def remove(self, *names: str, check: bool = False) -> Result:
        with self.node.ns.inside(self.node.name):
            return api.remove(self.spec(), [f"{self.owner}-{name}" for name in names], command, check)

    def state(self) -> list[Any]:
        """Return devices, routes, attachments, map entries and stored declarations."""
        routes = self.node.ns.run(self.node.name, "ip", "-json", "route")
        links = [
            (link["ifname"], link["flags"], link.get("ifalias"))
            for link in json.loads(self.node.ns.run(self.node.name, "ip", "-json", "link"))
        ]
        declared = Store(self.node.pins).read()
        with self.node.ns.inside(self.node.name):
            found = info.gather(self.node.pins)
        entries = [
            {key: value for key, value in pod.items() if key not in ("packets", "ifindex", "slot")}
            for pod in found["pods"]
        ]
        return [
            links,
            routes,
            self.pinned(),
            entries,
            {name: record.options for name, record in declared.items()},
        ]

    def pinned(self) -> list[str]:
        """Return the pins of attachments."""
        return sorted(map(str, Path(self.node.pins).rglob("links/*/*")))

    def links(self, netns: str, interface: str) -> list[dict[str, Any]]:
        """Return index, peer's index and MAC address of an interface, as ``ip -json link`` does."""
        found = json.loads(self.node.ns.run(netns, "ip", "-json", "link", "show", interface))
        return [{key: link[key] for key in ("ifindex", "link_index", "address")} for link in found]

    def pings(self, pod: str, to: str) -> bool:
        return pings(self.node.ns, f"{self.owner}-{pod}", to)


class Flood:
    """Sends packets from a namespace to the node's address, and counts those that arrive."""

    def __init__(self, bench: Bench, netns: str) -> None:
        with bench.node.ns.inside(bench.node.name):
            self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.bind((HOST, PORT))
        self.receiver.setblocking(False)
        with bench.node.ns.inside(netns):
            self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.setblocking(False)
        self.sent = self.received = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):  # the network is unreachable until the device is up
                self.sender.sendto(b"packet", (HOST, PORT))
                self.sent += 1
            with contextlib.suppress(BlockingIOError):
                while self.receiver.recv(100):
                    self.received += 1
            time.sleep(0.0002)

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        time.sleep(0.3)
        self._stop.set()
        self._thread.join()
        self.sender.close()
        self.receiver.close()


def pods_node(node: Node, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Yield a bench with a journal in ``folder``, and remove its Pods."""
    monkeypatch.setattr(journal, "FOLDER", str(folder / "journal"))
    bench = Bench(node, f"test{os.getpid()}")
    yield bench
    node.attach(state="absent")
    for owner in (bench.owner, f"{bench.owner}-x"):
        # With programs, each call would load them.
        bench.ensure(owner=owner, programs_enabled=False)
        Path(f"/run/podnet/routes/{owner}.json").unlink(missing_ok=True)
