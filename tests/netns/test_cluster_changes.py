# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random changes of a cluster, killed at random writes, end in the maps that are computed from scratch.

After each write, every verdict is that before or that after the change, and so are all services together.
PODNET_COUNT (10) is the number of sequences.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.image import Image
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.live import LiveEntries
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.maps import Maps
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.merge import merge_records
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    Backend,
    Pod,
    Policy,
    Service,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import read_interfaces, read_node
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.parse import parse
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.snapshot import (
    Services,
    Snapshot,
    decode_image,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Store, all_slots
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.netns.bpf_node import Node
from tests.unit.datapath.declarations import HOST, labels, policies, services_of, without_numbers
from tests.unit.datapath.programs import Programs

COUNT = int(os.environ.get("PODNET_COUNT") or 10)
LOCAL, PODS = 3, 7  # Pods that may be on this node; the last two have the same address
WRITING = {
    bpf.BPF_MAP_UPDATE_ELEM,
    bpf.BPF_MAP_DELETE_ELEM,
    bpf.BPF_MAP_UPDATE_BATCH,
    bpf.BPF_MAP_DELETE_BATCH,
}
PACKETS = ((6, 80), (6, 81), (17, 80), (1, 0x800))


def addresses(number: int) -> list[str]:
    number = min(number, PODS - 2)
    return [f"10.0.{number % 2}.{number + 1}", f"fd00::{number + 1}"]


EVERY = [*(one for number in range(PODS - 1) for one in addresses(number)), HOST, "10.0.1.200", "192.0.2.1"]


def api_pod(number: int, found: dict[str, str]) -> Pod:
    parsed = tuple(map(ipaddress.ip_address, addresses(number)))
    return Pod(f"ns/p{number}", "kubernetes", parsed, found, "n", uid=f"u{number}")


def api_policies(raw: list[dict[str, Any]]) -> list[Policy]:
    declared, problems = parse({"policies": raw}, "kubernetes")
    assert not problems
    return declared.policies


def endpoint(number: int) -> dict[str, Any]:
    named = {"name": f"e{number}", "device": f"s{number}", "display_name": f"ns/p{number}"}
    ports = [{"port": 30000 + number, "target": 80, "protocol": "tcp"}] if number else []
    return {**named, "uid": f"u{number}", "addresses": addresses(number), "host_ports": ports}


numbers = st.integers(0, PODS - 1)
# Backends by the last byte of the service's address
services = st.dictionaries(st.integers(1, 3), st.sets(st.integers(1, 4)))
changes = st.one_of(
    st.tuples(st.just("pod"), numbers, st.one_of(st.none(), labels)),
    st.tuples(st.just("pods"), st.dictionaries(numbers, st.one_of(st.none(), labels), min_size=1)),
    st.tuples(st.just("policies"), policies),
    st.tuples(st.just("services"), services),
    st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, LOCAL - 1)),
)
operations = st.lists(st.tuples(changes, st.one_of(st.none(), st.integers(1, 12))), min_size=3, max_size=10)


# The API has the address of a Pod before the Pod is added.
KNOWN_FIRST = [
    (("pod", 0, {"app": "db"}), None),
    (("policies", [{"name": "none", "pods": {"labels": {"app": "db"}}, "egress": []}]), None),
    (("add", 0), None),
]

# The last change is killed after the commit of services that the one before did not commit.
KILLED_AFTER_COMMIT = [
    (("services", {1: {1, 2, 3, 4}}), None),
    (("services", {1: set(), 2: {1, 3}, 3: set()}), 3),
    (("policies", [{"name": "none", "pods": {"labels": {"app": "db"}}, "egress": []}]), 6),
]


def api_services(raw: dict[int, set[int]]) -> list[Service]:
    def parsed(text: str) -> Any:
        return ipaddress.ip_address(text)

    return [
        Service(
            *(f"ns/s{number}:80", "kubernetes", parsed(f"10.96.0.{number}"), 80, 6, tuple(backends)),
            # Some have clients that change with their backends.
            sources=tuple(ipaddress.ip_network(f"10.{one}.0.0/16") for one in found) if number > 1 else None,
        )
        for number, found in raw.items()
        for backends in [[Backend(parsed(f"10.0.0.{one}"), 8080) for one in sorted(found)]]
    ]


class Killed(BaseException):
    """Stands for a signal that no handler catches."""


class World:
    """The node, its stored declarations, and what the API declares."""

    def __init__(self, pins: str) -> None:
        self.pins, self.store = pins, Store(pins)
        self.entries = self.process()
        self.pods: dict[str, Pod] = {}
        self.policies: list[Policy] = []
        self.services: list[Service] = []

    def process(self) -> LiveEntries:
        return LiveEntries(self.pins, "cni", {"node": "n", "in_cluster": True})

    def operation(self, change: tuple[Any, ...]) -> Callable[[], object]:
        """Return the call that makes a change, and change the API's objects."""
        kind, *given_ = change
        if kind in ("add", "remove"):
            one = endpoint(given_[0])
            if kind == "add":
                return lambda: self.entries.add([one], read_interfaces())
            return lambda: self.entries.remove([one["name"]])
        if kind in ("policies", "services"):
            if kind == "policies":
                self.policies = api_policies(given_[0])
            else:
                self.services = api_services(given_[0])
            return lambda: self.entries.set_cluster(self.pods, self.policies, self.services)
        found = given_[0] if kind == "pods" else {given_[0]: given_[1]}
        pods = {f"ns/p{n}": None if one is None else api_pod(n, one) for n, one in found.items()}
        self.pods = {name: one for name, one in {**self.pods, **pods}.items() if one}
        return lambda: self.entries.update_pods(pods)

    def read(self) -> Snapshot:
        with contextlib.ExitStack() as files:
            return Maps.pinned(self.pins, files).read()

    def image(self) -> Image:
        snapshot = self.read()
        return decode_image(snapshot, snapshot.buffer)

    def desired(self) -> Image:
        """Return the image of what is stored, computed from scratch."""
        records = self.store.read()
        declaration = merge_records(records, self.store.cluster.read())
        return Compiler(declaration, read_node(self.pins), all_slots(records)).image


def stray_sources(snapshot: Snapshot) -> list[Any]:
    """Return the networks of clients that no service has: the next service would have them."""
    found = Services(snapshot)
    services = found.entries[snapshot.buffer]
    return [one for one in found.sources[snapshot.buffer] if one[0] not in services]


def verdicts(image: Image) -> dict[tuple[str, str, int, int, int], bool]:
    """Return the verdict of each packet from or to a Pod of this node, by direction."""
    programs = Programs(image, [HOST])
    return {
        (pod, peer, direction, *packet): programs.allows(pod, peer, direction, *packet)
        for pod in EVERY
        if pod != HOST and programs.is_local(pod)
        for peer in EVERY
        if (":" in pod) == (":" in peer)
        for direction in (0, 1)
        for packet in PACKETS
    }


@pytest.fixture
def world(node: Node, tmp_path: Path) -> Iterator[World]:
    node.ns.ip(node.name, *(f"link add s{number} type veth peer name t{number}" for number in range(LOCAL)))
    node.attach()
    with node.ns.inside(node.name):
        made = World(node.pins)
        yield made
        made.entries.close()


# Shrinking would take longer than reading the sequence.
@settings(
    max_examples=COUNT,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(sequence=operations)
@example(sequence=KNOWN_FIRST)
@example(sequence=KILLED_AFTER_COMMIT)
def test_changes_end_in_the_maps_from_scratch(world: World, sequence: Any) -> None:
    real_call, real_commit = bpf.bpf, Maps.commit
    before: dict[Any, bool] = {}
    after: dict[Any, bool] = {}
    seen: list[dict[Any, bool]] = []
    seen_services: list[dict[str, Any]] = []
    remaining: int | None = None

    def written() -> None:
        nonlocal remaining
        with pytest.MonkeyPatch.context() as quiet:
            quiet.setattr(bpf, "bpf", real_call)
            image = world.image()
            seen.append(verdicts(image))
            seen_services.append(services_of(image))
        if remaining is not None:
            remaining -= 1
            if not remaining:
                raise Killed

    def call(command: int, attr: Any) -> int:
        result = real_call(command, attr)
        if command in WRITING:
            written()
        return result

    def commit(maps: Maps, generation: int, features: int) -> None:
        real_commit(maps, generation, features)
        written()

    world.entries.close()
    world.entries = world.process()
    world.entries.remove([f"e{number}" for number in range(LOCAL)])
    world.pods, world.policies, world.services = {}, [], []
    world.entries.set_cluster({}, [], [])
    image = world.image()
    for change, remaining in sequence:
        before, former_services = verdicts(image), services_of(image)
        seen.clear()
        seen_services.clear()
        operation = world.operation(change)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bpf, "bpf", call)
            patch.setattr(Maps, "commit", commit)
            patch.setattr(bpf, "_batch", lambda *_arguments: False)
            try:
                operation()
            except Killed:
                world.entries.close()
                world.entries = world.process()
                remaining = None
                world.entries.complete()
        snapshot = world.read()
        image = decode_image(snapshot, snapshot.buffer)
        assert without_numbers(image) == without_numbers(world.desired()), change
        assert not stray_sources(snapshot), change
        after, services_after = verdicts(image), services_of(image)
        assert all(one in (former_services, services_after) for one in seen_services), change
        if change[0] == "pods" and len(change[1]) > 1:
            continue  # Each of several Pods may change first.
        for number, found in enumerate(seen):
            for packet, verdict in found.items():
                allowed = {one[packet] for one in (before, after) if packet in one}
                # A Pod that is added or removed denies all traffic meanwhile; its device is down.
                if packet not in before or packet not in after:
                    allowed.add(False)
                assert verdict in allowed, (change, number, packet)


def test_changes_of_the_nodes_addresses(world: World, node: Node) -> None:
    """The new one is that of a Pod on another node as well."""
    world.operation(("services", {1: {1}}))()
    world.operation(("pod", 0, {"app": "db"}))()
    former = world.image()
    for command in ("add", "delete"):
        node.ns.ip(node.name, f"address {command} {addresses(0)[0]}/24 dev t0")
        world.operation(("services", {1: {1}, 2: {2}} if command == "add" else {1: {1}}))()
        world.entries.update_node()
        snapshot = world.read()
        image = decode_image(snapshot, snapshot.buffer)
        assert without_numbers(image) == without_numbers(world.desired())
        assert (image.node == former.node) == (image.endpoints == former.endpoints) == (command == "delete")
        world.entries.update_node()
        assert world.read().generation == snapshot.generation
