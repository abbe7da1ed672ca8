# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the agents of Cilium 1.15 and 1.20 check before they start, and which settings they then have.

Independent of the collection's plan, which it judges. Each check names its place in Cilium's sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Config = Mapping[str, str]
FAMILIES = ("ipv4", "ipv6")
DEFAULTS = {
    "datapath-mode": "veth",
    "routing-mode": "tunnel",
    "enable-ipv4": "true",
    "enable-ipv6": "true",
    "enable-ipv4-masquerade": "true",
    "enable-ipv6-masquerade": "true",
    "bpf-lb-dsr-dispatch": "opt",
}
TRUE = frozenset(["1", "t", "T", "TRUE", "true", "True"])  # strconv.ParseBool


@dataclass(frozen=True)
class Kernel:
    """A node's kernel, and the largest GSO packet of its uplink."""

    release: tuple[int, int]
    netkit: bool
    gso_limit: int

    @property
    def scrub(self) -> bool:
        """Whether netkit has the scrub attribute."""
        return self.netkit and self.release >= (6, 13)


class Agent:
    """An agent of a release with a configuration on a kernel."""

    def __init__(self, config: Config, kernel: Kernel, version: str) -> None:
        self.config, self.kernel = {**DEFAULTS, **config}, kernel
        major, minor = version.split(".")[:2]
        self.release = int(major), int(minor)

    def _on(self, key: str) -> bool:
        return self.config.get(key, "") in TRUE

    def _masquerades(self) -> list[str]:
        """Return the families that are masqueraded."""
        return [ip for ip in FAMILIES if self._on(f"enable-{ip}") and self._on(f"enable-{ip}-masquerade")]

    @property
    def _iptables_masquerade(self) -> bool:
        return bool(self._masquerades()) and not self._on("enable-bpf-masquerade")

    @property
    def _legacy(self) -> bool:
        """Whether it routes by the host's stack, as configured or as fallback (kube_proxy_replacement.go)."""
        return (
            self._on("enable-host-legacy-routing")
            or self._iptables_masquerade
            or not self._on("kube-proxy-replacement")
            or self.kernel.release < (5, 10)
            or (self.release < (1, 20) and self._on("enable-ipsec"))
        )

    def refusals(self) -> list[str]:
        """Return why it does not start."""
        return [*self.early_refusals(), *self._masquerade(), *self._bandwidth()]

    def early_refusals(self) -> list[str]:
        """Return why it does not start, as far as it knows without the API and the sysctls of a computer."""
        return [*self._connector(), *self._big_tcp()]

    def _masquerade(self) -> list[str]:
        """initAndValidateDaemonConfig (daemon.go) and option.Config.Validate."""
        found, bpf = [], self._on("enable-bpf-masquerade")
        if bpf and not self._masquerades():
            found.append("BPF masquerade without masquerade")
        if bpf and self.config.get("egress-masquerade-interfaces"):
            found.append("BPF masquerade with interfaces")
        if bpf and self._on("enable-masquerade-to-route-source"):
            found.append("BPF masquerade to the source of the route")
        if self._on("enable-ip-masq-agent") and not bpf:
            found.append("ip-masq-agent without BPF masquerade")
        if self.release < (1, 20):
            if bpf and self._masquerades() and not self._on("kube-proxy-replacement"):
                found.append("BPF masquerade without NodePort")
            if bpf and self._on("enable-ipv6-masquerade") and self._on("enable-host-firewall"):
                found.append("IPv6 BPF masquerade with the host firewall")
        if self.config["routing-mode"] == "native" and not self._on("enable-ip-masq-agent"):
            missing = [ip for ip in self._masquerades() if not self.config.get(f"{ip}-native-routing-cidr")]
            found += [f"no {ip}-native-routing-cidr" for ip in missing]
        return found

    def _connector(self) -> list[str]:
        """canUseNetkit (pkg/datapath/connector/config.go)."""
        mode = self.config["datapath-mode"]
        if mode not in ("veth", "netkit", "netkit-l2", "auto") or (mode != "veth" and self.release < (1, 16)):
            return [f"datapath mode {mode}"]
        if mode in ("veth", "auto"):
            return []
        checks = {
            "no netkit": not self.kernel.netkit,
            "legacy host routing": self._on("enable-host-legacy-routing"),
            "iptables masquerade": self._iptables_masquerade,
            "kube-proxy": not self._on("kube-proxy-replacement"),
            "scrub": self._on("enable-endpoint-routes") and not self.kernel.scrub,
            "tproxy": self._on("enable-bpf-tproxy"),
        }
        return [f"netkit: {name}" for name, fails in checks.items() if fails]

    def _big_tcp(self) -> list[str]:
        """validateConfig (pkg/datapath/linux/bigtcp/bigtcp.go)."""
        if not any(self._on(f"enable-{ip}-big-tcp") for ip in FAMILIES):
            return []
        checks = {
            "tunnel": self.config["routing-mode"] != "native",
            "encryption": self._on("enable-ipsec")
            or (self.release < (1, 20) and self._on("enable-wireguard")),
            "legacy host routing": self._on("enable-host-legacy-routing"),
            "datapath mode": self.release < (1, 16) and self.config["datapath-mode"] != "veth",
            "DSR dispatch": self.release >= (1, 20) and self.config["bpf-lb-dsr-dispatch"] != "opt",
        }
        return [f"BIG TCP: {name}" for name, fails in checks.items() if fails]

    def _bandwidth(self) -> list[str]:
        """Return what probe (pkg/datapath/linux/bandwidth/bandwidth.go) refuses."""
        if not self._on("enable-bandwidth-manager"):
            return []
        host_only = self.release >= (1, 20) and self._on("enable-bbr-hostns-only")
        if not self._on("enable-bbr"):
            return ["BBR of the host only, without BBR"] if host_only else []
        checks = {
            "kernel": self.kernel.release < (5, 18),
            "legacy host routing": self._on("enable-host-legacy-routing") and not host_only,
        }
        return [f"BBR: {name}" for name, fails in checks.items() if fails]

    def settings(self) -> dict[str, str]:
        """Return the settings that it reports."""
        since = {"ipv4": (6, 3), "ipv6": (5, 19)}
        big = [
            ip
            for ip in FAMILIES
            if self._on(f"enable-{ip}-big-tcp")
            and self.kernel.release >= since[ip]
            and self.kernel.gso_limit > 65536
        ]
        mode = self.config["datapath-mode"]
        if mode == "auto":
            possible = not Agent({**self.config, "datapath-mode": "netkit"}, self.kernel, "1.20").refusals()
            mode = "netkit" if possible else "veth"
        bandwidth = self._on("enable-bandwidth-manager") and not self._on("enable-ipsec")
        return {
            "host_routing": "legacy" if self._legacy else "bpf",
            "device_mode": mode,
            "big_tcp": "enabled" if len(big) == len(FAMILIES) else big[0] if big else "disabled",
            "bbr": "enabled" if bandwidth and self._on("enable-bbr") else "disabled",
        }
