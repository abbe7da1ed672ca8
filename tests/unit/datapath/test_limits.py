# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects that do not fit into the maps are left out, and deny: those of the namespace that uses the most."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import identities
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.limits import Full, left_out, share
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    CidrSelector,
    Declaration,
    Pod,
    PodSelector,
    Policy,
    Ports,
    Rule,
)
from tests.unit.datapath.declarations import HOST, NODE
from tests.unit.datapath.programs import Programs

costs = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")).map("/".join), st.integers(0, 20), min_size=1
)


@given(costs, st.integers(-5, 100))
def test_the_namespace_that_uses_the_most_loses_first(found: dict[str, int], excess: int) -> None:
    chosen = left_out(found, excess)
    sums = {one: sum(cost for name, cost in found.items() if name.startswith(one)) for one in "abc"}
    freed = sum(found[name] for name in chosen)
    assert freed >= min(excess, sum(sums.values())) and len({*chosen}) == len(chosen)
    for name in chosen:
        assert sums[name[0]] == max(sums.values()) and found[name]
        sums[name[0]] -= found[name]
    assert not chosen or freed - found[chosen[-1]] < excess


def block(number: int) -> CidrSelector:
    return CidrSelector(ipaddress.ip_network(f"100.{number >> 8}.{number & 255}.0/24"))


def policy(name: str, rules: Sequence[Rule], owner: str = "kubernetes", **labels: str) -> Policy:
    return Policy(name, owner, PodSelector(frozenset(labels.items())), tuple(rules), (False, None), True)


def pod(name: str, number: int, **labels: str) -> Pod:
    return Pod(name, "cni", (ipaddress.ip_address(f"10.0.0.{number + 1}"),), labels, device=f"hp{number}")


TENANT, OTHER = pod("tenant", 0, app="tenant"), pod("other", 1, app="other")
ALLOWED = policy("b/allowed", [Rule(0, peers=(block(1), block(2)), ports=(Ports(6, 80, 80),))], app="other")
BLOCKS = policy("a/blocks", [Rule(0, peers=tuple(map(block, range(40))))], app="tenant")
PORTS = policy(
    "a/ports", [Rule(0, peers=(block(n),), ports=(Ports(6, 2 * n, 2 * n),)) for n in range(20)], app="tenant"
)


@pytest.mark.parametrize(
    ("limit", "entries", "hostile", "allowed"),
    [
        ("CIDRS", 40, BLOCKS, "100.0.1.1"),
        ("POLICY", 60, BLOCKS, "100.0.1.1"),
        ("RULESETS", 20, PORTS, "100.0.1.1"),
    ],
)
def test_policies_that_do_not_fit_deny_and_are_reported(
    monkeypatch: pytest.MonkeyPatch, limit: str, entries: int, hostile: Policy, allowed: str
) -> None:
    monkeypatch.setattr(identities, limit, entries)
    compiler = Compiler(Declaration([TENANT, OTHER], [hostile, ALLOWED]), NODE, {})
    assert compiler.problems == []
    assert compiler.unenforced == [
        f"policies ({hostile.name}): the maps have no room for its rules; what they allow is denied"
    ]
    programs = Programs(compiler.image, [HOST])
    assert programs.allows("10.0.0.2", allowed, 0, 6, 80) and not programs.allows(
        "10.0.0.2", allowed, 0, 6, 81
    )
    assert not any(programs.allows("10.0.0.1", f"100.0.{n}.1", 0, 6, 2 * n) for n in range(20))
    assert programs.allows("10.0.0.1", HOST, 0, 6, 80)
    assert len(compiler.image.cidrs) <= share(entries) or limit != "CIDRS"
    assert len(compiler.image.policy) <= share(entries) or limit != "POLICY"
    # An owner's policies are never left out.
    owned = Declaration([TENANT], [policy("a", hostile.rules, "site", app="tenant")])
    assert Compiler(owned, NODE, {}).unenforced == []


def test_a_pod_whose_pairs_do_not_fit_requires_a_new_computation(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = [PodSelector(frozenset({("n", str(n))})) for n in range(20)]
    rules = [Rule(0, peers=(one,), ports=(Ports(6, n, n),)) for n, one in enumerate(peers)]
    compiler = Compiler(Declaration([OTHER], [policy("a/many", rules, app="other")]), NODE, {})
    monkeypatch.setattr(identities, "POLICY", 20)
    with pytest.raises(Full):
        for number in range(20):
            address = ipaddress.ip_address(f"10.0.1.{number}")
            compiler.set_address(address, Pod(f"p{number}", "kubernetes", (address,), {"n": str(number)}))


def test_a_policy_of_the_cluster_does_not_make_calls_of_an_owner_fail() -> None:
    ports = [Rule(0, ports=(Ports(6, 2 * n, 2 * n),)) for n in range(65)]
    tenant = policy("a/ports", ports, app="tenant")
    site = policy("site", [Rule(0, peers=(block(1),))], "site", app="tenant")
    compiler = Compiler(Declaration([TENANT], [tenant, site]), NODE, {})
    assert compiler.problems == [] and "65 port ranges" in compiler.unenforced[0]
    assert not Programs(compiler.image, [HOST]).allows("10.0.0.1", "203.0.113.1", 0, 6, 2)
