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

from tests.kubernetes.cluster import build, cache, cilium_build, guest, images
from tests.kubernetes.cluster.node import POD_CIDRS

if TYPE_CHECKING:
    from tests.kubernetes.cluster.cluster import AnyCluster

NAMESPACE = cilium_build.NAMESPACE
IMAGE = f"{images.REGISTRY}/cilium:{cilium_build.VERSION}"
SUITE = "trixie"
PACKAGES = ("ca-certificates", "ipset", "iproute2", "iptables", "kmod", "mount")
# The agent compiles its BPF programs. Cilium's own image has the same release of clang.
CLANG = "clang-19"
# Emulated nodes compile elsewhere, see compiler.py.
CURL = "curl"
# Among others, folders of clang that only programs for this computer need.
UNUSED = ("usr/include", "usr/lib/gcc", "usr/share", "var/lib/apt/lists", "var/cache")
ARCHIVE = f"{images.ARCHIVES}/cilium.tar"
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
    recipe = f"{CLANG} {_recipe()} {inspect.getsource(_build_image)}"
    return [cache.layer("cilium-image", recipe, _build_image)]


def guest_layer(compiler: str) -> Path:
    """Return a layer with an archive of the image and its folder ``usr``, whose clang is a script.

    In the image, ``usr`` is a link to the guests' disk: emulated nodes take an hour to import all files.
    """
    recipe = (
        f"{CURL} {compiler} {guest.MOUNT} {guest.SHARED} {_recipe()} {inspect.getsource(_build_guest_image)}"
    )
    return cache.layer("cilium-guest-image", recipe, lambda work: _build_guest_image(compiler, work))


def _recipe() -> str:
    name = cilium_build.programs().name
    return f"{name} {PACKAGES} {UNUSED} {inspect.getsource(images)} {inspect.getsource(_make_root)}"


def _build_image(target: Path) -> None:
    with common.step("image of Cilium", 90):
        root = target / "root"
        _make_root(root, CLANG)
        (root / "usr/bin/clang").symlink_to(CLANG)
        _write_archive(target, root)
        common.remove_tree(root)


def _build_guest_image(compiler: str, target: Path) -> None:
    with common.step("image of Cilium for guests", 90):
        root = target / "root"
        _make_root(root, CURL)
        common.write_atomic(root / "usr/bin/clang", compiler, 0o755)
        # Mount point of a Pod's volume
        (root / "usr/lib/modules").mkdir()
        shared = target / guest.SHARED
        shared.mkdir()
        (root / "usr").rename(shared / "usr")
        (root / "usr").symlink_to(f"{guest.MOUNT}/{guest.SHARED}/usr")
        _write_archive(target, root)
        common.remove_tree(root)


def _make_root(root: Path, package: str) -> None:
    """Create the root of the image with a further package."""
    programs = cilium_build.programs()
    source = programs / cilium_build.SOURCE
    debian.make_root(root, SUITE, (*PACKAGES, package), variant="minbase")
    for folder in UNUSED:
        shutil.rmtree(root / folder, ignore_errors=True)
    shutil.copytree(source / "bpf", root / "var/lib/cilium/bpf")
    for name in cilium_build.PROGRAMS:
        shutil.copy(programs / build.BIN / name, root / "usr/bin")
    for script in cilium_build.SCRIPTS:
        # Files of Go modules are not executable.
        copied = Path(shutil.copy(source / script, root))
        copied.chmod(0o755)
    (root / "usr/bin/cilium").symlink_to("cilium-dbg")
    (root / "opt/cni/bin").mkdir(parents=True)
    (root / "opt/cni/bin/cilium-cni").symlink_to("/usr/bin/cilium-cni")


def _write_archive(layer: Path, root: Path) -> None:
    archive = layer / ARCHIVE
    archive.parent.mkdir(parents=True)
    images.write_archive(archive, [images.Image(IMAGE, "/usr/bin/cilium-dbg", {}, {}, (), root)])


def install(cluster: AnyCluster, **values: Any) -> None:
    """Install the chart with further values; kubelet starts the agents and the operator."""
    for node in cluster.nodes:
        # Where the agent attaches the programs of services
        node.run("mkdir", "-p", CGROUP)
        node.run("mount", "--bind", node.cgroup2, CGROUP)
    apply(cluster, **values)


def apply(cluster: AnyCluster, *arguments: str | Path, **values: Any) -> None:
    """Apply the chart with further values and arguments of ``helm template``."""
    host, dummy, port = cluster.server.url.removeprefix("https://").rpartition(":")
    values = {**VALUES, "k8sServiceHost": host, "k8sServicePort": int(port), **values}
    manifests = cilium_build.render(values, cluster.version, *arguments)
    cluster.kubectl("apply", "--server-side", "-f", "-", given=manifests)
