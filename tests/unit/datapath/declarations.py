# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Generated declarations of Pods, policies and services."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.identity import ANY, FIRST
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.image import Image
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.merge import merge
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import Declaration
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import Interface, Node
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.parse import parse

HOST = "172.31.0.1"
PODS = ("10.0.0.1", "10.0.0.2", "10.0.1.3", "10.0.1.4")
NODE = Node({"hp0": Interface(10), "hp1": Interface(11)})
SIZES = {
    **dict.fromkeys(layout.SIZES, 1024),
    "rulesets": 128,
    "maglev": 16,
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
        {"cidr": "10.0.1.0/24", "except": ["10.0.1.3/32", "10.0.1.128/25", "10.0.1.192/26"]},
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
    """Return two Pods of this node and two of another."""
    raw = [{"name": f"p{i}", "addresses": [a], "labels": pod_labels[i]} for i, a in enumerate(PODS)]
    for pod in raw[:2]:
        pod["device"] = f"h{pod['name']}"
    own, problems = parse({"endpoints": raw[:2], "remote_pods": raw[2:], "policies": raw_policies}, "site")
    merged, conflicts = merge(own, [])
    assert not problems and not conflicts, problems + conflicts
    return merged


def image_of(declaration: Declaration) -> Image:
    compiled = Compiler(declaration, NODE, {})
    assert not compiled.problems
    return compiled.image


def without_numbers(image: Image) -> dict[str, Any]:
    """Return the content of an image, with what has an identity instead of its number."""
    users: dict[int, list[str]] = {}
    for key, one in sorted(image.endpoints.items()):
        users.setdefault(one.identity, []).append(f"address {key.hex()}")
    for ifindex, device in sorted(image.pods.items()):
        users.setdefault(device.identity, []).append(f"device {ifindex}")
    for prefix, (number, _flags) in sorted(image.cidrs.items()):
        users.setdefault(number, []).append(f"prefix {prefix}")
    names: dict[int, object] = {number: tuple(one) for number, one in users.items() if number >= FIRST}
    names |= {number: number for number in (*range(FIRST), ANY)}

    def named(entries: Mapping[Any, Any]) -> dict[Any, Any]:
        return {key: one._replace(identity=names[one.identity]) for key, one in entries.items()}

    return {
        "endpoints": named(image.endpoints),
        "pods": named(image.pods),
        "cidrs": {key: (names[number], flags) for key, (number, flags) in image.cidrs.items()},
        "policy": {(names[s], names[p], d): value for (s, p, d), value in image.policy.items()},
        "services": image.services,
        "node_addresses": image.node_addresses,
        "node": image.node,
        **services_of(image),
    }


def services_of(image: Image) -> dict[str, Any]:
    """Return the services and their backends."""
    used = {digest for one in image.services.values() for digest in (one.digest, one.external) if digest}
    return {"services": image.services, "backends": {one: {*image.backends[one]} for one in used}}
