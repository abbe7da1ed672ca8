# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each setting requires of the kernel, of the cluster's configuration and of other software.

Agents do not check these: without them a setting has no effect, changes the whole cluster or breaks Pods.
Sources: cilium#32942 (one BIG TCP family), cilium#36022 (Istio), cilium#43938 (DSR in tunnels).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .._core.plan import listed
from .model import GKE, ISTIO, KATA, OWN_NAME, Cluster, Target
from .settings import BIG, IPS, SETTINGS, enabled, guide, keys_for, release, same, value_of
from .validation import startup_errors

AVAILABLE, MISSING, UNSUPPORTED = "available", "prerequisite missing", "unsupported"
SINGLE_FAMILY = (6, 7)  # from this kernel on, one BIG TCP family has no effect without the other


@dataclass(frozen=True)
class Verdict:
    """Whether a node can have a value of a setting."""

    state: str = AVAILABLE
    reason: str = ""


def evaluate(name: str, value: str, target: Target, own: Mapping[str, str]) -> Verdict:
    """Return whether the node can have a value of a setting beside the keys ``own`` of earlier ones."""
    before = target.cluster.configured(own)
    keys = keys_for(name, value, before)
    config = target.cluster.configured({**own, **keys})
    if value != SETTINGS[name].values[0]:
        found = _PREREQUISITES[name](target, config)
        if found.state != AVAILABLE:
            return found
    known = startup_errors(before, target.node, target.agent.version)
    new = [one for one in startup_errors(config, target.node, target.agent.version) if one not in known]
    if new:
        return Verdict(MISSING, "; ".join(new))
    fixed = [key for key, wanted in keys.items() if not same(config, key, wanted)]
    if fixed:
        return Verdict(
            MISSING, f"{listed(fixed)} cannot be overridden here: {_obstacle(target.cluster, fixed[0])}"
        )
    return Verdict()


def _host_routing(target: Target, config: Mapping[str, str]) -> Verdict:
    if not enabled(config, "kube-proxy-replacement"):
        return Verdict(MISSING, f"kube-proxy-replacement: true; {guide('kube-proxy-replacement')}")
    helpers = [
        name for name in ("bpf_redirect_neigh", "bpf_redirect_peer") if name in target.node.missing_helpers
    ]
    if helpers:
        return Verdict(UNSUPPORTED, f"the kernel lacks {listed(helpers)} (5.10)")
    if enabled(config, "enable-ipsec"):
        return Verdict(UNSUPPORTED, "enable-ipsec: true conflicts with BPF host routing")
    for name, software in ((ISTIO, "Istio"), (GKE, "GKE workload identity")):
        if name in target.conflicts:
            return Verdict(
                UNSUPPORTED,
                f"{software} ({target.conflicts[name]}) depends on netfilter, which BPF host routing"
                f" bypasses; if this cluster's Pods do not use it, set cilium_accept_conflicts: [{name}]",
            )
    return Verdict()


def _device_mode(target: Target, config: Mapping[str, str]) -> Verdict:
    if not target.node.netkit:
        return Verdict(UNSUPPORTED, "the kernel has no netkit (6.7 and CONFIG_NETKIT)")
    if KATA in target.conflicts:
        return Verdict(
            UNSUPPORTED,
            f"Kata Containers (runtime class {target.conflicts[KATA]}) cannot use netkit devices; if no such"
            f" Pod runs on this node, set cilium_accept_conflicts: [{KATA}]",
        )
    return Verdict()


def _big_tcp(target: Target, config: Mapping[str, str]) -> Verdict:
    node = target.node
    if value_of(config, "routing-mode") != "native" and not node.tunnel_big_tcp:
        return Verdict(MISSING, f"routing-mode: native; {guide('routing-mode')}")
    if value_of(config, "bpf-lb-dsr-dispatch") != "opt" and not node.tunnel_big_tcp:
        return Verdict(MISSING, "bpf-lb-dsr-dispatch: opt, as other values send packets in tunnels")
    if enabled(config, "enable-wireguard"):
        return Verdict(UNSUPPORTED, "enable-wireguard: true conflicts with BIG TCP")
    families = [ip for ip in IPS if enabled(config, f"enable-{ip}-big-tcp")]
    if len(families) == 1 and release(node.kernel) >= SINGLE_FAMILY:
        return Verdict(
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
        return Verdict(UNSUPPORTED, f"the kernel lacks {listed(lacking)}")
    if node.gso_limit <= BIG:
        return Verdict(
            UNSUPPORTED,
            f"BIG TCP requires GSO packets of more than {BIG} bytes, but a device of Cilium is limited to"
            f" {node.gso_limit}",
        )
    return Verdict()


def _bbr(target: Target, config: Mapping[str, str]) -> Verdict:
    if enabled(config, "enable-ipsec"):
        return Verdict(UNSUPPORTED, "enable-ipsec: true turns the bandwidth manager off")
    return Verdict()


_PREREQUISITES: Mapping[str, Callable[[Target, Mapping[str, str]], Verdict]] = {
    "host_routing": _host_routing,
    "device_mode": _device_mode,
    "big_tcp": _big_tcp,
    "bbr": _bbr,
}


def _obstacle(cluster: Cluster, key: str) -> str:
    """Return what keeps our CiliumNodeConfig from overriding a key."""
    if not cluster.may_override(key):
        return "daemon.allowedConfigOverrides or blockedConfigOverrides of the chart exclude it"
    later = [one.name for one in cluster.overrides if one.name > OWN_NAME and key in one.keys]
    return f"the CiliumNodeConfig {listed(later)} sets it and has precedence by its name"
