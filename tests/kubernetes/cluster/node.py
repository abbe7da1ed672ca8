# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node: containerd, kubelet and kube-proxy, in a machine or in a guest."""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

from tests.kubernetes.cluster import images
from tests.kubernetes.cluster.host import Host
from tests.kubernetes.cluster.machine import CGROUP2, Machine

NET_D = "/etc/cni/net.d"
CNI_BIN = "/opt/cni/bin"
DNS_ADDRESS = "10.96.0.10"
POD_CIDRS = "10.244.0.0/16", "fd44::/48"

# Without CAP_SYS_RESOURCE, as in some containers, no process may lower its OOM score.
# To start a program, crun takes a fifth of the CPU time of runc.
CONTAINERD = f"""\
version = 3
[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{images.PAUSE}"
[plugins.'io.containerd.cri.v1.runtime']
disable_apparmor = true
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = ["{CNI_BIN}", "/usr/lib/cni"]
conf_dir = "{NET_D}"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = "crun"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


class AnyNode(Host):
    """A node of the cluster with its number, from 1; its addresses and Pod ranges follow from it."""

    number: int

    @property
    def addresses(self) -> tuple[str, str]:
        """The IPv4 and the IPv6 address."""
        return f"172.30.0.{10 + self.number}", f"fd30::{10 + self.number}"

    @property
    def pod_cidrs(self) -> tuple[str, str]:
        """The address ranges of the Pods."""
        return f"10.244.{self.number}.0/24", f"fd44:0:0:{self.number}::/64"

    @property
    @abstractmethod
    def cgroup(self) -> str:
        """The group below which kubelet creates those of Pods."""

    @property
    @abstractmethod
    def cgroup2(self) -> str:
        """The folder of the cgroup v2 that contains all processes of the node."""

    def manifest(self) -> dict[str, Any]:
        """Return the Node object; kubelet adopts it, so the ranges do not depend on the order of nodes."""
        addresses = [{"type": "InternalIP", "address": address} for address in self.addresses]
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name},
            "spec": {"podCIDR": self.pod_cidrs[0], "podCIDRs": self.pod_cidrs},
            "status": {"addresses": addresses},
        }

    def start_containerd(self, config: str = CONTAINERD) -> None:
        """Start containerd with its configuration, by default of version 2, and import the images."""
        self.run("mkdir", "-p", "/etc/containerd", NET_D, CNI_BIN, "/etc/kubernetes", "/var/log/pods")
        self.write("/etc/containerd/config.toml", config)
        self._start_containerd()
        load = f'for file in /{images.ARCHIVES}/*.tar; do ctr -n k8s.io images import "$file"; done'
        self.run("sh", "-ec", load)

    def restart_containerd(self) -> None:
        """Restart containerd; its containers continue to run."""
        self.stop("containerd")
        self._start_containerd()

    def _start_containerd(self) -> None:
        self.start("containerd", "containerd")
        self.run("timeout", "60", "sh", "-c", "until ctr version; do sleep 0.1; done")

    def set_conflist(self, name: str, conflist: dict[str, Any] | None) -> None:
        """Write or remove a CNI configuration; containerd notices it."""
        if conflist is None:
            self.run("rm", "-f", f"{NET_D}/{name}")
        else:
            self.write(f"{NET_D}/{name}", json.dumps(conflist, indent=1))

    def start_kubelet(self, kubeconfig: str) -> None:
        """Start kubelet with a kubeconfig."""
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.addresses[0],
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cgroup,
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": "cluster.local",
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "evictionHard": {"memory.available": "50Mi"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "oomScoreAdj": 0,
        }
        self.write("/etc/kubernetes/kubelet.json", json.dumps(config, indent=1))
        self.write("/etc/kubernetes/kubelet.conf", kubeconfig, 0o600)
        self.start(
            # Without the variable kubelet waits for the metadata of a cloud.
            *("kubelet", "AWS_EC2_METADATA_DISABLED=true"),
            *("kubelet", "--config", "/etc/kubernetes/kubelet.json"),
            *("--kubeconfig", "/etc/kubernetes/kubelet.conf", "--node-ip", ",".join(self.addresses)),
            # Nothing reads the statistics of containers, which kubelet collects each 10 s by default.
            "--housekeeping-interval=1m",
        )

    def start_proxy(self, mode: str, kubeconfig: str) -> None:
        """Start kube-proxy in a mode, with a kubeconfig."""
        self.write("/etc/kubernetes/proxy.conf", kubeconfig, 0o600)
        self.start(
            *("kube-proxy", "kube-proxy", "--kubeconfig", "/etc/kubernetes/proxy.conf"),
            *("--proxy-mode", mode, "--cluster-cidr", ",".join(POD_CIDRS)),
            # The limit belongs to the whole kernel.
            *("--conntrack-max-per-core", "0"),
        )

    def routes(self) -> list[tuple[str, str]]:
        """Return each Pod range with the node's address that is its next hop."""
        return list(zip(self.pod_cidrs, self.addresses, strict=True))


class Node(Machine, AnyNode):
    """A node in a machine."""

    def __init__(self, number: int, cluster: Path, netns: str, group: str) -> None:
        super().__init__(f"node{number}", cluster, netns, group)
        self.number = number

    @property
    def cgroup(self) -> str:
        return f"/{self.group}"

    @property
    def cgroup2(self) -> str:
        return f"{CGROUP2}/{self.group}"

    def start_containerd(self, config: str = CONTAINERD) -> None:
        super().start_containerd(config)
