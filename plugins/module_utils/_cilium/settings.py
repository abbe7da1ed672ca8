# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of Cilium's datapath that a rollout changes node by node: keys, values, class of the change.

A *setting* is what operators request and agents report, such as ``device_mode``. A *key* is what implements
it in the ConfigMap ``cilium-config``. Sources: the agent's flags, templates/cilium-configmap.yaml of the
chart and the tuning guide, Cilium 1.15 to 1.20.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

DOCUMENTATION = "https://docs.cilium.io/en/stable"
# Cilium releases whose checks this package knows.
OLDEST, NEWEST = (1, 15), (1, 20)

AUTO, KEEP = "auto", "keep"
BIG = 65536  # bytes; larger packets are BIG TCP


class Scope(Enum):
    """What a change of a key requires until it is in effect."""

    RESTART = "agent restart"
    PODS = "new Pods"
    CLUSTER = "all nodes at once"


@dataclass(frozen=True)
class Key:
    """A key of the ConfigMap: its value in the chart, the agent's default, and the class of a change."""

    chart: str
    default: str
    scope: Scope


KEYS: Mapping[str, Key] = {
    "datapath-mode": Key("bpf.datapathMode", "veth", Scope.PODS),
    "enable-host-legacy-routing": Key("bpf.hostLegacyRouting", "false", Scope.RESTART),
    "enable-bpf-masquerade": Key("bpf.masquerade", "false", Scope.RESTART),
    "enable-ipv4-big-tcp": Key("enableIPv4BIGTCP", "false", Scope.PODS),
    "enable-ipv6-big-tcp": Key("enableIPv6BIGTCP", "false", Scope.PODS),
    "enable-bandwidth-manager": Key("bandwidthManager.enabled", "false", Scope.PODS),
    "enable-bbr": Key("bandwidthManager.bbr", "false", Scope.PODS),
    # Nodes with different values of these lose each other's packets, or a node its services.
    "routing-mode": Key("routingMode", "tunnel", Scope.CLUSTER),
    "kube-proxy-replacement": Key("kubeProxyReplacement", "false", Scope.CLUSTER),
    "enable-ipv4": Key("ipv4.enabled", "true", Scope.CLUSTER),
    "enable-ipv6": Key("ipv6.enabled", "true", Scope.CLUSTER),
}

CLUSTER_KEYS = tuple(name for name, key in KEYS.items() if key.scope is Scope.CLUSTER)

# Where Cilium describes the migrations that are not made node by node.
GUIDES: Mapping[str, str] = {
    "routing-mode": f"{DOCUMENTATION}/network/concepts/routing/",
    "kube-proxy-replacement": f"{DOCUMENTATION}/network/kubernetes/kubeproxy-free/",
    "enable-ipv4": f"{DOCUMENTATION}/network/concepts/ipam/",
    "enable-ipv6": f"{DOCUMENTATION}/network/concepts/ipam/",
}


def guide(key: str) -> str:
    """Return the message that refuses a change of the whole cluster."""
    return (
        f"{key} is the same on all nodes; changing it is a migration of its own, which Cilium describes in"
        f" {GUIDES[key]}: do it first"
    )


# The agent's defaults of other keys that decide whether it starts.
DEFAULTS: Mapping[str, str] = {
    **{name: key.default for name, key in KEYS.items()},
    "enable-ipv4-masquerade": "true",
    "enable-ipv6-masquerade": "true",
    "bpf-lb-dsr-dispatch": "opt",
    # The chart writes it as soon as the bandwidth manager is enabled.
    "enable-bbr-hostns-only": "false",
}


@dataclass(frozen=True)
class Setting:
    """A setting: its values from the slowest to the fastest, and the keys that implement them."""

    title: str
    values: tuple[str, ...]
    keys: tuple[str, ...]

    @property
    def best(self) -> str:
        """Return the value that ``auto`` requests."""
        return self.values[-1]

    @property
    def scope(self) -> Scope:
        """Return the class of the largest change among the keys."""
        return Scope.PODS if any(KEYS[key].scope is Scope.PODS for key in self.keys) else Scope.RESTART


# In the order of their dependencies: each may require those above.
SETTINGS: Mapping[str, Setting] = {
    "host_routing": Setting(
        "host routing", ("legacy", "bpf"), ("enable-host-legacy-routing", "enable-bpf-masquerade")
    ),
    "device_mode": Setting("device mode", ("veth", "netkit-l2", "netkit"), ("datapath-mode",)),
    "big_tcp": Setting(
        "BIG TCP",
        ("disabled", "ipv4", "ipv6", "enabled"),
        ("enable-ipv4-big-tcp", "enable-ipv6-big-tcp"),
    ),
    "bbr": Setting("BBR", ("disabled", "enabled"), ("enable-bandwidth-manager", "enable-bbr")),
}


def enabled(config: Mapping[str, str], key: str) -> bool:
    """Return whether a key of a configuration is true, as the agent parses it."""
    value = config.get(key, DEFAULTS.get(key, "false")).strip().lower()
    # kube-proxy-replacement had the value "strict" until 1.15.
    return value in ("true", "1", "t", "yes", "y", "on") or (
        key == "kube-proxy-replacement" and value == "strict"
    )


def value_of(config: Mapping[str, str], key: str) -> str:
    """Return a key's value, or the agent's default."""
    return config.get(key) or DEFAULTS.get(key, "")


def same(config: Mapping[str, str], key: str, value: str) -> bool:
    """Return whether a configuration has this value of a key already, explicitly or by default."""
    if value in ("true", "false"):
        return enabled(config, key) == (value == "true")
    return value_of(config, key) == value


def masquerades(config: Mapping[str, str]) -> bool:
    """Return whether the agent masquerades at all, with BPF or iptables."""
    return any(enabled(config, f"enable-{ip}") and enabled(config, f"enable-{ip}-masquerade") for ip in IPS)


def legacy_routing(config: Mapping[str, str]) -> bool:
    """Return whether the agent uses legacy host routing: as configured, or because it falls back."""
    return (
        enabled(config, "enable-host-legacy-routing")
        or (masquerades(config) and not enabled(config, "enable-bpf-masquerade"))
        or not enabled(config, "kube-proxy-replacement")
    )


IPS = ("ipv4", "ipv6")


def keys_for(name: str, value: str, config: Mapping[str, str]) -> dict[str, str]:
    """Return the keys and values that implement a setting beside a configuration."""
    if name == "host_routing":
        if value == "legacy":
            return {"enable-host-legacy-routing": "true"}
        masquerade = {"enable-bpf-masquerade": "true"} if masquerades(config) else {}
        return {"enable-host-legacy-routing": "false", **masquerade}
    if name == "device_mode":
        return {"datapath-mode": value}
    if name == "big_tcp":
        families = IPS if value == "enabled" else (value,)
        return {f"enable-{ip}-big-tcp": str(ip in families).lower() for ip in IPS}
    if value == "enabled":
        return {"enable-bandwidth-manager": "true", "enable-bbr": "true"}
    return {"enable-bbr": "false"}


def settings_of(config: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that an agent with this configuration has, on a node that supports all of them."""
    families = [ip for ip in IPS if enabled(config, f"enable-{ip}-big-tcp")]
    return {
        "host_routing": "legacy" if legacy_routing(config) else "bpf",
        "device_mode": value_of(config, "datapath-mode"),
        "big_tcp": "enabled" if len(families) == len(IPS) else families[0] if families else "disabled",
        "bbr": "enabled"
        if enabled(config, "enable-bandwidth-manager") and enabled(config, "enable-bbr")
        else "disabled",
    }


def release(text: str) -> tuple[int, int]:
    """Return major and minor version of a release such as ``1.20.2`` or ``6.12.74-flatcar``; else (0, 0)."""
    words = text.strip().lstrip("v").split(".")
    digits = ["".join(c for c in word[:4] if c.isdigit()) for word in words[:2]]
    return (int(digits[0]), int(digits[1])) if len(digits) == 2 and all(digits) else (0, 0)
