# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent attaches Pods for a CNI plugin, with Debian's host-local for their addresses."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Store
from tests.netns.bpf_node import Node
from tests.support.agent import Agent, Reply

RANGES = [[{"subnet": "10.78.0.0/24"}], [{"subnet": "fd78::/64"}]]
ROUTER = "10.78.255.1"


class Cni:
    """A node with programs and a running agent, and its containers."""

    def __init__(self, node: Node, folder: Path, **config: Any) -> None:
        self.node, self.folder = node, folder
        node.ns.sysctl(node.name, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        node.ns.ip(node.name, f"address add {ROUTER}/32 dev lo")
        node.attach()
        self.config = {
            "cniVersion": "1.0.0",
            "name": "test",
            "type": "podnet",
            "ipam": {"type": "host-local", "dataDir": str(folder / "ipam"), "ranges": RANGES},
        }
        settings = {"node": "n", "driver": "veth", "object": node.object, "pin_path": node.pins, **config}
        self.agent = Agent(node.name, folder, settings)
        self.agent.start()
        self.containers: dict[str, str] = {}

    def container(self, name: str) -> str:
        """Return the container's network namespace, by its path."""
        if name not in self.containers:
            self.containers[name] = self.node.ns(name)
        return f"/run/netns/{self.containers[name]}"

    def call(self, command: str, name: str, config: Any = None, **variables: str) -> Reply:
        given = {"CONTAINERID": name, "NETNS": self.container(name), "IFNAME": "eth0"}
        return self.agent.call(command, self.config if config is None else config, **{**given, **variables})

    def add(self, name: str, config: Any = None, **variables: str) -> dict[str, Any]:
        reply = self.call("ADD", name, config, **variables)
        assert reply.status == 0, reply.body
        return reply.body

    def delete(self, name: str, **variables: str) -> None:
        reply = self.call("DEL", name, **variables)
        assert reply == Reply(0, {})

    def pings(self, name: str, to: str) -> bool:
        words = ("ping", "-c1", "-W1", to)
        return " 0% packet loss" in self.node.ns.run(self.containers[name], *words, check=False)

    def leftovers(self) -> list[Any]:
        """Return what the agent has created: devices, routes, pins, entries, records, addresses."""
        links = json.loads(self.node.ns.run(self.node.name, "ip", "-json", "link"))
        routes = self.node.ns.run(self.node.name, "ip", "route").splitlines()
        reserved = self.folder / "ipam" / "test"
        return [
            *(link["ifname"] for link in links if link["ifname"].startswith("pn")),
            *(route for route in routes if "dev pn" in route),
            *map(str, Path(self.node.pins).glob("links/pods_cni/*")),
            *(record for record in Store(self.node.pins).read() if record == "cni"),
            *self.agent.records(),
            *(path.name for path in reserved.glob("*") if path.name[0].isdigit() or path.name[0] == "f"),
        ]


@pytest.fixture
def cni(node: Node, tmp_path: Path) -> Iterator[Cni]:
    made = Cni(node, tmp_path)
    yield made
    for name in made.containers:
        made.call("DEL", name)
    made.agent.stop()


def test_containers_are_attached_and_detached(cni: Cni) -> None:
    first = cni.add("one", ARGS="K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;IgnoreUnknown=1")
    second = cni.add("two")
    addresses = [entry["address"] for entry in second["ips"]]
    assert addresses == ["10.78.0.3/32", "fd78::3/128"]
    assert first["interfaces"][1]["sandbox"] == cni.container("one")
    for address in (*(one.partition("/")[0] for one in addresses), ROUTER):
        assert cni.pings("one", address), address
    assert cni.call("CHECK", "one", {**cni.config, "prevResult": first}) == Reply(0, {})
    cni.delete("one")
    cni.delete("one", NETNS="")
    cni.delete("two", NETNS="")
    assert cni.leftovers() == []


def test_a_restarted_agent_knows_its_containers(cni: Cni) -> None:
    result = cni.add("one")
    for number in (signal.SIGTERM, signal.SIGKILL):
        cni.agent.stop(number)
        assert cni.pings("one", ROUTER)
        cni.agent.start()
        assert cni.call("CHECK", "one", {**cni.config, "prevResult": result}) == Reply(0, {})
    cni.delete("one")
    assert cni.leftovers() == []
