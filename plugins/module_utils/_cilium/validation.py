# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks with which agents of Cilium 1.15 to 1.20 refuse to start.

Sources: pkg/datapath/connector/config.go, pkg/datapath/linux/bigtcp and bandwidth, pkg/kpr/initializer,
daemon/cmd/daemon.go and pkg/option/config.go; cilium#39892 (tproxy).
"""

from __future__ import annotations

from collections.abc import Mapping

from .model import Node
from .settings import IPS, enabled, legacy_routing, masquerades, release, value_of


def startup_errors(config: Mapping[str, str], node: Node, version: str) -> list[str]:
    """Return why an agent with this configuration would refuse to start on a node."""
    return [
        *_masquerade_errors(config, version),
        *(netkit_errors(config, node, version) if _uses_netkit(config) else []),
        *_big_tcp_errors(config, node, version),
        *_bbr_errors(config, node),
    ]


def _masquerade_errors(config: Mapping[str, str], version: str) -> list[str]:
    found = []
    bpf = enabled(config, "enable-bpf-masquerade")
    if bpf and not masquerades(config):
        found.append("BPF masquerade requires enable-ipv4-masquerade or enable-ipv6-masquerade")
    if bpf and config.get("egress-masquerade-interfaces"):
        found.append("BPF masquerade does not allow egress-masquerade-interfaces: use devices")
    if bpf and enabled(config, "enable-masquerade-to-route-source"):
        found.append("BPF masquerade cannot be used with enable-masquerade-to-route-source")
    ipv6_firewall = enabled(config, "enable-ipv6-masquerade") and enabled(config, "enable-host-firewall")
    if bpf and ipv6_firewall and release(version) < (1, 20):
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


def _uses_netkit(config: Mapping[str, str]) -> bool:
    return value_of(config, "datapath-mode").startswith("netkit")


def netkit_errors(config: Mapping[str, str], node: Node, version: str) -> list[str]:
    """Return why an agent with this configuration would refuse netkit devices."""
    found = []
    if release(version) < (1, 16):
        found.append("netkit requires Cilium 1.16")
    if not node.netkit:
        found.append("netkit requires kernel 6.7 and CONFIG_NETKIT: the probe of the device failed")
    if enabled(config, "enable-host-legacy-routing"):
        found.append("netkit cannot be used with enable-host-legacy-routing: true")
    if masquerades(config) and not enabled(config, "enable-bpf-masquerade"):
        found.append("netkit requires enable-bpf-masquerade: true")
    if not enabled(config, "kube-proxy-replacement"):
        found.append("netkit requires kube-proxy-replacement: true")
    if enabled(config, "enable-endpoint-routes") and not node.netkit_scrub:
        found.append("netkit with enable-endpoint-routes requires the scrub attribute (kernel 6.13)")
    if enabled(config, "enable-bpf-tproxy"):
        found.append("netkit cannot be used with enable-bpf-tproxy: true")
    return found


def _big_tcp_errors(config: Mapping[str, str], node: Node, version: str) -> list[str]:
    if not any(enabled(config, f"enable-{ip}-big-tcp") for ip in IPS):
        return []
    found = []
    if legacy_routing(config):
        found.append("BIG TCP requires BPF host routing")
    if enabled(config, "enable-ipsec"):
        found.append("BIG TCP cannot be used with enable-ipsec: true")
    if enabled(config, "enable-wireguard") and release(version) < (1, 20):
        found.append("BIG TCP cannot be used with enable-wireguard: true before Cilium 1.20")
    if value_of(config, "routing-mode") != "native" and not node.tunnel_big_tcp:
        found.append("BIG TCP requires routing-mode: native")
    other_dispatch = value_of(config, "bpf-lb-dsr-dispatch") != "opt"
    if other_dispatch and not node.tunnel_big_tcp and release(version) >= (1, 19):
        found.append("BIG TCP requires bpf-lb-dsr-dispatch: opt since Cilium 1.19")
    if release(version) < (1, 16) and value_of(config, "datapath-mode") != "veth":
        found.append("BIG TCP requires datapath-mode: veth before Cilium 1.16")
    return found


def _bbr_errors(config: Mapping[str, str], node: Node) -> list[str]:
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
    if legacy_routing(config) and not enabled(config, "enable-bbr-hostns-only"):
        found.append("BBR requires BPF host routing")
    return found
