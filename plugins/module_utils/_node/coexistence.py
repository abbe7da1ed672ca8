# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find other software that configures a node's network: CNI plugins, VM runtimes, tuners.

Files show each of them; no commands are run.
Sources: the CNI specification; the installation guides of Kata Containers and KubeVirt; libvirtd(8).
"""

from __future__ import annotations

import json
from typing import TypedDict

from .host import Host

CNI_FOLDER = "/etc/cni/net.d"
RUNTIMES = {
    "Kata Containers": (
        "/opt/kata/bin/containerd-shim-kata-v2",
        "/usr/bin/containerd-shim-kata-v2",
        "/usr/local/bin/containerd-shim-kata-v2",
        "/usr/bin/kata-runtime",
    ),
    "KubeVirt": ("/var/run/kubevirt", "/var/lib/kubelet/device-plugins/kubevirt-kvm.sock"),
    "libvirt": ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"),
}
TUNERS = {
    "TuneD": "/run/tuned/tuned.pid",
    "irqbalance": "/run/irqbalance",
    "NetworkManager": "/run/NetworkManager",
    "tuna": "/etc/tuna",
}


class Cni(TypedDict):
    """A CNI network configuration on the node."""

    file: str
    name: str
    plugins: list[str]


class OtherSoftware(TypedDict):
    """Other software that configures the network."""

    cni: list[Cni]
    vm_runtimes: list[str]
    tuners: list[str]


def cni(node: Host) -> list[Cni]:
    """Return the CNI configurations in order; a file that is not JSON has no plugins."""
    found: list[Cni] = []
    for name in node.names(CNI_FOLDER):
        if not name.endswith((".conf", ".conflist", ".json")):
            continue
        file = f"{CNI_FOLDER}/{name}"
        try:
            config = json.loads(node.read(file))
            plugins = config.get("plugins", [config])
            types = [str(plugin["type"]) for plugin in plugins if plugin.get("type")]
            found.append({"file": file, "name": str(config.get("name", "")), "plugins": types})
        except (ValueError, AttributeError, TypeError):
            found.append({"file": file, "name": "", "plugins": []})
    return found


def vm_runtimes(node: Host) -> list[str]:
    """Return the VM runtimes, each with the file that identifies it."""
    found = []
    for name, paths in RUNTIMES.items():
        seen = [path for path in paths if node.exists(path)]
        found += [f"{name} ({seen[0]})"] if seen else []
    return found


def tuners(node: Host) -> list[str]:
    """Return programs and files that change the same settings as this collection."""
    found = []
    for name, path in TUNERS.items():
        if node.exists(path):
            profile = node.read("/etc/tuned/active_profile") if name == "TuneD" else ""
            found.append(f"{name} {profile}".strip())
    for name in node.names("/etc/sysctl.d"):
        file = f"/etc/sysctl.d/{name}"
        # The managed file has a marker; the symlink to /etc/sysctl.conf belongs to the distribution.
        if name.endswith(".conf") and name != "99-sysctl.conf" and "podnet.datapath" not in node.read(file):
            found.append(file)
    return found


def cilium(host: Host) -> list[str]:
    """Return evidence of Cilium on the node: devices, pins, CNI configuration, agent."""
    found = [name for name in host.names("/sys/class/net") if name.startswith("cilium_")]
    found += [name for name in ("/sys/fs/bpf/cilium", "/var/run/cilium") if host.names(name)]
    globals_ = "/sys/fs/bpf/tc/globals"
    found += [f"{globals_}/{name}" for name in host.names(globals_) if name.startswith("cilium_")][:1]
    cni = "/etc/cni/net.d"
    found += [f"{cni}/{name}" for name in host.names(cni) if "cilium-cni" in host.read(f"{cni}/{name}")]
    agents = (pid for pid in host.names("/proc") if pid.isdigit())
    found += [f"process {pid}" for pid in agents if host.read(f"/proc/{pid}/comm") == "cilium-agent"]
    return found


def other_software(node: Host) -> OtherSoftware:
    """Return all other software that configures the network."""
    return {"cni": cni(node), "vm_runtimes": vm_runtimes(node), "tuners": tuners(node)}
