# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans: a new generation is atomic for packets; options and generation are its changes."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.cluster import CLUSTER
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.identity import NO_IDENTITY
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.image import Image, differences
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    Backend,
    Declaration,
    Service,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import Node
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.plan import (
    Current,
    DatapathPlan,
    Desired,
    plan_declaration,
    plan_writes,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.snapshot import Snapshot, decode_image
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Record
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.writes import MapWrites
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.qdisc import Queue
from tests.unit.datapath.declarations import NODE, SIZES, declare, image_of, labels, policies


def written(snapshot: Snapshot, writes: MapWrites) -> Snapshot:
    """Return the maps after the commit, as ``Maps.apply`` writes them."""
    after = Snapshot(
        {name: dict(entries) for name, entries in snapshot.hashes.items()},
        dict(snapshot.arrays),
        snapshot.sizes,
        *writes.config,
    )
    for name in snapshot.hashes:
        for key in writes.delete.get(name, []):
            del after.hashes[name][key]
        after.hashes[name].update(writes.update.get(name, {}))
    for name, size in ((name, layout.SIZES[name][1]) for name in layout.ARRAYS):
        raw = bytearray(after.arrays[name])
        for key, value in writes.update.get(name, {}).items():
            (index,) = struct.unpack("=I", key)
            raw[index * size : (index + 1) * size] = value
        assert len(raw) == len(after.arrays[name]), f"{name} grew"
        after.arrays[name] = bytes(raw)
    return after


def without_removed(snapshot: Snapshot, writes: MapWrites) -> Snapshot:
    for name, keys in writes.delete_after.items():
        for key in keys:
            del snapshot.hashes[name][key]
    return snapshot


def prefix_identity(image: Image, packed: bytes) -> int:
    """Return the identity of an address that no Pod has."""
    address = ipaddress.ip_address(packed)
    matching = [
        (length, number)
        for (length, network), (number, dummy) in image.cidrs.items()
        if len(network) == len(packed) and address in ipaddress.ip_network((network, length))
    ]
    return max(matching, default=(0, 0))[1]


def empty() -> Snapshot:
    arrays = {name: bytes(SIZES[name] * layout.SIZES[name][1]) for name in layout.ARRAYS}
    return Snapshot(arrays=arrays, sizes=SIZES, generation=8)


backends = st.dictionaries(st.integers(1, 6), st.integers(0, 3))
services = st.dictionaries(
    st.sampled_from(["10.96.0.1", "10.96.0.2", "fd96::1", "0.0.0.0", "::"]),
    st.tuples(backends, st.integers(0, 2), st.none() | backends),
)
worlds = st.tuples(st.lists(labels, min_size=4, max_size=4), policies, services, st.integers(1, 4))


def world_image(world: Any) -> Image:
    pod_labels, raw_policies, fronts, count = world
    declaration = declare(pod_labels, raw_policies)
    declaration.pods = declaration.pods[:count]

    def backends_of(front: str, weights: dict[int, int]) -> tuple[Backend, ...]:
        network = "10.0.9." if "." in front else "fd09::"
        return tuple(Backend(ip_address(f"{network}{n}"), 80, weight) for n, weight in weights.items())

    declaration.services = [
        Service(
            front,
            "site",
            ip_address(front),
            80,
            6,
            backends_of(front, inside),
            (),
            affinity,
            None if outside is None else backends_of(front, outside),
        )
        for front, (inside, affinity, outside) in fronts.items()
    ]
    return image_of(declaration)


@given(st.lists(worlds, min_size=2, max_size=5))
def test_commit_is_atomic_and_never_writes_elements_in_use(states: Any) -> None:
    snapshot = empty()
    for world in states:
        image = world_image(world)
        writes, problems = plan_writes(snapshot, image)
        assert not problems
        before = decode_image(snapshot, snapshot.buffer)
        if writes is None:
            assert not differences(before, image)
            continue
        after = written(snapshot, writes)
        assert after.buffer != snapshot.buffer
        # until the commit, packets see the former generation
        former = decode_image(after, snapshot.buffer)
        for kind in ("cidrs", "policy", "services", "backends"):
            assert getattr(former, kind) == getattr(before, kind), kind
        for key, entry in before.endpoints.items():
            assert former.endpoints[key].identity == entry.identity
            assert former.endpoints[key].enforce == entry.enforce
        # new endpoints of this node have no identity and deny all traffic under policy; others are unchanged
        for key in former.endpoints.keys() - before.endpoints.keys():
            new = former.endpoints[key]
            assert new.identity == (NO_IDENTITY if new.ifindex else prefix_identity(before, key))
            for bit, deny in zip(layout.ENFORCE, layout.DENY):
                assert bool(new.enforce & deny) == bool(image.endpoints[key].enforce & bit)
        # after the commit, removed endpoints have no identity, or that of their prefix
        current = decode_image(after, after.buffer)
        for key in current.endpoints.keys() - image.endpoints.keys():
            old = current.endpoints[key]
            assert old.identity == (NO_IDENTITY if old.ifindex else prefix_identity(image, key))
        snapshot = without_removed(after, writes)
        assert not differences(decode_image(snapshot, snapshot.buffer), image)
        assert plan_writes(snapshot, image) == (None, [])


def test_external_clients_get_no_process_of_the_node() -> None:
    """Their own list of backends, if there is one."""
    node = replace(NODE, addresses=frozenset({ip_address("172.31.0.1"), ip_address("fd31::1")}))
    lists = {
        name: tuple(Backend(ip_address(one), 80) for one in addresses)
        for name, addresses in {
            "own": ["172.31.0.1"],
            "all": ["172.31.0.1", "10.0.9.1", "10.0.9.2"],
            "others": ["10.0.9.1", "10.0.9.2"],
            "local": ["10.0.9.1"],
        }.items()
    }
    for inside, outside, expected in (
        ("all", None, "others"),
        ("all", "all", "others"),
        ("all", "local", "local"),
        ("own", None, None),
        ("others", None, "others"),
    ):
        service = Service("s", "site", ip_address("10.96.0.1"), 80, 6, lists[inside])
        if outside:
            service = replace(service, external=lists[outside])
        image = Compiler(Declaration(services=[service]), node, {}).image
        found = next(iter(image.services.values()))
        assert {*image.backends[found.digest]} == {
            layout.encode_backend(one.address, one.port) for one in lists[inside]
        }
        wanted = lists[expected] if expected else ()
        assert {*image.backends.get(found.external, ())} == {
            layout.encode_backend(one.address, one.port) for one in wanted
        }


@pytest.mark.parametrize(
    ("address", "owner", "features"),
    [
        ("10.96.0.1", "site", layout.FEATURE_SERVICES),
        ("10.96.0.1", CLUSTER, layout.FEATURE_SERVICES | layout.FEATURE_EXTERNAL),
        ("::", "site", layout.FEATURE_SERVICES | layout.FEATURE_EXTERNAL | layout.FEATURE_NODE_PORTS),
    ],
)
def test_only_needed_features_are_enabled(address: str, owner: str, features: int) -> None:
    node = replace(NODE, addresses=frozenset({ip_address("172.31.0.1")}))
    service = Service("s", owner, ip_address(address), 80, 6)
    image = Compiler(Declaration(services=[service]), node, {}).image
    assert image.features == features
    assert bool(image.node_addresses) == bool(features & layout.FEATURE_NODE_PORTS)


def test_drifted_backend_is_repaired() -> None:
    image = world_image(([{"app": "web", "tier": "a"}] * 4, [], {"10.96.0.1": ({1: 1, 2: 1}, 0, None)}, 4))
    writes, _problems = plan_writes(empty(), image)
    assert writes
    snapshot = written(empty(), writes)
    drifted = bytearray(snapshot.arrays["backends"])
    drifted[0] ^= 1
    snapshot.arrays["backends"] = bytes(drifted)
    repair, _problems = plan_writes(snapshot, image)
    assert repair
    snapshot = written(snapshot, repair)
    assert plan_writes(snapshot, image) == (None, [])


WEB, DNS = ("10.96.0.1", 17), ("10.96.0.2", 17)


@pytest.mark.parametrize(
    ("before", "after", "loses"),
    [
        ({WEB: {1: 1}}, {WEB: {1: 1}}, False),
        ({}, {WEB: {1: 1}}, False),
        ({WEB: {1: 1, 2: 1}}, {WEB: {1: 9, 2: 1, 3: 1}}, False),
        ({WEB: {1: 1, 2: 1}}, {WEB: {1: 1}}, True),
        ({WEB: {1: 1, 2: 1}}, {WEB: {1: 1, 2: 0}}, False),
        ({WEB: {1: 1}}, {WEB: {1: 0}}, False),
        ({WEB: {1: 1, 2: 0}}, {WEB: {1: 1}}, True),
        ({WEB: {1: 0}}, {WEB: {}}, True),
        ({WEB: {1: 1}}, {WEB: {}}, True),
        ({WEB: {1: 1}}, {}, True),
        ({WEB: {}}, {}, False),
        ({WEB: {1: 1}, DNS: {1: 1, 2: 1}}, {WEB: {1: 1, 2: 1}, DNS: {1: 1}}, True),
        ({("10.96.0.1", 6): {1: 1, 2: 1}, WEB: {1: 1}}, {("10.96.0.1", 6): {1: 1}, WEB: {1: 1}}, False),
    ],
)
def test_services_that_lose_udp_backends(before: Any, after: Any, loses: bool) -> None:
    def image(fronts: Any) -> Image:
        services = [
            Service(
                f"s{front}",
                "site",
                ip_address(front[0]),
                53,
                front[1],
                tuple(Backend(ip_address(f"10.0.9.{n}"), 53, weight) for n, weight in weights.items()),
            )
            for front, weights in fronts.items()
        ]
        return image_of(Declaration(services=services))

    writes, problems = plan_writes(empty(), image(before))
    snapshot = written(empty(), writes) if writes else empty()
    assert not problems and not (writes and writes.loses_udp_backends)
    writes, _problems = plan_writes(snapshot, image(after))
    assert bool(writes and writes.loses_udp_backends) == loses


def test_the_first_of_many_backends_drain() -> None:
    count = layout.DRAINING_MAX + 1
    given = [Backend(ip_address(f"10.0.9.{n}"), 80, 0 if n else 1) for n in range(count + 1)]
    declaration = Declaration(services=[Service("s", "site", ip_address("10.96.0.1"), 80, 6, tuple(given))])
    snapshot = empty()
    snapshot.sizes = {**SIZES, "backends": 1024}
    snapshot.arrays["backends"] = bytes(1024 * layout.SIZES["backends"][1])
    writes, problems = plan_writes(snapshot, image_of(declaration))
    assert writes and not problems
    image = decode_image(written(snapshot, writes), writes.config[0] & 1)
    assert [*map(set, image.backends.values())] == [
        {layout.encode_backend(one.address, one.port) for one in given[:count]}
    ]


def test_all_full_maps_are_reported() -> None:
    fronts = {"10.96.0.1": ({1: 1}, 0, None), "fd96::1": ({2: 1}, 0, None)}
    world = ([{"app": "web", "tier": "a"}] * 4, [], fronts, 4)
    snapshot = empty()
    snapshot.sizes = {**SIZES, "endpoints4": 3, "pods": 1, "services": 1, "maglev": 1, "backends": 1}
    _writes, problems = plan_writes(snapshot, world_image(world))
    text = "\n".join(problems)
    for name in ("endpoints4", "pods", "services", "maglev", "backends"):
        assert f"the map {name} " in text, name
    assert len(problems) == 5


WEB = {"name": "web", "device": "hp0", "addresses": ["10.0.0.1"]}


def plan_web(
    *records: Record, node: Node = NODE, snapshot: Snapshot | None = None, **pod: Any
) -> DatapathPlan:
    owners = dict(zip(("site", "cni"), records))
    options = {"endpoints": [{**WEB, **pod}]}
    return plan_declaration(Current(node, owners, snapshot or empty()), Desired("/pins", "site", options))


def test_plan_has_options_and_generation_as_changes() -> None:
    plan = plan_web()
    assert [(change.name, change.scope) for change in plan.changes] == [
        ("endpoints", "/pins"),
        ("generation", "/pins"),
    ]
    assert (plan.changes[1].before, plan.changes[1].after) == (8, 9)
    assert (plan.updated, plan.deleted) == (["10.0.0.1"], [])
    assert plan.differences == {"endpoints": 1, "pods": 1, "node": 1}
    plan.require_valid()


def test_repeated_declaration_changes_nothing() -> None:
    first = plan_web()
    assert first.writes
    snapshot = written(empty(), first.writes)
    plan = plan_web(first.after, snapshot=snapshot)
    assert not plan and plan.writes is None and plan.differences == {}


def test_stack_services_of_all_owners_apply_until_the_last_is_removed() -> None:
    """Unlike services of the programs, whose open connections need their translation."""
    snapshot = empty()
    snapshot.features = layout.FEATURE_SERVICES | layout.FEATURE_STACK_NAT
    cni = Record({"stack_services": ["10.96.0.0/16"]})
    plan = plan_web(Record(), cni, snapshot=snapshot)
    assert plan.image.features == snapshot.features
    assert list(plan.image.cidrs.values()) == [(0, layout.CIDR_STACK_NAT)]
    assert plan_web(Record(), snapshot=snapshot).image.features == layout.FEATURE_SERVICES


def test_pods_keep_their_slots() -> None:
    cni = Record({}, {"other": 1})
    assert plan_web(Record(), cni).after.slots == {"web": 2}
    assert plan_web(Record({}, {"web": 7}), cni).after.slots == {"web": 7}


def test_pods_need_a_device() -> None:
    (problem,) = plan_web(device="none").problems
    assert problem.startswith("endpoints: devices that do not exist in this network namespace: none; use")


FQ = Queue("fq", 10000)


@pytest.mark.parametrize(
    ("uplinks", "expected"),
    [
        ({}, "endpoints (web): rate: the node has no uplink with the qdisc fq: no default route"),
        ({"eth0": [Queue("pfifo_fast")]}, "rate: the uplink eth0 has the qdisc pfifo_fast; only fq delays"),
        ({"eth0": [FQ], "wg0": [Queue("noqueue")]}, "rate: the uplink wg0 has the qdisc noqueue; only fq"),
        ({"eth0": []}, "rate: the uplink eth0 has the qdisc noqueue; only fq delays"),
        ({"eth0": [FQ, Queue("pfifo")]}, "rate: the uplink eth0 has the qdisc pfifo; only fq delays"),
        (
            {"eth0": [FQ, Queue("fq", 999)]},
            "fq on the uplink eth0 has the limit 999, and a Pod",
        ),
    ],
    ids=["no uplink", "other qdisc", "one of two", "no qdisc", "one of two queues", "limit"],
)
def test_rates_need_fq_on_each_uplink(uplinks: dict[str, list[Queue]], expected: str) -> None:
    node = replace(NODE, uplinks={"hp0": [FQ], **uplinks})
    (problem,) = plan_web(node=node, rate="10mbit").problems
    assert expected in problem
    assert not plan_web(node=node).problems


def test_rates_with_fq_on_each_uplink() -> None:
    node = replace(NODE, uplinks={"hp0": [Queue("noqueue")], "eth0": [FQ], "eth1": [FQ, FQ]})
    plan = plan_web(node=node, rate="10mbit")
    assert not plan.problems and not plan.warnings


@pytest.mark.parametrize(("limit", "warned"), [(1499, True), (1500, False)])
def test_the_limit_of_fq_suffices_for_the_pods_of_all_owners(limit: int, warned: bool) -> None:
    others = [{"name": n, "device": n, "addresses": [f"10.0.9.{n}"], "rate": "1mbit"} for n in ("1", "2")]
    node = replace(NODE, uplinks={"eth0": [Queue("fq", limit), FQ], "1": [Queue("noqueue")]})
    plan = plan_web(Record(), Record({"endpoints": others}, {"1": 2, "2": 3}), node=node, rate="1mbit")
    assert not plan.problems
    assert list(plan.warnings) == warned * [
        "rate: 3 Pods with a rate queue up to 1500 packets, and fq on the uplink eth0 has the limit 1499;"
        " beyond it packets of all Pods are dropped, so set it to at least 1500 (tc qdisc replace dev eth0"
        " root fq limit)"
    ]


def test_problems_of_reading_are_reported_with_those_of_the_declaration() -> None:
    current = Current(NODE, {}, None, ["pin_path: missing"])
    options = {"endpoints": [{**WEB, "addresses": ["10.0.0"]}]}
    plan = plan_declaration(current, Desired("/pins", "site", options))
    assert plan.problems[0] == "pin_path: missing" and "10.0.0" in plan.problems[1]


def test_planned_devices_exist_in_check_mode() -> None:
    node = NODE.with_planned(["new"])
    assert not plan_web(node=node, device="new").problems
    assert node.interfaces["hp0"] == NODE.interfaces["hp0"]
