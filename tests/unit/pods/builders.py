# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options, nodes and states for tests of Pods."""

from __future__ import annotations

import ipaddress
from typing import Any

from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._pods import parse
from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import SIZES, Desired, Node

DRIVERS = {"auto": "veth", "meta": "meta", "netkit": "netkit", "veth": "veth"}
POD = {"name": "a", "host_interface": "hosta", "addresses": ["10.0.0.1"]}


def options(*pods: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Return options of meta_device as Ansible passes them."""
    return {
        "pods": list(pods),
        "driver": "meta",
        "owner": "site",
        "mtu": None,
        "mode": "l3",
        "policy": "drop",
        **dict.fromkeys(SIZES),
        "host_routes": [],
        **others,
    }


def resolved(*pods: dict[str, Any], **others: Any) -> Desired:
    """Return the desired state of valid options."""
    desired, problems = parse.parse(options(*pods, **others), DRIVERS, {})
    assert problems == []
    return desired


def node(**parts: Any) -> Node:
    """Return a node that has only the given parts."""
    return Node(
        **{
            "interfaces": {},
            "addresses": frozenset(),
            "routes": (),
            "namespaces": {},
            "created_namespaces": {},
            "supported_sizes": frozenset(SIZES),
            **parts,
        }
    )


def pods_strategy() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Return lists of valid Pods with few names and addresses, so that two lists have much in common."""

    def build(raw: list[tuple[str, int, str, int | None, bool, bool]], shift: int) -> list[dict[str, Any]]:
        pods = []
        for position, (name, count, driver, mtu, renamed, by_path) in enumerate(raw):
            base = int(ipaddress.ip_address("10.0.0.0")) + (position + shift) * 4
            base6 = int(ipaddress.ip_address("fd00::")) + (position + shift) * 4
            addresses = [str(ipaddress.IPv4Address(base + n)) for n in range(count)]
            addresses += [str(ipaddress.IPv6Address(base6 + n)) for n in range(count // 2)]
            pod: dict[str, Any] = {"name": name, "driver": driver, "mtu": mtu, "addresses": addresses}
            if renamed:
                pod["host_interface"] = f"host{position}"
            if by_path:
                pod["netns"] = f"/proc/{position + 1}/ns/net"
            pods.append(pod)
        return pods

    one = st.tuples(
        st.sampled_from("abcdef"),
        st.integers(0, 3),
        st.sampled_from(["meta", "netkit", "veth"]),
        st.sampled_from([None, 1500, 8264]),
        st.booleans(),
        st.booleans(),
    )
    return st.builds(build, st.lists(one, max_size=5, unique_by=lambda pod: pod[0]), st.integers(0, 3))


ROUTES = [{"to": "10.2.0.0/24", "via": f"10.1.0.{n}", "dev": "eth0"} for n in (1, 2)]
ROUTES.append({"to": "fd02::/64", "via": "fd01::2", "dev": "eth0"})
states = st.builds(
    lambda pods, mode, policy, size, routes: (
        resolved(*pods, mode=mode, policy=policy, gso_max_size=size, host_routes=routes).state
    ),
    pods_strategy(),
    st.sampled_from(["l2", "l3"]),
    st.sampled_from(["drop", "pass"]),
    st.sampled_from([None, 65536, 180000]),
    st.lists(st.sampled_from(ROUTES), max_size=2, unique_by=lambda route: route["to"]),
)
