# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubernetes' own end-to-end suite, and the image that its specs run in Pods."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path

from lablib import common, debian

from tests.kubernetes.cluster import build, cache, images
from tests.kubernetes.cluster.host import Host
from tests.kubernetes.cluster.node import AnyNode

PROGRAM = "e2e.test"
# Runs specs in several processes at the same time.
RUNNER = "ginkgo"
IMAGE = f"{images.REGISTRY}/e2e:1"
# What the specs run in agnhost's image, which is based on another distribution.
PACKAGES = (
    *("bind9-dnsutils", "busybox-static", "curl", "iperf", "iproute2", "iptables", "netcat-openbsd"),
    "procps",
)
# The server of a spec, in an image of its own
SERVER = "regression-issue-74839"
SERVER_IMAGE = f"{images.REGISTRY}/{SERVER}:1"
CERTIFICATES = "usr/local/share/certificates"
# The images that network specs use, as IMAGE or as the one of the sandboxes.
NAMES = {
    **dict.fromkeys(("agnhost", "busybox", "glibc-dns-testing"), IMAGE),
    "pause": images.PAUSE,
    SERVER: SERVER_IMAGE,
}


def layers(version: str) -> list[Path]:
    """Return the layers of a release: the images, the suite, and the programs beside it."""
    programs = build.programs(version)
    suite = cache.layer(
        f"e2e-{version}",
        f"{programs.name} {inspect.getsource(_build_suite)}",
        lambda work: _build_suite(version, work),
    )
    more = cache.layer(
        f"e2e-programs-{version}",
        f"{programs.name} {inspect.getsource(_build_programs)}",
        lambda work: _build_programs(version, work),
    )
    image = cache.layer(
        "e2e-image",
        f"{suite.name} {more.name} {PACKAGES} {inspect.getsource(images)} {inspect.getsource(_build_image)}",
        lambda work: _build_image(programs, suite, more, work),
    )
    return [image, suite, more]


def _build_suite(version: str, target: Path) -> None:
    (target / build.BIN).mkdir(parents=True)
    (target / CERTIFICATES).mkdir(parents=True)
    with build.toolchain() as go:
        with common.step(f"end-to-end suite of Kubernetes {version}", 600):
            command = ("test", "-c", "-vet=off")
            go.compile(command, version, ("test/e2e",), str(target / build.BIN / PROGRAM))
        porter = go.module("k8s.io/kubernetes", version) / "test/images/agnhost/porter"
        for path in porter.glob("localhost.*"):
            (target / CERTIFICATES / path.name).write_bytes(path.read_bytes())


def _build_programs(version: str, target: Path) -> None:
    (target / build.BIN).mkdir(parents=True)
    with build.toolchain() as go, common.step(f"programs beside the suite of Kubernetes {version}", 60):
        required = (go.module("k8s.io/kubernetes", version) / "go.mod").read_text()
        # The suite accepts only the runner of its own version.
        found = re.search(r"^\s*github.com/onsi/ginkgo/v2 (v\S+)$", required, re.MULTILINE)
        assert found, required
        go.install(f"github.com/onsi/ginkgo/v2/{RUNNER}@{found[1]}", target / build.BIN)
        go.compile(("build",), version, (f"test/images/{SERVER}",), f"{target / build.BIN}/")


def _build_image(programs: Path, suite: Path, more: Path, target: Path) -> None:
    root = target / "root"
    (target / images.ARCHIVES).mkdir(parents=True)
    # agnhost's server of TLS has its certificate in the root folder.
    files = {path.name: path for path in (suite / CERTIFICATES).iterdir()}
    files.update({name: programs / build.BIN / name for name in ("agnhost", "coredns")})
    server = {SERVER: more / build.BIN / SERVER}
    links = {"usr/local/bin/wget": "/usr/bin/busybox", "agnhost-2": "agnhost"}
    with common.step("image of the end-to-end suite", 40):
        debian.make_root(root, build.SUITE, PACKAGES, variant="minbase")
        made = [
            images.Image(IMAGE, "/agnhost", files, links, ["pause"], root),
            images.Image(SERVER_IMAGE, f"/{SERVER}", server),
        ]
        images.write_archive(target / images.ARCHIVES / "e2e.tar", made)
    common.remove_tree(root)


def tag_images(control: Host, nodes: Sequence[AnyNode]) -> None:
    """Give the image the names that the suite of this release uses."""
    wanted = control.run(PROGRAM, "--list-images").split()
    for node in nodes:
        for name in wanted:
            image = NAMES.get(name.rpartition("/")[2].partition(":")[0])
            if image:
                node.run("ctr", "-n", "k8s.io", "images", "tag", "--force", image, name)
