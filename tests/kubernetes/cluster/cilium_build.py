# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build Cilium and Helm from their Go modules, and render Cilium's charts."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lablib import common

from tests.kubernetes.cluster import build, cache

VERSION = "1.20.2"
HELM = "3.22.0"
MODULE = "github.com/cilium/cilium"
NAMESPACE = "kube-system"
# Each program with its package.
PROGRAMS = {
    "cilium-agent": "daemon",
    "cilium-cni": "plugins/cilium-cni",
    "cilium-dbg": "cilium-dbg",
    "cilium-health": "cilium-health",
    "cilium-health-responder": "cilium-health/responder",
    "cilium-mount": "tools/mount",
    "cilium-operator-generic": "operator",
    "cilium-sysctlfix": "tools/sysctlfix",
}
# Files of the module that its images and its users take: the BPF programs, the chart, and scripts.
CHART = "install/kubernetes/cilium"
FOLDERS = ("bpf", CHART)
SCRIPTS = (
    "images/cilium/init-container.sh",
    "plugins/cilium-cni/cni-uninstall.sh",
    "plugins/cilium-cni/install-plugin.sh",
)
# The folder of the module's files in a layer.
SOURCE = "usr/local/share/cilium"
# The module proxy does not have these: a commit of GoBGP, and a module of which Cilium uses one constant.
GOBGP = "github.com/osrg/gobgp/v4", "v4.7.0"
CONTROLLERS = "sigs.k8s.io/mcs-api/controllers"
CONTROLLERS_SOURCE = """\
package controllers

const DerivedServiceAnnotation = "multicluster.kubernetes.io/derived-service"
"""


def chart(version: str = VERSION) -> Path:
    """Return the folder of a release's chart."""
    if version == VERSION:
        return programs() / SOURCE / CHART
    layer = cache.layer(f"cilium-chart-{version}", CHART, lambda work: _download_chart(version, work))
    return layer / CHART


def _download_chart(version: str, layer: Path) -> None:
    with build.toolchain() as go:
        shutil.copytree(go.module(MODULE, version) / CHART, layer / CHART)


def render(values: Mapping[str, Any], kubernetes: str, *arguments: str | Path, version: str = VERSION) -> str:
    """Return the manifests of a release's chart for values and a release of Kubernetes."""
    helm = (programs() / build.BIN / "helm", "template", "cilium", chart(version), "--namespace", NAMESPACE)
    options = ("--kube-version", kubernetes, "--values", "-")
    return common.run([*helm, *options, *arguments], given=json.dumps(values))


def programs() -> Path:
    """Return the layer with the programs of Cilium, its chart and BPF sources, and Helm."""
    functions = (_build, _write_module, build.Go.run, build.Go.install)
    recipe = [VERSION, HELM, *PROGRAMS.values(), *FOLDERS, *SCRIPTS, *GOBGP, CONTROLLERS_SOURCE]
    return cache.layer(f"cilium-{VERSION}", "".join([*recipe, *map(inspect.getsource, functions)]), _build)


def _build(layer: Path) -> None:
    (layer / build.BIN).mkdir(parents=True)
    with build.toolchain() as go:
        with common.step(f"Helm {HELM}", 100):
            go.install(f"helm.sh/helm/v3/cmd/helm@v{HELM}", layer / build.BIN)
        module = go.module(MODULE, VERSION)
        _write_module(go.folder, (module / "go.mod").read_text())
        # Without revision and date the agent reports no version at all.
        flags = f'-s -w -X "{MODULE}/pkg/version.ciliumVersion={VERSION} v{VERSION} 0"'
        options = ("-mod=mod", "-trimpath", "-tags", "osusergo,ipam_provider_operator", "-ldflags", flags)
        for program, package in PROGRAMS.items():
            with common.step(f"{program} {VERSION}", 300):
                go.run("build", *options, "-o", layer / build.BIN / program, f"{MODULE}/{package}")
        for folder in FOLDERS:
            # Its tests are larger than everything else.
            skip = shutil.ignore_patterns("tests", "complexity-tests", "test-progs")
            shutil.copytree(module / folder, layer / SOURCE / folder, ignore=skip)
        for script in SCRIPTS:
            (layer / SOURCE / script).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(module / script, layer / SOURCE / script)


def _write_module(folder: Path, upstream: str) -> None:
    """Write a module that requires Cilium, as go.mod replaces no modules of those that it requires."""
    stub = folder / "controllers"
    stub.mkdir(exist_ok=True)
    (stub / "go.mod").write_text(f"module {CONTROLLERS}\n")
    (stub / "controllers.go").write_text(CONTROLLERS_SOURCE)
    lines = [
        "module podnet.test/cilium",
        *re.findall(r"^(?:go|godebug) .*$", upstream, re.MULTILINE),
        f"require {MODULE} v{VERSION}",
        f"replace {GOBGP[0]} => {GOBGP[0]} {GOBGP[1]}",
        f"replace {CONTROLLERS} => ./{stub.name}",
    ]
    (folder / "go.mod").write_text("\n".join(lines) + "\n")
    (folder / "go.sum").unlink(missing_ok=True)
