# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes' own end-to-end suite, and the image that its specs run in Pods."""

from __future__ import annotations

import inspect
from pathlib import Path

from lablib import common, debian

from tests.kubernetes.cluster import build, cache, images
from tests.kubernetes.cluster.node import Node

PROGRAM = "e2e.test"
IMAGE = f"{images.REGISTRY}/e2e:1"
# What the specs run in agnhost's image, which is based on another distribution.
PACKAGES = ("bind9-dnsutils", "busybox-static", "curl", "iproute2", "iptables", "netcat-openbsd", "procps")
# agnhost's server of TLS has its certificate in the root folder.
CERTIFICATE = ("localhost.crt", "localhost.key")
# The images that network specs use, as IMAGE or as the one of the sandboxes.
NAMES = {"agnhost": IMAGE, "busybox": IMAGE, "glibc-dns-testing": IMAGE, "pause": images.PAUSE}


def layer(version: str) -> Path:
    """Return the layer with the suite and its image."""
    programs = build.programs(version)
    recipe = f"{programs.name} {PACKAGES} {inspect.getsource(_build)}"
    return cache.layer(f"e2e-{version}", recipe, lambda work: _build(version, programs, work))


def _build(version: str, programs: Path, target: Path) -> None:
    root = target / "root"
    with build.toolchain() as go:
        (target / build.BIN).mkdir(parents=True)
        with common.step(f"end-to-end suite of Kubernetes {version}", 600):
            go.compile(("test", "-c", "-vet=off"), version, ("test/e2e",), f"{target / build.BIN / PROGRAM}")
        porter = go.module("k8s.io/kubernetes", version) / "test/images/agnhost/porter"
        files = {"agnhost": programs / build.BIN / "agnhost", **{name: porter / name for name in CERTIFICATE}}
        with common.step("image of the end-to-end suite", 40):
            debian.make_root(root, build.SUITE, PACKAGES, variant="minbase")
            (target / images.ARCHIVES).mkdir(parents=True)
            links = {"usr/local/bin/wget": "/usr/bin/busybox", "agnhost-2": "agnhost"}
            image = images.Image(IMAGE, "/agnhost", files, links, root)
            images.write_archive(target / images.ARCHIVES / "e2e.tar", [image])
    common.remove_tree(root)


def tag_images(nodes: list[Node]) -> None:
    """Give the image the names that the suite of this release uses."""
    wanted = nodes[0].run(PROGRAM, "--list-images").split()
    for node in nodes:
        for name in wanted:
            image = NAMES.get(name.rpartition("/")[2].partition(":")[0])
            if image:
                node.run("ctr", "-n", "k8s.io", "images", "tag", "--force", image, name)
