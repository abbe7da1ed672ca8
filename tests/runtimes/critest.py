# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""critest, the suite of cri-tools for container runtimes, and the images of its specs."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from lablib import common

from tests.kubernetes.cluster import build, cache, images, root

PROGRAM = "critest"
MODULE, VERSION = "sigs.k8s.io/cri-tools", "1.37.0"
# pkg/framework/util.go, pkg/validate/consts.go
COMMANDS = ("cat", "echo", "hostname", "ls", "sh", "sleep", "sysctl", "top")
TOOLS, WEB_SERVER = "e2e-test-images/busybox:1.29-2", "e2e-test-images/nginx:1.14-2"


def layer() -> Path:
    """Return the layer with the suite."""
    recipe = f"{VERSION} {inspect.getsource(_build)}"
    return cache.layer(f"critest-{VERSION}", recipe, _build)


def _build(target: Path) -> None:
    (target / build.BIN).mkdir(parents=True)
    with build.toolchain() as go, common.step(f"critest {VERSION}", 180):
        upstream = (go.module(MODULE, VERSION) / "go.mod").read_text()
        lines = [
            "module podnet.test/critest",
            *re.findall(r"^go .*$", upstream, re.MULTILINE),
            f"require {MODULE} v{VERSION}",
        ]
        (go.folder / "go.mod").write_text("\n".join(lines) + "\n")
        (go.folder / "go.sum").unlink(missing_ok=True)
        options = ("-mod=mod", "-trimpath", "-ldflags", "-s -w", "-vet=off")
        go.run("test", "-c", *options, "-o", target / build.BIN / PROGRAM, f"{MODULE}/cmd/critest")


def images_layer() -> Path:
    """Return the layer with an archive of the images, which consist of busybox."""
    base = root.layer()
    recipe = f"{base.name} {COMMANDS} {inspect.getsource(images)} {inspect.getsource(_build_images)}"
    return cache.layer("critest-images", recipe, lambda work: _build_images(base, work))


def _build_images(base: Path, target: Path) -> None:
    (target / images.ARCHIVES).mkdir(parents=True)
    busybox = base / "usr/bin/busybox"
    links = {f"bin/{name}": "busybox" for name in COMMANDS}
    page = target / "index.html"
    page.write_text("podnet\n")
    files = {"bin/busybox": busybox}
    made = [
        images.Image(f"registry.k8s.io/{TOOLS}", "/bin/busybox", files, links, ["sh"]),
        images.Image(
            f"registry.k8s.io/{WEB_SERVER}",
            "/bin/busybox",
            {**files, "www/index.html": page},
            links,
            ["httpd", "-f", "-p", "80", "-h", "/www"],
        ),
    ]
    images.write_archive(target / images.ARCHIVES / "critest.tar", made)
    page.unlink()
