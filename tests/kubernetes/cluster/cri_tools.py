# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of cri-tools: crictl, and critest, the suite for container runtimes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from lablib import common

from tests.kubernetes.cluster import build, cache

MODULE, VERSION = "sigs.k8s.io/cri-tools", "1.37.0"
# critest is a test program of Go.
COMMANDS = {"crictl": ("build",), "critest": ("test", "-c", "-vet=off")}


def layer(program: str) -> Path:
    """Return the layer with a program, ``crictl`` or ``critest``."""
    recipe = f"{VERSION} {COMMANDS[program]} {inspect.getsource(_build)}"
    return cache.layer(f"{program}-{VERSION}", recipe, lambda target: _build(program, target))


def _build(program: str, target: Path) -> None:
    (target / build.BIN).mkdir(parents=True)
    with build.toolchain() as go, common.step(f"{program} {VERSION}", 180):
        upstream = (go.module(MODULE, VERSION) / "go.mod").read_text()
        lines = [
            "module podnet.test/cri-tools",
            *re.findall(r"^go .*$", upstream, re.MULTILINE),
            f"require {MODULE} v{VERSION}",
        ]
        (go.folder / "go.mod").write_text("\n".join(lines) + "\n")
        (go.folder / "go.sum").unlink(missing_ok=True)
        options = ("-mod=mod", "-trimpath", "-ldflags", "-s -w")
        go.run(*COMMANDS[program], *options, "-o", target / build.BIN / program, f"{MODULE}/cmd/{program}")
