# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From declarations to maps: the tables say what the policies say, and change at once."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import compile as _datapath_compile
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout, maglev, parse, union
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import plan as _datapath_plan
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import policy as _datapath_policy
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import snapshot as _datapath_snapshot
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Interface
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.layout import Image
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    CidrSelector,
    Declaration,
    HostSelector,
    Pod,
    PodSelector,
    Policy,
    Ports,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.plan import Plan
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.snapshot import Snapshot

HOST = "172.31.0.1"
PODS = ("10.0.0.1", "10.0.0.2", "10.0.1.3", "10.0.1.4")
OTHERS = (HOST, "10.0.1.200", "10.1.2.3", "192.0.2.1", "fd00::1", "fd00:1::1")
PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1}

SIZES = {
    **dict.fromkeys(layout.SIZES, 1024),
    "rulesets": 128,
    "tables": 16,
    "backends": 64,
    "node": 2,
}

labels = st.fixed_dictionaries({"app": st.sampled_from(["web", "db"]), "tier": st.sampled_from(["a", "b"])})
some_labels = st.sampled_from([{}, {"app": "web"}, {"app": "db", "tier": "a"}, {"tier": "b"}])
expressions = st.sampled_from(
    [
        {"key": "app", "operator": "In", "values": ["db"]},
        {"key": "app", "operator": "NotIn", "values": ["db"]},
        {"key": "tier", "operator": "Exists"},
        {"key": "tier", "operator": "DoesNotExist"},
    ]
)
pod_selectors = st.one_of(
    some_labels.map(lambda found: {"labels": found}),
    expressions.map(lambda found: {"expressions": [found]}),
    st.sampled_from(["p0", "p3"]).map(lambda name: {"names": [name]}),
)
cidrs = st.sampled_from(
    [
        {"cidr": "0.0.0.0/0"},
        {"cidr": "10.0.0.0/8", "except": ["10.0.1.0/24"]},
        {"cidr": "10.0.0.0/23"},
        {"cidr": "10.0.1.0/24", "except": ["10.0.1.3/32", "10.0.1.128/25"]},
        {"cidr": "10.0.1.3/32"},
        {"cidr": "fd00::/32"},
        {"cidr": "::/0", "except": ["fd00:1::/64"]},
    ]
)
peers = st.lists(st.one_of(pod_selectors, cidrs, st.just({"host": True})), max_size=3, unique_by=str)
ports = st.lists(
    st.sampled_from(
        [
            {"protocol": "tcp", "port": 80},
            {"protocol": "tcp", "port": 79, "end_port": 82},
            {"protocol": "tcp", "port": 90, "end_port": 90},
            {"protocol": "udp", "port": 80},
            {"protocol": "tcp"},
            {"protocol": "icmp", "type": 8},
        ]
    ),
    max_size=3,
)
actions = st.sampled_from(["allow", "allow", "deny", None])


def rules(peer: str) -> Any:
    return st.lists(st.fixed_dictionaries({peer: peers, "ports": ports, "action": actions}), max_size=3)


defaults = st.sampled_from([None, "deny", "allow"])
policies = st.lists(
    st.one_of(
        st.fixed_dictionaries({"pods": pod_selectors, "ingress": rules("from"), "ingress_default": defaults}),
        st.fixed_dictionaries({"pods": pod_selectors, "egress": rules("to"), "egress_default": defaults}),
    ),
    max_size=5,
).map(lambda found: [{**one, "name": f"n{i}", "optional": True} for i, one in enumerate(found)])


def declare(pod_labels: list[dict[str, str]], raw_policies: list[dict[str, Any]]) -> Declaration:
    """Two Pods of this node, two of another."""
    raw = [{"name": f"p{i}", "addresses": [a], "labels": pod_labels[i]} for i, a in enumerate(PODS)]
    for pod in raw[:2]:
        pod["device"] = f"h{pod['name']}"
    own, problems = parse.parse(
        {"endpoints": raw[:2], "remote_pods": raw[2:], "policies": raw_policies}, "site"
    )
    declared, more = union.union(own, [])
    assert not problems and not more, problems + more
    return declared


INTERFACES = {"hp0": Interface(10), "hp1": Interface(11)}


def image_of(declared: Declaration) -> Image:
    compiled, problems = _datapath_compile.compile_image(
        declared, INTERFACES, {}, [ipaddress.ip_address(HOST)]
    )
    assert not problems
    return compiled.image


class Programs:
    """Reads an image as the programs do."""

    def __init__(self, image: Image) -> None:
        self.image = image

    def identity(self, text: str) -> int:
        address = ipaddress.ip_address(text)
        if address.packed in self.image.endpoints:
            return self.image.endpoints[address.packed].identity
        best = (-1, 0)
        for (length, packed), (identity, dummy) in self.image.cidrs.items():
            if len(packed) == len(address.packed) and address in ipaddress.ip_network((packed, length)):
                best = max(best, (length, identity))
        return best[1]

    def allows(self, pod: str, peer: str, direction: int, protocol: int, port: int) -> bool:
        me = self.image.endpoints[ipaddress.ip_address(pod).packed]
        if not me.enforce & layout.ENFORCE[direction]:
            return True
        raw = self.image.policy.get((me.identity, self.identity(peer), direction))
        if raw is None:
            return not me.enforce & layout.DENY[direction]
        return layout.decode_ruleset(raw).allows(protocol, port)


def naive(declared: Declaration, pod: str, peer: str, direction: int, protocol: int, port: int) -> bool:
    """What the policies say, by their definition."""
    by_address = {str(address): one for one in declared.pods for address in one.addresses}

    def is_meant(selector: object) -> bool:
        if isinstance(selector, HostSelector):
            return peer == HOST
        if isinstance(selector, CidrSelector):
            return peer != HOST and selector.matches(ipaddress.ip_address(peer))
        assert isinstance(selector, PodSelector)
        return peer in by_address and selector.matches(by_address[peer])

    selecting = [
        policy
        for policy in declared.policies
        if policy.subject.matches(by_address[pod]) and policy.defaults[direction] is not None
    ]
    verdicts = [
        rule.allow
        for policy in selecting
        for rule in policy.rules
        if rule.direction == direction
        and (not rule.peers or any(is_meant(one) for one in rule.peers))
        and (not rule.ports or any(p.protocol == protocol and p.first <= port <= p.last for p in rule.ports))
    ]
    if direction == 0 and peer == HOST:
        verdicts.append(True)
    if verdicts:
        return all(verdicts)
    return all(policy.defaults[direction] for policy in selecting)


@given(st.lists(labels, min_size=4, max_size=4), policies)
def test_tables_say_what_the_policies_say(pod_labels: Any, raw_policies: Any) -> None:
    declared = declare(pod_labels, raw_policies)
    programs = Programs(image_of(declared))
    for pod in PODS[:2]:
        for peer in (*PODS, *OTHERS):
            for direction in (0, 1):
                for protocol, port in ((6, 80), (6, 81), (6, 90), (17, 80), (1, 0x800), (47, 0)):
                    packet = (pod, peer, direction, protocol, port)
                    assert programs.allows(*packet) == naive(declared, *packet), packet


ranges = st.lists(
    st.builds(
        lambda protocol, a, b: Ports(protocol, min(a, b), max(a, b)),
        st.sampled_from([6, 17]),
        st.integers(0, 20),
        st.integers(0, 20),
    )
)


@given(ranges, ranges, st.booleans())
def test_rulesets_keep_every_port(allowed: list[Ports], denied: list[Ports], default: bool) -> None:
    found = _datapath_policy.ruleset(allowed, denied, default)

    def inside(some: list[Ports], protocol: int, port: int) -> bool:
        return any(one.protocol == protocol and one.first <= port <= one.last for one in some)

    for protocol in (6, 17, 1):
        for port in range(22):
            expected = (default or inside(allowed, protocol, port)) and not inside(denied, protocol, port)
            assert found.allows(protocol, port) == expected
    assert list(found.ranges) == _datapath_policy.merge(found.ranges)
    assert layout.decode_ruleset(layout.encode_ruleset(found)) == found


# ---------------------------------------------------------------- maps


def written(snapshot: Snapshot, plan: Plan) -> Snapshot:
    """The maps after a plan, as ``Maps.apply`` writes it."""
    after = Snapshot(
        {name: dict(entries) for name, entries in snapshot.hashes.items()},
        dict(snapshot.arrays),
        snapshot.sizes,
        *plan.config,
    )
    for name in snapshot.hashes:
        for key in plan.delete.get(name, []):
            del after.hashes[name][key]
        after.hashes[name].update(plan.update.get(name, {}))
    for name, size in ((name, layout.SIZES[name][1]) for name in layout.ARRAYS):
        raw = bytearray(after.arrays[name])
        for key, value in plan.update.get(name, {}).items():
            (index,) = struct.unpack("=I", key)
            raw[index * size : (index + 1) * size] = value
        assert len(raw) == len(after.arrays[name]), f"{name} grew"
        after.arrays[name] = bytes(raw)
    return after


def removed(snapshot: Snapshot, plan: Plan) -> Snapshot:
    for name, keys in plan.gone.items():
        for key in keys:
            del snapshot.hashes[name][key]
    return snapshot


def empty() -> Snapshot:
    arrays = {name: bytes(SIZES[name] * layout.SIZES[name][1]) for name in layout.ARRAYS}
    return Snapshot(arrays=arrays, sizes=SIZES, generation=8)


services = st.dictionaries(
    st.sampled_from(["10.96.0.1", "10.96.0.2", "fd96::1"]),
    st.dictionaries(st.integers(1, 6), st.integers(0, 3), min_size=1).filter(
        lambda found: any(found.values())
    ),
)
worlds = st.tuples(st.lists(labels, min_size=4, max_size=4), policies, services, st.integers(1, 4))


def world_image(world: Any) -> Image:
    pod_labels, raw_policies, fronts, count = world
    declared = declare(pod_labels, raw_policies)
    declared.pods = declared.pods[:count]
    raw = [
        {
            "name": front,
            "address": front,
            "port": 80,
            "backends": [
                {"address": f"{'10.0.9.' if '.' in front else 'fd09::'}{n}", "weight": weight}
                for n, weight in backends.items()
            ],
        }
        for front, backends in fronts.items()
    ]
    own, problems = parse.parse({"services": raw}, "site")
    assert not problems
    declared.services = own.services
    return image_of(declared)


@given(st.lists(worlds, min_size=2, max_size=5))
def test_banks_turn_over_and_nothing_in_use_is_written(states: Any) -> None:
    snapshot = empty()
    for world in states:
        wants = world_image(world)
        plan, problems = _datapath_plan.plan(snapshot, wants)
        assert not problems
        before = _datapath_snapshot.held(snapshot, snapshot.bank)
        if plan is None:
            assert not _datapath_snapshot.differences(before, wants)
            continue
        after = written(snapshot, plan)
        assert after.bank != snapshot.bank
        # until the turn, packets find what held
        old = _datapath_snapshot.held(after, snapshot.bank)
        for kind in ("cidrs", "policy", "services", "backends"):
            assert getattr(old, kind) == getattr(before, kind), kind
        for key, entry in before.endpoints.items():
            still = old.endpoints[key]
            assert (still.identity, still.enforce) == (entry.identity, entry.enforce)
        # who was not there is nobody, and under policy closed
        for key in old.endpoints.keys() - before.endpoints.keys():
            new, coming = old.endpoints[key], wants.endpoints[key]
            assert new.identity == layout.NOBODY
            for on, deny in zip(layout.ENFORCE, layout.DENY):
                assert bool(new.enforce & deny) == bool(coming.enforce & on)
        # who goes is nobody from the turn on
        now = _datapath_snapshot.held(after, after.bank)
        for key in now.endpoints.keys() - wants.endpoints.keys():
            assert now.endpoints[key].identity == layout.NOBODY
        snapshot = removed(after, plan)
        assert not _datapath_snapshot.differences(_datapath_snapshot.held(snapshot, snapshot.bank), wants)
        assert _datapath_plan.plan(snapshot, wants) == (None, [])


def test_a_table_that_somebody_spoiled_is_written_anew() -> None:
    wants = world_image(([{"app": "web", "tier": "a"}] * 4, [], {"10.96.0.1": {1: 1, 2: 1}}, 4))
    plan, dummy = _datapath_plan.plan(empty(), wants)
    assert plan
    snapshot = written(empty(), plan)
    spoiled = bytearray(snapshot.arrays["backends"])
    spoiled[0] ^= 1
    snapshot.arrays["backends"] = bytes(spoiled)
    again, dummy = _datapath_plan.plan(snapshot, wants)
    assert again
    snapshot = written(snapshot, again)
    assert _datapath_plan.plan(snapshot, wants) == (None, [])


def test_full_maps_are_told_together() -> None:
    world = ([{"app": "web", "tier": "a"}] * 4, [], {"10.96.0.1": {1: 1}, "fd96::1": {2: 1}}, 4)
    wants = world_image(world)
    snapshot = empty()
    snapshot.sizes = {**SIZES, "endpoints4": 3, "pods": 1, "services": 1, "tables": 1, "backends": 1}
    dummy, problems = _datapath_plan.plan(snapshot, wants)
    told = "\n".join(problems)
    for name in ("endpoints4", "pods", "services", "tables", "backends"):
        assert f"the map {name} " in told, name
    assert len(problems) == 5


def test_too_many_ranges_are_told_with_the_policy() -> None:
    many = [{"protocol": "tcp", "port": port} for port in range(1, 40, 2)]
    declared = declare(
        [{"app": "web"}] * 4,
        [{"name": "many", "pods": {"labels": {"app": "web"}}, "ingress": [{"from": [], "ports": many}]}],
    )
    dummy, problems = _datapath_compile.compile_image(declared, INTERFACES, {})
    assert problems == ["policies (many): 20 ranges of ports, more than 16; merge some"]


# ---------------------------------------------------------------- Maglev


weights = st.dictionaries(
    st.integers(1, 60).map(lambda n: f"10.0.0.{n}"), st.integers(1, 5), min_size=2, max_size=12
)


@given(weights)
def test_every_backend_gets_its_share(found: dict[str, int]) -> None:
    table = maglev.table(found, 251)
    total = sum(found.values())
    for name, weight in found.items():
        assert abs(table.count(name) - 251 * weight / total) <= max(found.values()) / min(found.values()) + 1


@given(st.integers(2, 30))
def test_a_backend_that_leaves_moves_its_own_flows(count: int) -> None:
    before = maglev.table({f"10.0.0.{n}": 1 for n in range(count)}, 251)
    after = maglev.table({f"10.0.0.{n}": 1 for n in range(1, count)}, 251)
    own = before.count("10.0.0.0")
    moved = sum(a != b for a, b in zip(before, after))
    assert own <= moved <= own + 0.25 * 251  # its own must; of others few do, as the paper measured
    assert "10.0.0.0" not in after


# ---------------------------------------------------------------- what is refused


def refused(options: dict[str, Any]) -> list[str]:
    own, problems = parse.parse(options, "site")
    dummy, more = union.union(own, [])
    return problems + more


WEB = {"name": "web", "device": "h1", "addresses": ["10.0.0.1"], "labels": {"app": "web"}}


def rule(**words: Any) -> dict[str, Any]:
    return {"policies": [{"name": "x", "pods": {"labels": {"app": "web"}}, "ingress": [words]}]}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (rule(**{"from": [{"cidr": "10.0.0.0/33"}]}), "ingress[0].from[0]: cidr: '10.0.0.0/33' is no IPv4"),
        (rule(**{"from": [{"cidr": "10.0.0.1/8"}]}), "has bits set after its prefix; give 10.0.0.0/8"),
        (rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}]}), "no part of 10.0.0.0/8"),
        (rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["fd00::/8"]}]}), "no part of 10.0.0.0/8"),
        (rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}]}), "nothing would be left"),
        (
            rule(**{"from": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.1.2.0/24"]}]}),
            "10.1.2.0/24 and 10.1.0.0/16 overlap",
        ),
        (rule(**{"from": [{"cidr": "10.0.0.0/8"}, {"cidr": "10.0.0.0/8"}]}), "is listed twice"),
        (rule(**{"from": [{"cidr": "10.0.0.0/8", "host": True}]}), "give one of: labels"),
        (rule(**{"from": [{"names": ["nobody"]}]}), "there is no Pod nobody"),
        (rule(**{"from": [{"labels": {"app": "wbe"}}]}), "no Pod has the labels app=wbe"),
        (
            rule(ports=[{"protocol": "tcp", "port": 90, "end_port": 80}]),
            "end_port: 80 is outside 90 to 65535",
        ),
        (rule(ports=[{"protocol": "icmp", "port": 90}]), "port: icmp has no ports"),
        (rule(ports=[{"protocol": "tcp", "type": 8}]), "type: tcp has no types"),
        (rule(ports=[{"protocol": "tpc", "port": 1}]), "'tpc' is none of tcp, udp"),
        (rule(ports=[{"port": 70000}]), "port: 70000 is outside 0 to 65535"),
        ({"policies": [{"name": "x", "pods": {}}]}, "it has neither ingress nor egress"),
        ({"policies": [{"name": "x", "ingress": [], "egress_default": "deny"}]}, "there is no egress"),
        ({"endpoints": [{**WEB, "rate": "5kbit"}]}, "'5kbit' is out of what can be paced"),
        ({"endpoints": [{**WEB, "rate": "fast"}]}, "'fast' is no rate; write it as 100mbit"),
        ({"endpoints": [{**WEB, "masquerade": True}]}, "no address to leave with"),
        ({"endpoints": [{**WEB, "addresses": ["10.0.0"]}]}, "'10.0.0' is no IPv4 or IPv6 address"),
        ({"remote_pods": [{**WEB, "name": "b", "device": None}]}, "10.0.0.1 is given to both web and b"),
        (
            {"services": [{"name": "s", "address": "10.96.0.1", "port": 80}]},
            "no backend with a weight above 0",
        ),
        (
            {
                "services": [
                    {"name": "s", "address": "10.96.0.1", "port": 80, "backends": [{"address": "fd00::1"}]}
                ]
            },
            "fd00::1 is IPv6, the service IPv4",
        ),
        (
            {
                "services": [
                    {"name": "s", "address": "10.96.0.1", "port": 80, "backends": [{"labels": {"app": "no"}}]}
                ]
            },
            "no backend with a weight above 0",
        ),
        (
            {
                "services": [
                    {"name": n, "address": "10.96.0.1", "port": 80, "backends": [{"address": "10.0.0.1"}]}
                    for n in "st"
                ]
            },
            "10.96.0.1 port 80 is already s's",
        ),
        ({"masquerade": {"ipv4": "fd00::1"}}, "masquerade: ipv4: fd00::1 is IPv6"),
    ],
)
def test_refused(options: dict[str, Any], said: str) -> None:
    options = {**options}
    options.setdefault("endpoints", [WEB])
    problems = refused(options)
    assert any(said in problem for problem in problems), problems


def test_everything_wrong_is_told_at_once() -> None:
    problems = refused(
        {
            "endpoints": [WEB, {**WEB, "name": "b", "device": "h2", "rate": "1bit"}],
            **rule(**{"from": [{"cidr": "10.0.0.0/33"}, {"names": ["nobody"]}]}),
            "services": [{"name": "s", "address": "10.96.0.1", "port": 80}],
        }
    )
    assert len(problems) == 5, problems


@pytest.mark.parametrize(
    ("text", "rate"), [("1mbit", 125000), ("100 Mbit", 12500000), ("2.5gbit", 312500000)]
)
def test_rates(text: str, rate: int) -> None:
    assert parse.parse_rate(text) == rate


def test_services_take_pods_by_their_labels() -> None:
    own, problems = parse.parse(
        {
            "endpoints": [{**WEB, "addresses": ["10.0.0.1", "fd00::1"]}],
            "services": [
                {
                    "name": "s",
                    "address": "fd96::1",
                    "port": 80,
                    "backends": [{"labels": {"app": "web"}, "port": 8}],
                }
            ],
        },
        "site",
    )
    declared, more = union.union(own, [])
    assert not problems + more
    (backend,) = declared.services[0].backends
    assert (str(backend.address), backend.port, backend.weight) == ("fd00::1", 8, 1)


def test_only_policies_of_this_nodes_pods_count() -> None:
    pods = [
        Pod("a", "site", (), {"app": "web"}, device="h1"),
        Pod("b", "site", (), {"app": "db"}),
    ]
    policies = [
        Policy("web", "site", PodSelector(frozenset({("app", "web")}))),
        Policy("db", "site", PodSelector(frozenset({("app", "db")}))),
        Policy("all", "site", PodSelector()),
    ]
    assert [policy.name for policy in _datapath_compile.here(policies, pods)] == ["web", "all"]
