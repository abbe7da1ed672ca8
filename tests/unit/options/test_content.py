# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values that a module would reject on every node are rejected before the first change."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ansible_collections.podnet.datapath.plugins.plugin_utils import content
from tests.support.checkout import CHECKOUT

POD = {"name": "p", "addresses": ["10.0.0.1/32"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"node_tuning_sysctls": {"x;": 1}}, "node_tuning_sysctls: 'x;' is not a valid sysctl name"),
        ({"node_tuning_pods": {"sysctls": {"x;": 1}}}, "node_tuning_pods.sysctls: 'x;' is not a valid"),
        ({"node_tuning_boot_args": "quiet"}, "node_tuning_boot_args: 'quiet' is neither a dictionary nor"),
        ({"node_tuning_boot_args": {"a": True}}, "node_tuning_boot_args: a: True is not a valid value"),
        ({"node_tuning_boot_args": {"init_on_alloc": "0"}}, "node_tuning_boot_args: init_on_alloc=0: "),
        ({"node_tuning_nics": [{"mtu": 9000}]}, "node_tuning_nics[0]: has none of name, driver, pci"),
        ({"node_tuning_path": [{"to": "10.0.0.1/24"}]}, "node_tuning_path[0].to: '10.0.0.1/24' is not an"),
        ({"rollout_streams": [{"to": "x"}]}, "rollout_streams[0].to: 'x' is not an IPv4 or IPv6 address"),
        ({"pods_endpoints": [{**POD, "addresses": ["x"]}]}, "pods_endpoints[0] (p): addresses: 'x'"),
        ({"pods_endpoints": [{**POD, "rate": "x"}]}, "pods_endpoints[0] (p): rate: 'x'"),
        ({"pods_endpoints": [POD, POD]}, "pods_endpoints[1] (p): name: "),
        (
            {"benchmark_rungs": ["host", "pod"]},
            "benchmark_rungs: 'pod' is not one of host, veth_stack, veth_bpf, pods; did you mean pods?",
        ),
        ({"benchmark_families": ["ipv5"]}, "benchmark_families: 'ipv5' is not one of ipv4, ipv6"),
        ({"benchmark_tests": ["x"]}, "benchmark_tests: 'x' is not one of tcp_rr, tcp_stream; set one"),
        (
            {"cilium_accept_conflicts": ["istoi"]},
            "cilium_accept_conflicts: 'istoi' is not one of istio, kata, gke_workload_identity; did you mean",
        ),
        ({"cilium_apply": True, "cilium_chart": ""}, "cilium_apply: true requires cilium_chart"),
        ({"pods_gso_max_size": 0}, "pods_gso_max_size: 0 is outside 1 to"),
        ({"pods_host_routes": [{"to": "x", "dev": "e"}]}, "pods_host_routes[0]: to: 'x' is not a network"),
        (
            {"pods_policies": [{"name": "a", "ingress": [{"from": [{"cidr": "x"}]}]}]},
            "pods_policies[0] (a): ingress[0].from[0]: cidr: 'x'",
        ),
        (
            {"pods_services": [{"name": "s", "address": "x", "port": 1, "backends": []}]},
            "pods_services[0] (s): address: 'x'",
        ),
        ({"pods_masquerade": {"ipv4": "x"}}, "pods_masquerade: ipv4: 'x'"),
    ],
)
def test_invalid_content_is_refused(values: dict[str, Any], message: str) -> None:
    found = content.problems(values)
    assert len(found) >= 1 and found[0].startswith(message), found


def test_risky_profile_requires_consent() -> None:
    assert all(
        "node_tuning_acknowledge_risk" in one for one in content.problems({"node_tuning_profile": "talk"})
    )
    accepted = {"node_tuning_profile": "talk", "node_tuning_acknowledge_risk": True}
    assert content.problems(accepted) == content.problems({}) == []


def test_inventory_of_the_lab_is_valid() -> None:
    values: dict[str, Any] = {}
    for name in ("group_vars/lab.yml", "host_vars/node1.yml"):
        values |= yaml.safe_load((CHECKOUT / "inventories/lab" / name).read_text())
    assert content.problems(values) == []
