# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cilium on the nodes of a cluster, as Helm installs its chart, without kube-proxy.

The values are those of an ordinary older installation: veth, legacy host routing, no BIG TCP and no BBR.
"""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lablib import common, debian

from tests.kubernetes.cluster import build, cache, cgroups, cilium_build, images
from tests.kubernetes.cluster.node import POD_CIDRS, Node

if TYPE_CHECKING:
    from tests.kubernetes.cluster.cluster import Cluster

NAMESPACE = cilium_build.NAMESPACE
IMAGE = f"{images.REGISTRY}/cilium:{cilium_build.VERSION}"
# The agent compiles its BPF programs. Cilium's own image has the same release of clang.
SUITE = "trixie"
PACKAGES = ("ca-certificates", "clang-19", "ipset", "iproute2", "iptables", "kmod", "mount")
# Folders of clang that only programs for this computer need.
UNUSED = ("usr/include", "usr/lib/gcc", "var/lib/apt/lists", "var/cache")
# The cgroup v2 of a node. The chart would mount the one of this whole computer there.
CGROUP = "/run/cilium/cgroupv2"
VALUES: dict[str, Any] = {
    "autoDirectNodeRoutes": True,
    "bpf": {"hostLegacyRouting": True},
    "cgroup": {"autoMount": {"enabled": False}, "hostRoot": CGROUP},
    "enableIPv4BIGTCP": False,
    "enableIPv6BIGTCP": False,
    "envoy": {"enabled": False},
    "hubble": {"enabled": False},
    "image": {"override": IMAGE},
    "ipam": {"mode": "kubernetes"},
    "ipv4NativeRoutingCIDR": POD_CIDRS[0],
    "ipv6": {"enabled": True},
    "ipv6NativeRoutingCIDR": POD_CIDRS[1],
    "kubeProxyReplacement": True,
    "l7Proxy": False,
    "operator": {"image": {"override": IMAGE}, "replicas": 1},
    "routingMode": "native",
    # Without CAP_SYS_RESOURCE, as in some containers, Pods cannot ask for it.
    "securityContext": {"privileged": True},
    # It asks systemd to apply sysctls, which the machines do not have.
    "sysctlfix": {"enabled": False},
}


def layers() -> list[Path]:
    """Return the layers of the nodes' roots: an archive of the image for agent and operator."""
    programs = cilium_build.programs()
    recipe = (
        f"{programs.name} {PACKAGES} {UNUSED} {inspect.getsource(images)} {inspect.getsource(_build_image)}"
    )
    return [cache.layer("cilium-image", recipe, lambda work: _build_image(programs, work))]


def _build_image(programs: Path, target: Path) -> None:
    root, source = target / "root", programs / cilium_build.SOURCE
    (target / images.ARCHIVES).mkdir(parents=True)
    with common.step("image of Cilium", 90):
        debian.make_root(root, SUITE, PACKAGES, variant="minbase")
        for folder in UNUSED:
            common.remove_tree(root / folder)
        shutil.copytree(source / "bpf", root / "var/lib/cilium/bpf")
        files = {f"usr/bin/{name}": programs / build.BIN / name for name in cilium_build.PROGRAMS}
        files["opt/cni/bin/cilium-cni"] = files.pop("usr/bin/cilium-cni")
        for script in cilium_build.SCRIPTS:
            # Files of Go modules are not executable.
            copied = Path(shutil.copy(source / script, root))
            copied.chmod(0o755)
        links = {"usr/bin/cilium": "cilium-dbg", "usr/bin/clang": "clang-19"}
        image = images.Image(IMAGE, "/usr/bin/cilium-dbg", files, links, (), root)
        images.write_archive(target / images.ARCHIVES / "cilium.tar", [image])
    common.remove_tree(root)


def install(cluster: Cluster) -> None:
    """Apply the chart; kubelet starts the agents and the operator."""
    for node in cluster.nodes:
        _prepare(node)
    host, dummy, port = cluster.server.url.removeprefix("https://").rpartition(":")
    values = {**VALUES, "k8sServiceHost": host, "k8sServicePort": int(port)}
    manifests = cilium_build.render(values, cluster.version)
    cluster.kubectl("apply", "--server-side", "-f", "-", given=manifests)


def _prepare(node: Node) -> None:
    """Mount the node's cgroup v2 where the agent attaches the programs of services."""
    node.run("mkdir", "-p", CGROUP)
    node.run("mount", "--bind", cgroups.version2(node.group), CGROUP)
