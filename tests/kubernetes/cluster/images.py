# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build container images from static programs, without a registry."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lablib import common

from tests.kubernetes.cluster import cache
from tests.kubernetes.cluster.build import BIN

REGISTRY = "podnet.test"
PAUSE, AGNHOST, COREDNS = (f"{REGISTRY}/{name}:1" for name in ("pause", "agnhost", "coredns"))
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The folder of image archives in a layer; each node imports them.
ARCHIVES = "usr/local/share/images"


@dataclass(frozen=True)
class Image:
    """A container image: its files and links by their path, on a root if there is one."""

    name: str
    entrypoint: str
    files: Mapping[str, Path]
    links: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    root: Path | None = None


def layer(programs: Path, root: Path) -> Path:
    """Return the layer with an archive of the images for the cluster and its tests."""
    recipe = f"{programs.name} {root.name} {Path(__file__).read_text()}"
    return cache.layer("images", recipe, lambda work: _build(programs, root, work))


def _build(programs: Path, root: Path, target: Path) -> None:
    (target / ARCHIVES).mkdir(parents=True)
    pause = target / "pause"
    common.run(["cc", "-Os", "-static", "-s", "-o", pause, programs / "usr/src/pause.c"])
    busybox = root / "usr/bin/busybox"
    applets = common.run([busybox, "--list"]).split()
    links = {f"bin/{applet}": "busybox" for applet in applets if applet != "busybox"}
    agnhost = {"bin/agnhost": programs / BIN / "agnhost", "bin/busybox": busybox}
    images = [
        Image(PAUSE, "/pause", {"pause": pause}),
        Image(COREDNS, "/coredns", {"coredns": programs / BIN / "coredns"}),
        Image(AGNHOST, "/bin/agnhost", agnhost, links, ["pause"]),
    ]
    write_archive(target / ARCHIVES / "cluster.tar", images)
    pause.unlink()


def write_archive(path: Path, images: Sequence[Image]) -> None:
    """Write an archive in the format of ``docker save``."""
    with tarfile.open(path, "w") as archive:
        manifest = []
        for image in images:
            content = _content(image)
            digest = hashlib.sha256(content).hexdigest()
            settings = {"Entrypoint": [image.entrypoint], "Cmd": image.arguments, "Env": [f"PATH={PATH}"]}
            config = {
                "architecture": "amd64",
                "os": "linux",
                "config": settings,
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            }
            text = json.dumps(config).encode()
            names = f"{hashlib.sha256(text).hexdigest()}.json", f"{digest}/layer.tar"
            for name, data in zip(names, (text, content), strict=True):
                _add(archive, name, data)
            manifest.append({"Config": names[0], "RepoTags": [image.name], "Layers": [names[1]]})
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _content(image: Image) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        if image.root:
            archive.add(image.root, "")
        temporary = tarfile.TarInfo("tmp")
        temporary.type, temporary.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(temporary)
        for name, path in image.files.items():
            _add(archive, name, path.read_bytes(), path.stat().st_mode)
        for name, target in image.links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
