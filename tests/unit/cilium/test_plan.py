# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan for one node, and public reports of what stopped the agents of running clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import settings
from ansible_collections.podnet.datapath.plugins.module_utils._cilium.model import (
    Agent,
    Cluster,
    Node,
    Override,
    Target,
)
from ansible_collections.podnet.datapath.plugins.module_utils._cilium.plan import (
    ENABLED,
    CiliumPlan,
    plan,
    plan_absent,
)
from ansible_collections.podnet.datapath.plugins.module_utils._cilium.prerequisites import (
    AVAILABLE,
    MISSING,
    UNSUPPORTED,
)
from ansible_collections.podnet.datapath.plugins.module_utils._cilium.settings import BIG, CLUSTER_KEYS
from ansible_collections.podnet.datapath.plugins.module_utils._cilium.validation import startup_errors

# The ConfigMap of a cluster without kube-proxy and with native routing, as the chart of 1.20 renders it.
CONFIG: Mapping[str, str] = MappingProxyType(
    {
        "routing-mode": "native",
        "ipv4-native-routing-cidr": "10.0.0.0/8",
        "kube-proxy-replacement": "true",
        "enable-ipv4": "true",
        "enable-ipv6": "false",
        "enable-ipv4-masquerade": "true",
        "enable-ipv6-masquerade": "true",
        "enable-bpf-masquerade": "false",
        "datapath-mode": "veth",
        "enable-ipv4-big-tcp": "false",
        "enable-ipv6-big-tcp": "false",
        "bpf-lb-dsr-dispatch": "opt",
    }
)
NODE = Node("6.12.74", True, True, (), True, True, 524280, True)
BEST = {"host_routing": "bpf", "device_mode": "netkit", "big_tcp": "enabled", "bbr": "enabled"}


def agent(config: Mapping[str, str] = CONFIG, version: str = "1.20.2") -> Agent:
    """Return an agent that started with a configuration."""
    cluster = {key: settings.value_of(config, key) for key in CLUSTER_KEYS}
    return Agent(version, settings.settings_of(config), cluster)


def planned(
    config: Mapping[str, str] = CONFIG,
    node: Node = NODE,
    version: str = "1.20.2",
    accepted: tuple[str, ...] = (),
    conflicts: Mapping[str, str] | None = None,
    **requested: str,
) -> CiliumPlan:
    cluster = Cluster(config, conflicts=conflicts or {})
    return plan(Target("n", cluster, node, agent(config, version), frozenset(accepted)), requested)


def rows(found: CiliumPlan) -> dict[str, tuple[str, str]]:
    return {row.setting: (row.state, row.reason) for row in found.rows}


def test_automatic_plan_has_all_settings() -> None:
    found = planned()
    assert not found.problems and found.expected == BEST and found.restart and found.new_pods
    assert {row.state for row in found.rows} == {AVAILABLE}
    assert found.keys == {
        "enable-bpf-masquerade": "true",
        "datapath-mode": "netkit",
        "enable-ipv4-big-tcp": "true",
        "enable-ipv6-big-tcp": "true",
        "enable-bandwidth-manager": "true",
        "enable-bbr": "true",
    }


def test_second_plan_changes_nothing() -> None:
    first = planned()
    after = plan(Target("n", Cluster(CONFIG), NODE, replace(agent(), settings=first.expected)), {})
    assert not after.changes and not after.restart and after.keys == first.keys
    assert {row.state for row in after.rows} == {ENABLED}


def test_values_of_the_cluster_need_no_override() -> None:
    config = {**CONFIG, **planned().keys}
    assert planned(config).keys == {} and not planned(config).restart


def test_change_of_host_routing_needs_no_new_pods() -> None:
    found = planned(device_mode="keep", big_tcp="keep", bbr="keep")
    assert found.expected == {**agent().settings, "host_routing": "bpf"}
    assert found.restart and not found.new_pods


# Public reports


def test_one_line_change_by_gitops_does_not_stop_agents() -> None:
    """A change of bpf.datapathMode put agents into CrashLoopBackOff: 47 endpoints had veths."""
    config = {**CONFIG, "enable-bpf-masquerade": "true", "datapath-mode": "netkit"}
    running = replace(agent(config), settings={**agent(config).settings, "device_mode": "veth"})
    kept = plan(Target("n", Cluster(config), NODE, running), dict.fromkeys(settings.SETTINGS, "keep"))
    assert kept.keys == {"datapath-mode": "veth"} and not kept.restart
    moved = plan(Target("n", Cluster(config), NODE, running), {})
    assert moved.new_pods and moved.expected["device_mode"] == "netkit"


def test_tunnel_and_native_nodes_are_not_mixed() -> None:
    """Native nodes send plain packets, nodes in tunnel mode answer encapsulated ones."""
    config = {**CONFIG, "routing-mode": "tunnel"}
    state, reason = rows(planned(config))["big_tcp"]
    assert state == MISSING and "network/concepts/routing" in reason
    assert "routing-mode" not in planned(config).keys
    unfinished = plan(Target("n", Cluster(CONFIG), NODE, agent(config)), {})
    (problem,) = (one for one in unfinished.problems if "the agent runs with tunnel" in one)
    assert problem.startswith("n: the ConfigMap has routing-mode: native")


def test_big_tcp_over_a_tunnel_stays() -> None:
    """Agents of 1.20 have it on kernels that support it, and only report that they do."""
    config = {**CONFIG, "routing-mode": "tunnel", "enable-bpf-masquerade": "true"}
    config |= {"enable-ipv4-big-tcp": "true", "enable-ipv6-big-tcp": "true"}
    found = planned(config)
    assert not found.problems and found.expected == BEST and rows(found)["big_tcp"][0] == ENABLED
    assert found.keys["datapath-mode"] == "netkit" and "enable-ipv4-big-tcp" not in found.keys


@pytest.mark.parametrize("setting", settings.SETTINGS)
def test_kube_proxy_is_not_replaced_by_the_way(setting: str) -> None:
    """Without k8sServiceHost the API is unreachable, and connections by kube-proxy's conntrack are cut."""
    config = {**CONFIG, "kube-proxy-replacement": "false"}
    state, reason = rows(planned(config))[setting]
    assert state == MISSING
    assert "kubeproxy-free" in rows(planned(config))["host_routing"][1]
    value = settings.SETTINGS[setting].best
    (problem,) = planned(config, **{setting: value}).problems
    assert problem.startswith(f"n: {setting}: {value}: {MISSING}") and reason in problem


@pytest.mark.parametrize(
    ("change", "setting", "name"),
    [
        ({"enable-bpf-tproxy": "true"}, "device_mode", "enable-bpf-tproxy"),
        ({"enable-ipsec": "true"}, "host_routing", "enable-ipsec"),
        ({"enable-ipsec": "true"}, "big_tcp", "enable-ipsec"),
        ({"enable-ipsec": "true"}, "bbr", "enable-ipsec"),
        ({"enable-wireguard": "true"}, "big_tcp", "enable-wireguard"),
        ({"bpf-lb-dsr-dispatch": "geneve"}, "big_tcp", "bpf-lb-dsr-dispatch"),
        ({"egress-masquerade-interfaces": "eth0"}, "host_routing", "egress-masquerade-interfaces"),
    ],
)
def test_configuration_that_conflicts_is_named(change: dict[str, str], setting: str, name: str) -> None:
    found = planned({**CONFIG, **change})
    assert not found.problems and rows(found)[setting][0] in (MISSING, UNSUPPORTED)
    assert name in rows(found)[setting][1] and found.expected[setting] == settings.SETTINGS[setting].values[0]


@pytest.mark.parametrize(
    ("version", "change"),
    [("1.18.6", {"bpf-lb-dsr-dispatch": "ipip"}), ("1.20.2", {"enable-wireguard": "true"})],
)
def test_settings_of_a_running_agent_stay(version: str, change: dict[str, str]) -> None:
    """These releases start with BIG TCP beside a key with which it is not requested."""
    families = {f"enable-{ip}-big-tcp": "true" for ip in ("ipv4", "ipv6")}
    found = planned({**CONFIG, **change, **families, "enable-bpf-masquerade": "true"}, version=version)
    assert not found.problems and found.expected == BEST, found


@pytest.mark.parametrize(
    ("change", "setting", "reason"),
    [
        ({"netkit": False}, "device_mode", "CONFIG_NETKIT"),
        ({"missing_helpers": ("bpf_redirect_peer",)}, "host_routing", "bpf_redirect_peer"),
        ({"missing_helpers": ("bpf_skb_set_tstamp",)}, "bbr", "5.18"),
        ({"bbr": False}, "bbr", "CONFIG_TCP_CONG_BBR"),
        ({"fq": False}, "bbr", "CONFIG_NET_SCH_FQ"),
        ({"gso_limit": BIG}, "big_tcp", "65536"),
        ({"ipv4_big_tcp": False}, "big_tcp", "6.3"),
    ],
)
def test_node_that_lacks_a_prerequisite_keeps_its_setting(
    change: dict[str, Any], setting: str, reason: str
) -> None:
    node = replace(NODE, **change)
    found = planned(node=node)
    assert not found.problems and found.expected[setting] == settings.SETTINGS[setting].values[0]
    assert reason in rows(found)[setting][1]
    requested = planned(node=node, **{setting: settings.SETTINGS[setting].best})
    assert reason in "".join(requested.problems)


def test_endpoint_routes_require_the_scrub_attribute() -> None:
    config = {**CONFIG, "enable-endpoint-routes": "true"}
    assert rows(planned(config))["device_mode"][0] == AVAILABLE
    state, reason = rows(planned(config, replace(NODE, netkit_scrub=False)))["device_mode"]
    assert state == MISSING and "scrub" in reason


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize(("kernel", "refused"), [("6.6.1", False), ("6.7.0", True), ("6.12.74", True)])
def test_single_family_of_big_tcp_is_refused(family: str, kernel: str, refused: bool) -> None:
    """Since a change of the kernel in December 2023, one family has no effect without the other."""
    found = planned(node=replace(NODE, kernel=kernel), big_tcp=family)
    assert bool(found.problems) == refused
    if refused:
        assert f"BIG TCP for {family} alone" in found.problems[0]


def test_old_kernel_gets_the_family_that_it_has() -> None:
    node = replace(NODE, kernel="6.2.0", ipv4_big_tcp=False, netkit=False)
    config = {**CONFIG, "enable-ipv6": "true", "ipv6-native-routing-cidr": "fd00::/48"}
    found = planned(config, node)
    assert found.expected["big_tcp"] == "ipv6" and "enable-ipv4-big-tcp" not in found.keys
    assert planned(node=node).expected["big_tcp"] == "disabled"


@pytest.mark.parametrize(
    ("conflict", "setting"),
    [("kata", "device_mode"), ("istio", "host_routing"), ("gke_workload_identity", "host_routing")],
)
def test_software_that_conflicts_can_be_accepted(conflict: str, setting: str) -> None:
    found = planned(conflicts={conflict: "evidence"})
    state, reason = rows(found)[setting]
    assert (
        state == UNSUPPORTED and "evidence" in reason and f"cilium_accept_conflicts: [{conflict}]" in reason
    )
    assert found.expected[setting] == settings.SETTINGS[setting].values[0]
    accepted = planned(conflicts={conflict: "evidence"}, accepted=(conflict,))
    assert accepted.expected == BEST


def test_without_host_routing_nothing_else_is_enabled() -> None:
    """BIG TCP beside hostLegacyRouting, as generated values had it, stops the agent."""
    found = planned(conflicts={"istio": "group"})
    assert found.expected == agent().settings and not found.keys
    assert {state for state, _reason in rows(found).values()} == {MISSING, UNSUPPORTED}


def test_native_routing_without_cidr_is_not_made_worse() -> None:
    config = {key: value for key, value in CONFIG.items() if key != "ipv4-native-routing-cidr"}
    assert any("ipv4-native-routing-cidr" in one for one in startup_errors(config, NODE, "1.20.2"))
    assert any("would refuse to start" in problem for problem in planned(config).problems)


@pytest.mark.parametrize(
    ("version", "valid"),
    [("1.14.9", False), ("1.15.0", True), ("1.20.9", True), ("1.21.0", False), ("", False)],
)
def test_only_known_releases_are_changed(version: str, valid: bool) -> None:
    problems = [problem for problem in planned(version=version).problems if "is not supported" in problem]
    assert len(problems) == (not valid) and all(problem.startswith("n: Cilium ") for problem in problems)


def test_host_firewall_requires_1_20() -> None:
    config = {**CONFIG, "enable-ipv6": "true", "ipv6-native-routing-cidr": "fd00::/8"}
    config["enable-host-firewall"] = "true"
    for version, state in (("1.15.19", MISSING), ("1.20.2", AVAILABLE)):
        assert rows(planned(config, version=version))["host_routing"][0] == state


def test_bbr_of_the_host_only_keeps_bbr() -> None:
    bbr = {"enable-bandwidth-manager": "true", "enable-bbr": "true", "enable-bbr-hostns-only": "true"}
    found = planned({**CONFIG, **bbr}, bbr="disabled")
    assert any("enable-bbr-hostns-only" in problem for problem in found.problems)


def test_netkit_requires_1_16() -> None:
    assert rows(planned(version="1.15.19"))["device_mode"][0] == MISSING
    assert planned(version="1.15.19").expected == {**BEST, "device_mode": "veth"}


def test_combination_that_the_agent_refuses_is_refused() -> None:
    (problem,) = planned(device_mode="netkit", host_routing="legacy").problems
    assert problem.startswith("n: device_mode: netkit: prerequisite missing")


def test_slower_values_are_always_possible() -> None:
    config = {**CONFIG, **planned().keys}
    slow = {name: setting.values[0] for name, setting in settings.SETTINGS.items()}
    found = planned(config, **slow)
    assert not found.problems and found.expected == slow and found.new_pods


# Overrides of others


def test_override_with_a_later_name_is_reported() -> None:
    other = Override("zzz", {"datapath-mode": "veth"})
    cluster = Cluster(CONFIG, (other,))
    found = plan(Target("n", cluster, NODE, agent()), {})
    assert "zzz" in rows(found)["device_mode"][1] and found.expected["device_mode"] == "veth"
    earlier = plan(Target("n", Cluster(CONFIG, (replace(other, name="a"),)), NODE, agent()), {})
    assert earlier.expected["device_mode"] == "netkit"


def test_excluded_keys_are_reported() -> None:
    for limits in ({"allowed": frozenset({"debug"})}, {"denied": frozenset({"datapath-mode"})}):
        found = plan(Target("n", Cluster(CONFIG, **limits), NODE, agent()), {})  # type: ignore[arg-type]
        assert found.expected["device_mode"] == "veth" and "datapath-mode" not in found.keys
        reason = rows(found)["device_mode"][1]
        assert "ConfigOverrides" in reason or "BPF masquerade" in reason or "masquerade" in reason


# Any cluster

FLAG = st.sampled_from(["true", "false"])
OPTIONAL = {
    "enable-ip-masq-agent": FLAG,
    "enable-masquerade-to-route-source": FLAG,
    "egress-masquerade-interfaces": st.just("eth0"),
    "enable-ipv4-big-tcp": FLAG,
    "enable-ipv6-big-tcp": FLAG,
    "enable-bbr": FLAG,
    "enable-bandwidth-manager": FLAG,
    "enable-bpf-masquerade": FLAG,
    "enable-host-legacy-routing": FLAG,
    "enable-bpf-tproxy": FLAG,
    "enable-ipsec": FLAG,
    "enable-wireguard": FLAG,
    "enable-endpoint-routes": FLAG,
    "enable-ipv4-masquerade": FLAG,
    "enable-ipv6-masquerade": FLAG,
    "bpf-lb-dsr-dispatch": st.sampled_from(["opt", "geneve", "ipip"]),
    "ipam": st.sampled_from(["cluster-pool", "eni"]),
    "ipv4-native-routing-cidr": st.just("10.0.0.0/8"),
    "ipv6-native-routing-cidr": st.just("fd00::/48"),
}
CONFIGS = st.fixed_dictionaries(
    {
        "routing-mode": st.sampled_from(["native", "tunnel"]),
        "kube-proxy-replacement": FLAG,
        "enable-ipv6": FLAG,
        "datapath-mode": st.sampled_from(["veth", "netkit", "netkit-l2"]),
    },
    optional=OPTIONAL,
)
NODES = st.builds(
    Node,
    kernel=st.sampled_from(["5.10.0", "5.19.0", "6.1.0", "6.6.0", "6.7.0", "6.12.74", "7.3.0"]),
    netkit=st.booleans(),
    netkit_scrub=st.booleans(),
    missing_helpers=st.sampled_from([(), ("bpf_skb_set_tstamp",), ("bpf_redirect_peer",)]),
    ipv4_big_tcp=st.booleans(),
    ipv6_big_tcp=st.booleans(),
    gso_limit=st.sampled_from([65536, 524280]),
    bbr=st.booleans(),
)
VERSIONS = st.sampled_from(["1.15.19", "1.16.0", "1.18.10", "1.20.2"])
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(["auto", "keep", *setting.values])
        for name, setting in settings.SETTINGS.items()
    },
)
CONFLICTS = st.dictionaries(st.sampled_from(["kata", "istio", "gke_workload_identity"]), st.just("x"))


def running(config: Mapping[str, str], node: Node, version: str) -> dict[str, str]:
    """Return a configuration with which the agent runs: without the keys that it refuses."""
    found = dict(config)
    for key in (*(key for key in OPTIONAL if key in found), "datapath-mode", "routing-mode"):
        if startup_errors(found, node, version):
            del found[key]
    assert not startup_errors(found, node, version)
    return found


@hypothesis_settings(max_examples=500)
@given(config=CONFIGS, node=NODES, version=VERSIONS, requested=REQUESTS, conflicts=CONFLICTS)
def test_no_plan_stops_an_agent(
    config: dict[str, str],
    node: Node,
    version: str,
    requested: dict[str, str],
    conflicts: dict[str, str],
) -> None:
    config = running(config, node, version)
    cluster = Cluster(config, conflicts=conflicts)
    found = plan(Target("n", cluster, node, agent(config, version)), requested)
    # The automatic request is possible on every node, any other may be refused.
    assert requested or not found.problems
    assume(not found.problems)
    assert startup_errors(cluster.configured(found.keys), node, version) == []
    assert not {*found.keys} & {*CLUSTER_KEYS}
    for name, value in requested.items():
        assert value in ("auto", "keep") or found.expected[name] == value
    # What the agent then reports is what the plan expects; the plan for that node changes nothing.
    reported = settings.settings_of(cluster.configured(found.keys))
    assert reported == found.expected
    after = plan(Target("n", cluster, node, Agent(version, found.expected, agent(config).cluster)), requested)
    assert not after.problems and not after.changes and after.keys == found.keys
    back = plan_absent(Target("n", cluster, node, Agent(version, found.expected, agent(config).cluster)))
    assert not back.keys and not back.problems
