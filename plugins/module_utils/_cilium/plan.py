# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the settings of Cilium on one node: pure functions of its configuration, its kernel and the request.

``agent_checks`` is the table of checks with which agents of Cilium 1.15 to 1.20 refuse to start. Sources:
pkg/datapath/connector/config.go, pkg/datapath/linux/bigtcp and bandwidth, pkg/kpr/initializer,
daemon/cmd/daemon.go and pkg/option/config.go; cilium#32942 (one BIG TCP family), #36022 (Istio), #39892
(tproxy).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.plan import Change, Plan, listed
from . import settings as table
from .settings import AUTO, BIG, GUIDES, IPS, KEEP, KEYS, SETTINGS, Scope, enabled, value_of

ENABLED, AVAILABLE, MISSING, UNSUPPORTED = "enabled", "available", "prerequisite missing", "unsupported"
SINGLE_FAMILY = (6, 7)  # from this kernel on, one BIG TCP family has no effect without the other
CLUSTER_KEYS = tuple(key for key, entry in KEYS.items() if entry.scope is Scope.CLUSTER)
# Conflicts that the agent does not check, so that operators may accept them.
KATA, ISTIO, GKE = "kata", "istio", "gke_workload_identity"
CONFLICTS = (KATA, ISTIO, GKE)


@dataclass(frozen=True)
class Node:
    """What a node's kernel and devices support; ``gso_limit`` is the smallest limit of Cilium's devices.

    ``tunnel_big_tcp``: its agent has BIG TCP over a tunnel, which it probes and does not report otherwise.
    """

    kernel: str
    netkit: bool = False
    netkit_scrub: bool = False
    missing_helpers: Sequence[str] = ()
    ipv4_big_tcp: bool = False
    ipv6_big_tcp: bool = False
    gso_limit: int = 0
    bbr: bool = False
    fq: bool = True
    tunnel_big_tcp: bool = False


@dataclass(frozen=True)
class Agent:
    """What a node's agent reports: its release, the settings in effect, and the keys of ``CLUSTER_KEYS``."""

    version: str
    settings: Mapping[str, str]
    cluster: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Override:
    """A CiliumNodeConfig that applies to the node."""

    name: str
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Cluster:
    """What the API says about the node's configuration.

    ``config`` is the ConfigMap; ``overrides`` are the CiliumNodeConfigs of others that apply to the node.
    ``allowed`` and ``denied`` limit the keys that they may override. ``conflicts`` maps conflicting software
    to the objects that show it.
    """

    config: Mapping[str, str]
    overrides: Sequence[Override] = ()
    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    conflicts: Mapping[str, str] = field(default_factory=dict)

    def configured(self, own: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the configuration that an agent which starts now gets, with ``own`` keys of ours."""
        found = dict(self.config)
        # As the agent: the last name in lexicographic order wins.
        for override in sorted([*self.overrides, Override(OWN_NAME, own or {})], key=lambda one: one.name):
            found.update({key: value for key, value in override.keys.items() if self.may_override(key)})
        return found

    def may_override(self, key: str) -> bool:
        """Return whether the agents' DaemonSet lets a CiliumNodeConfig override a key."""
        return key in self.allowed if self.allowed else key not in self.denied


OWN_NAME = "zz-podnet"  # prefix of our CiliumNodeConfigs


@dataclass(frozen=True)
class Row:
    """A node's state of one setting, for the report."""

    setting: str
    state: str  # enabled, available, prerequisite missing, unsupported
    current: str
    requested: str
    scope: str
    reason: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the row as modules return it."""
        return dict(vars(self))


@dataclass(frozen=True)
class CiliumPlan(Plan):
    """The plan for one node: the ``keys`` to override, and the settings that the agent then reports."""

    rows: Sequence[Row] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, str] = field(default_factory=dict)

    @property
    def restart(self) -> bool:
        """Return whether the agent does not have the expected settings yet."""
        return any(change.name in SETTINGS for change in self.changes)

    @property
    def new_pods(self) -> bool:
        """Return whether existing Pods of the node have to be recreated."""
        return any(
            change.name in SETTINGS and SETTINGS[change.name].scope is Scope.PODS for change in self.changes
        )


def guide(key: str) -> str:
    """Return the sentence that refuses a change of the whole cluster."""
    return (
        f"{key} is the same on all nodes; changing it is a migration of its own, which Cilium describes in"
        f" {GUIDES[key]}: do it first"
    )


# The agent's checks


def agent_checks(config: Mapping[str, str], node: Node, version: str) -> list[str]:
    """Return why an agent with this configuration would refuse to start on a node."""
    return [
        *_masquerade_checks(config, version),
        *_device_checks(config, node, version),
        *_big_tcp_checks(config, node, version),
        *_bbr_checks(config, node),
    ]


def _masquerade_checks(config: Mapping[str, str], version: str) -> list[str]:
    found = []
    bpf, masquerades = enabled(config, "enable-bpf-masquerade"), table.masquerades(config)
    if bpf and not masquerades:
        found.append("BPF masquerade requires enable-ipv4-masquerade or enable-ipv6-masquerade")
    if bpf and config.get("egress-masquerade-interfaces"):
        found.append("BPF masquerade does not allow egress-masquerade-interfaces: use devices")
    if bpf and enabled(config, "enable-masquerade-to-route-source"):
        found.append("BPF masquerade cannot be used with enable-masquerade-to-route-source")
    ipv6_firewall = enabled(config, "enable-ipv6-masquerade") and enabled(config, "enable-host-firewall")
    if bpf and ipv6_firewall and table.release(version) < (1, 20):
        found.append("IPv6 BPF masquerade cannot be used with enable-host-firewall before Cilium 1.20")
    if not bpf and enabled(config, "enable-ip-masq-agent"):
        found.append("ip-masq-agent requires enable-bpf-masquerade")
    if value_of(config, "routing-mode") == "native" and not enabled(config, "enable-ip-masq-agent"):
        # As in the agent, ENI and Alibaba Cloud know the addresses that are not masqueraded.
        for ip in IPS if config.get("ipam") not in ("eni", "alibabacloud") else ():
            masquerade = enabled(config, f"enable-{ip}") and enabled(config, f"enable-{ip}-masquerade")
            if masquerade and not config.get(f"{ip}-native-routing-cidr"):
                found.append(f"native routing with masquerading requires {ip}-native-routing-cidr")
    return found


def _device_checks(config: Mapping[str, str], node: Node, version: str) -> list[str]:
    mode = value_of(config, "datapath-mode")
    if not mode.startswith("netkit"):
        return []
    found = []
    if table.release(version) < (1, 16):
        found.append("netkit requires Cilium 1.16")
    if not node.netkit:
        found.append("netkit requires kernel 6.7 and CONFIG_NETKIT: the probe of the device failed")
    if enabled(config, "enable-host-legacy-routing"):
        found.append("netkit cannot be used with enable-host-legacy-routing: true")
    if table.masquerades(config) and not enabled(config, "enable-bpf-masquerade"):
        found.append("netkit requires enable-bpf-masquerade: true")
    if not enabled(config, "kube-proxy-replacement"):
        found.append("netkit requires kube-proxy-replacement: true")
    if enabled(config, "enable-endpoint-routes") and not node.netkit_scrub:
        found.append("netkit with enable-endpoint-routes requires the scrub attribute (kernel 6.13)")
    if enabled(config, "enable-bpf-tproxy"):
        found.append("netkit cannot be used with enable-bpf-tproxy: true")
    return found


def _big_tcp_checks(config: Mapping[str, str], node: Node, version: str) -> list[str]:
    if not any(enabled(config, f"enable-{ip}-big-tcp") for ip in IPS):
        return []
    found = []
    if table.legacy_routing(config):
        found.append("BIG TCP requires BPF host routing")
    if enabled(config, "enable-ipsec"):
        found.append("BIG TCP cannot be used with enable-ipsec: true")
    if enabled(config, "enable-wireguard"):
        found.append("BIG TCP cannot be used with enable-wireguard: true")
    if value_of(config, "routing-mode") != "native" and not node.tunnel_big_tcp:
        found.append("BIG TCP requires routing-mode: native")
    if value_of(config, "bpf-lb-dsr-dispatch") != "opt" and not node.tunnel_big_tcp:
        found.append("BIG TCP requires bpf-lb-dsr-dispatch: opt")
    if table.release(version) < (1, 16) and value_of(config, "datapath-mode") != "veth":
        found.append("BIG TCP requires datapath-mode: veth before Cilium 1.16")
    return found


def _bbr_checks(config: Mapping[str, str], node: Node) -> list[str]:
    if not enabled(config, "enable-bandwidth-manager"):
        return []
    if not enabled(config, "enable-bbr"):
        host_only = enabled(config, "enable-bbr-hostns-only")
        return ["enable-bbr-hostns-only: true requires enable-bbr: true"] if host_only else []
    found = []
    if "bpf_skb_set_tstamp" in node.missing_helpers:
        found.append("BBR requires bpf_skb_set_tstamp (kernel 5.18)")
    if not node.bbr:
        found.append("BBR requires the congestion control bbr (CONFIG_TCP_CONG_BBR)")
    if not node.fq:
        found.append(
            "BBR requires the qdisc fq (CONFIG_NET_SCH_FQ) and the sysctl net.core.default_qdisc, which a"
            " container does not have"
        )
    if table.legacy_routing(config) and not enabled(config, "enable-bbr-hostns-only"):
        found.append("BBR requires BPF host routing")
    return found


# What a setting requires


@dataclass(frozen=True)
class _Verdict:
    """Whether a node can have a value of a setting."""

    state: str
    reason: str = ""


def _host_routing(
    cluster: Cluster, config: Mapping[str, str], node: Node, accepted: Iterable[str]
) -> _Verdict:
    if not enabled(config, "kube-proxy-replacement"):
        return _Verdict(MISSING, f"kube-proxy-replacement: true; {guide('kube-proxy-replacement')}")
    helpers = [name for name in ("bpf_redirect_neigh", "bpf_redirect_peer") if name in node.missing_helpers]
    if helpers:
        return _Verdict(UNSUPPORTED, f"the kernel lacks {listed(helpers)} (5.10)")
    if enabled(config, "enable-ipsec"):
        return _Verdict(UNSUPPORTED, "enable-ipsec: true conflicts with BPF host routing")
    for name, what in ((ISTIO, "Istio"), (GKE, "GKE workload identity")):
        if name in cluster.conflicts and name not in accepted:
            return _Verdict(
                UNSUPPORTED,
                f"{what} ({cluster.conflicts[name]}) depends on netfilter, which BPF host routing bypasses;"
                f" if this cluster's Pods do not use it, set cilium_accept_conflicts: [{name}]",
            )
    return _Verdict(AVAILABLE)


def _device_mode(
    cluster: Cluster, config: Mapping[str, str], node: Node, accepted: Iterable[str]
) -> _Verdict:
    if not node.netkit:
        return _Verdict(UNSUPPORTED, "the kernel has no netkit (6.7 and CONFIG_NETKIT)")
    if KATA in cluster.conflicts and KATA not in accepted:
        return _Verdict(
            UNSUPPORTED,
            f"Kata Containers (runtime class {cluster.conflicts[KATA]}) cannot use netkit devices; if no such"
            f" Pod runs on this node, set cilium_accept_conflicts: [{KATA}]",
        )
    return _Verdict(AVAILABLE)


def _big_tcp(cluster: Cluster, config: Mapping[str, str], node: Node, accepted: Iterable[str]) -> _Verdict:
    if value_of(config, "routing-mode") != "native" and not node.tunnel_big_tcp:
        return _Verdict(MISSING, f"routing-mode: native; {guide('routing-mode')}")
    families = [ip for ip in IPS if enabled(config, f"enable-{ip}-big-tcp")]
    if len(families) == 1 and table.release(node.kernel) >= SINGLE_FAMILY:
        return _Verdict(
            UNSUPPORTED,
            f"on kernel 6.7 and later, BIG TCP for {families[0]} alone has no effect: request both families"
            " (enabled)",
        )
    lacking = [
        f"BIG TCP for {ip} (kernel {since})"
        for ip, has, since in (("ipv4", node.ipv4_big_tcp, "6.3"), ("ipv6", node.ipv6_big_tcp, "5.19"))
        if ip in families and not has
    ]
    if lacking:
        return _Verdict(UNSUPPORTED, f"the kernel lacks {listed(lacking)}")
    if node.gso_limit <= BIG:
        return _Verdict(
            UNSUPPORTED, f"a device of Cilium is limited to GSO packets of {node.gso_limit} bytes"
        )
    return _Verdict(AVAILABLE)


def _bbr(cluster: Cluster, config: Mapping[str, str], node: Node, accepted: Iterable[str]) -> _Verdict:
    if enabled(config, "enable-ipsec"):
        return _Verdict(UNSUPPORTED, "enable-ipsec: true turns the bandwidth manager off")
    return _Verdict(AVAILABLE)


_REQUIREMENTS = {"host_routing": _host_routing, "device_mode": _device_mode, "big_tcp": _big_tcp, "bbr": _bbr}


def _verdict(
    name: str,
    value: str,
    cluster: Cluster,
    own: Mapping[str, str],
    node: Node,
    version: str,
    accepted: Iterable[str],
) -> _Verdict:
    """Return whether the node can have a value of a setting, beside the keys that are decided already."""
    keys = table.keys_for(name, value, cluster.configured(own))
    config = cluster.configured({**own, **keys})
    if value != SETTINGS[name].values[0]:
        found = _REQUIREMENTS[name](cluster, config, node, accepted)
        if found.state != AVAILABLE:
            return found
    new = [
        one
        for one in agent_checks(config, node, version)
        if one not in agent_checks(cluster.configured(own), node, version)
    ]
    if new:
        return _Verdict(MISSING, "; ".join(new))
    fixed = [key for key, wanted in keys.items() if not table.same(config, key, wanted)]
    if fixed:
        return _Verdict(MISSING, f"{listed(fixed)} cannot be overridden here: {_origin(cluster, fixed[0])}")
    return _Verdict(AVAILABLE)


def _origin(cluster: Cluster, key: str) -> str:
    """Return what keeps our CiliumNodeConfig from overriding a key."""
    if not cluster.may_override(key):
        return "daemon.allowedConfigOverrides or blockedConfigOverrides of the chart exclude it"
    later = [one.name for one in cluster.overrides if one.name > OWN_NAME and key in one.keys]
    return f"the CiliumNodeConfig {listed(later)} sets it and has precedence by its name"


# The plan


def desired_values(requested: Mapping[str, str]) -> dict[str, str]:
    """Return the requested value of each setting, ``auto`` for those not named."""
    return {name: requested.get(name, AUTO) for name in SETTINGS}


def plan(
    node_name: str,
    cluster: Cluster,
    node: Node,
    agent: Agent,
    requested: Mapping[str, str],
    accepted: Iterable[str] = (),
) -> CiliumPlan:
    """Return the plan that gives a node the requested settings with the fewest overridden keys."""
    accepted, node = frozenset(accepted), _observed(node, agent)
    problems = [*_version_problems(agent), *_cluster_problems(cluster, agent)]
    own: dict[str, str] = {}
    rows = []
    expected = dict(agent.settings)
    for name, wanted in _ordered(desired_values(requested)):
        setting, current = SETTINGS[name], agent.settings.get(name, "")
        target = setting.best if wanted in (AUTO, KEEP) else wanted
        if wanted == AUTO:
            target = _automatic(name, current, cluster, node)
        found = _verdict(name, target, cluster, own, node, agent.version, accepted)
        if wanted not in (AUTO, KEEP) and found.state != AVAILABLE and current != wanted:
            problems.append(f"{node_name}: {name}: {wanted}: {found.state}: {found.reason}")
        decided = target if wanted != KEEP and found.state == AVAILABLE else current
        if decided in setting.values:
            own.update(_changed_keys(name, decided, current, cluster, own))
            expected[name] = decided
        state = ENABLED if current == target else found.state
        rows.append(
            Row(name, state, current, wanted, setting.scope.value, "" if state == ENABLED else found.reason)
        )
    return _complete(
        node_name,
        cluster,
        node,
        agent,
        CiliumPlan(
            subsystem="cilium",
            problems=problems,
            rows=sorted(rows, key=lambda row: list(SETTINGS).index(row.setting)),
            keys=own,
            expected=expected,
        ),
    )


def _observed(node: Node, agent: Agent) -> Node:
    """Return the node with what the settings of its agent prove."""
    tunnel = agent.cluster.get("routing-mode") == "tunnel"
    return replace(node, tunnel_big_tcp=tunnel and agent.settings.get("big_tcp", "disabled") != "disabled")


def _ordered(requested: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the settings in an order in which each value depends on earlier ones only.

    A setting that is turned off no longer requires those above it in the table.
    """
    off = [name for name in requested if requested[name] == SETTINGS[name].values[0]]
    return [(name, requested[name]) for name in [*reversed(off), *(n for n in requested if n not in off)]]


def _automatic(name: str, current: str, cluster: Cluster, node: Node) -> str:
    """Return the value that ``auto`` requests. Older kernels may have one family of BIG TCP only."""
    if name == "device_mode" and current == "netkit-l2":
        return current
    if name != "big_tcp" or table.release(node.kernel) >= SINGLE_FAMILY:
        return SETTINGS[name].best
    config = cluster.configured()
    has = {"ipv4": node.ipv4_big_tcp, "ipv6": node.ipv6_big_tcp}
    families = [ip for ip in IPS if has[ip] and enabled(config, f"enable-{ip}")]
    return families[0] if len(families) == 1 else "enabled"


def _changed_keys(
    name: str, value: str, current: str, cluster: Cluster, own: Mapping[str, str]
) -> dict[str, str]:
    """Return the keys of a setting that differ from the configuration without our override."""
    base = cluster.configured()
    keys = table.keys_for(name, value, cluster.configured(own))
    configured = table.settings_of(base)[name]
    if configured == value or (configured == AUTO and value == current):
        return {}
    return {key: wanted for key, wanted in keys.items() if not table.same(base, key, wanted)}


def plan_absent(node_name: str, cluster: Cluster, node: Node, agent: Agent) -> CiliumPlan:
    """Return the plan that removes our override, so that the cluster's configuration applies again."""
    config, node = cluster.configured(), _observed(node, agent)
    settings = table.settings_of(config)
    if settings["big_tcp"] != "disabled" and node.gso_limit <= BIG:
        settings["big_tcp"] = "disabled"
    if settings["device_mode"] == AUTO:
        settings["device_mode"] = (
            "veth" if _device_checks({**config, "datapath-mode": "netkit"}, node, agent.version) else "netkit"
        )
    rows = [
        Row(
            name,
            ENABLED if agent.settings.get(name) == value else AVAILABLE,
            agent.settings.get(name, ""),
            value,
            SETTINGS[name].scope.value,
        )
        for name, value in settings.items()
    ]
    problems = _cluster_problems(cluster, agent)
    return _complete(
        node_name,
        cluster,
        node,
        agent,
        CiliumPlan(subsystem="cilium", problems=problems, rows=rows, expected=settings),
    )


def _complete(node_name: str, cluster: Cluster, node: Node, agent: Agent, found: CiliumPlan) -> CiliumPlan:
    """Return the plan with its changes and the agent's checks of the complete configuration."""
    changes = [
        Change(name, agent.settings.get(name), value, node_name)
        for name, value in found.expected.items()
        if agent.settings.get(name) != value
    ]
    refused = agent_checks(cluster.configured(found.keys), node, agent.version) if changes else []
    problems = [
        *found.problems,
        *(f"{node_name}: the agent would refuse to start: {reason}" for reason in refused),
    ]
    return CiliumPlan(
        subsystem="cilium",
        changes=changes,
        problems=problems,
        rows=found.rows,
        keys=found.keys,
        expected=found.expected,
    )


def _version_problems(agent: Agent) -> list[str]:
    found = table.release(agent.version)
    if table.OLDEST <= found <= table.NEWEST:
        return []
    oldest, newest = (".".join(map(str, one)) for one in (table.OLDEST, table.NEWEST))
    return [
        f"Cilium {agent.version or 'of unknown version'} is not supported: the checks of its agents are known"
        f" for {oldest} to {newest}"
    ]


def _cluster_problems(cluster: Cluster, agent: Agent) -> list[str]:
    """Return a problem for each change of the whole cluster that a restart of this agent would make."""
    config = cluster.configured()
    found = []
    for key in CLUSTER_KEYS:
        reported = agent.cluster.get(key)
        if reported and not table.same(config, key, reported):
            found.append(
                f"the ConfigMap has {key}: {value_of(config, key)}, but the agent runs with {reported}, so"
                f" its restart would change it on this node only; {guide(key)}"
            )
    return found


def agent_of(facts: Mapping[str, Any]) -> Agent:
    """Return the agent from the return values of cilium_info."""
    return Agent(str(facts["version"]), dict(facts["settings"]), dict(facts["cluster"]))


def node_of(facts: Mapping[str, Any]) -> Node:
    """Return the node from the return values of cilium_info."""
    return Node(**{**facts["node"], "missing_helpers": tuple(facts["node"]["missing_helpers"])})
