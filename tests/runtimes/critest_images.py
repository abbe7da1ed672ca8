# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of critest's specs."""

from __future__ import annotations

import inspect
from pathlib import Path

from tests.kubernetes.cluster import cache, images, root

# pkg/framework/util.go, pkg/validate/consts.go
COMMANDS = ("cat", "echo", "hostname", "ls", "sh", "sleep", "sysctl", "top")
TOOLS, WEB_SERVER = "e2e-test-images/busybox:1.29-2", "e2e-test-images/nginx:1.14-2"


def layer() -> Path:
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
