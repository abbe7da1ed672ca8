# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build Kubernetes and CoreDNS from their Go modules, with the Go of Debian's newest suite.

Debian packages neither. The Go module of a Kubernetes release replaces the modules of its staging folder by
folders that only its repository has; they are published as modules of the same release, so a generated go.mod
requires those instead.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lablib import common, debian

from tests.kubernetes.cluster import cache

KUBERNETES = os.environ.get("PODNET_KUBERNETES") or "1.36.3"
COREDNS = "1.15.0"
SUITE = "sid"
PROGRAMS = (
    *(f"cmd/{name}" for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler")),
    *(f"cmd/{name}" for name in ("kubelet", "kube-proxy", "kubectl")),
    "test/images/agnhost",
)
# The folder of programs in a layer.
BIN = "usr/local/bin"


def programs(version: str = KUBERNETES) -> Path:
    """Return the layer with the programs of Kubernetes, agnhost, CoreDNS and the source of pause."""
    if not re.fullmatch(r"1\.\d+\.\d+", version):
        raise common.LabError(
            f"KUBERNETES={version} is not a release; set one, such as KUBERNETES={KUBERNETES}"
        )
    recipe = [version, COREDNS, *PROGRAMS, *map(inspect.getsource, (_build, Go.run, Go.compile, Go.install))]
    return cache.layer(f"programs-{version}", "".join(recipe), lambda work: _build(version, work))


def _build(version: str, layer: Path) -> None:
    with toolchain() as go:
        with common.step(f"Kubernetes {version}", 600):
            (layer / BIN).mkdir(parents=True)
            go.compile(("build",), version, PROGRAMS, f"{layer / BIN}/")
            (layer / "usr/src/pause.c").parent.mkdir()
            source = go.module("k8s.io/kubernetes", version) / "build/pause/linux/pause.c"
            (layer / "usr/src/pause.c").write_bytes(source.read_bytes())
        with common.step(f"CoreDNS {COREDNS}", 200):
            go.install(f"github.com/coredns/coredns@v{COREDNS}", layer / BIN)


@dataclass(frozen=True)
class Go:
    """A Go toolchain, and a folder for the modules and objects of a build."""

    root: Path
    folder: Path

    def run(self, *arguments: str | Path, **environment: str) -> str:
        """Run the go command; raise LabError if it fails, for example if a module is not available."""
        settings = {
            "CGO_ENABLED": "0",
            "GOCACHE": str(self.folder / "objects"),
            "GOFLAGS": "-modcacherw",
            "GOMODCACHE": str(self.folder / "pkg/mod"),
            "GOPATH": str(self.folder),
            "GOROOT": str(self.root),
            "GOTOOLCHAIN": "local",
            "GOWORK": "off",
        }
        try:
            command = ("nice", self.root / "bin/go", "-C", self.folder, *arguments)
            return common.run(command, env={**settings, **environment})
        except common.LabError as error:
            raise common.LabError(
                f"{error}\nKubernetes could not be built; only the targets kube, test-kubernetes and "
                "test-conformance need it. If the Go module proxy is not reachable, set GOPROXY."
            ) from error

    def module(self, path: str, version: str) -> Path:
        """Return the folder of a module."""
        self.run("mod", "download", f"{path}@v{version}")
        return self.folder / f"pkg/mod/{path}@v{version}"

    def compile(self, command: Sequence[str], version: str, packages: Sequence[str], output: str) -> None:
        """Compile packages of a Kubernetes release with ``go build`` or ``go test -c``."""
        upstream = (self.module("k8s.io/kubernetes", version) / "go.mod").read_text()
        staging = re.findall(r"^\s*(k8s\.io/\S+) v0\.0\.0$", upstream, re.MULTILINE)
        lines = [
            "module podnet.test/kubernetes",
            *re.findall(r"^(?:go|godebug) .*$", upstream, re.MULTILINE),
            f"require k8s.io/kubernetes v{version}",
            *(f"replace {path} => {path} v0.{version.partition('.')[2]}" for path in staging),
        ]
        (self.folder / "go.mod").write_text("\n".join(lines) + "\n")
        (self.folder / "go.sum").unlink(missing_ok=True)
        major, minor = version.split(".")[:2]
        values = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
        flags = ["-s", "-w"]
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += (f"-X {package}.{name}={value}" for name, value in values.items())
        options = ("-mod=mod", "-trimpath", "-ldflags", " ".join(flags), "-o", output)
        self.run(*command, *options, *(f"k8s.io/kubernetes/{package}" for package in packages))

    def install(self, package: str, target: Path) -> None:
        """Build a program of a module by the module's own requirements."""
        self.run("install", "-trimpath", "-ldflags", "-s -w", package, GOBIN=str(target))


@contextlib.contextmanager
def toolchain() -> Iterator[Go]:
    """Yield the toolchain; remove it with all modules and objects if the block succeeds.

    They remain after an error or interruption, so that the next run continues there.
    """
    folder = cache.folder() / "go"
    root = folder / "root"
    with common.lock("kubernetes-go"):
        if not root.exists():
            with common.step("Go toolchain", 30), common.built_dir(root) as work:
                debian.make_root(work, SUITE, ("ca-certificates", "golang-go"), variant="minbase")
        # Its programs are static: they run on every Debian.
        (found,) = (root / "usr/lib").glob("go-*")
        yield Go(found, folder)
        common.remove_tree(folder)
