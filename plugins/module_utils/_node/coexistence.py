# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else works on a node's network: CNI plugins, runtimes of virtual machines, tuners.

Private to this collection. All of it is read from files, and told with what it was recognised by.
Sources: the CNI specification; the installation guides of Kata Containers and KubeVirt; libvirtd(8).
"""

from __future__ import annotations

import json
from typing import TypedDict

from .facts import Node

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
    """A network configuration that container runtimes find on the node."""

    file: str
    name: str
    plugins: list[str]


class Neighbours(TypedDict):
    """Everybody else who works on the network."""

    cni: list[Cni]
    vm_runtimes: list[str]
    tuners: list[str]


def cni(node: Node) -> list[Cni]:
    """Return the CNI configurations in their order; what is no JSON has no plugins."""
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


def vm_runtimes(node: Node) -> list[str]:
    """Return the runtimes of virtual machines, each with what it was recognised by."""
    found = []
    for name, paths in RUNTIMES.items():
        seen = [path for path in paths if node.exists(path)]
        found += [f"{name} ({seen[0]})"] if seen else []
    return found


def tuners(node: Node) -> list[str]:
    """Return programs and files that set the same things as this collection."""
    found = []
    for name, path in TUNERS.items():
        if node.exists(path):
            profile = node.read("/etc/tuned/active_profile") if name == "TuneD" else ""
            found.append(f"{name} {profile}".strip())
    for name in node.names("/etc/sysctl.d"):
        file = f"/etc/sysctl.d/{name}"
        # Ours has a first line that says so; a link to /etc/sysctl.conf is the distribution's.
        if name.endswith(".conf") and name != "99-sysctl.conf" and "podnet.datapath" not in node.read(file):
            found.append(file)
    return found


def neighbours(node: Node) -> Neighbours:
    """Return all of them."""
    return {"cni": cni(node), "vm_runtimes": vm_runtimes(node), "tuners": tuners(node)}
