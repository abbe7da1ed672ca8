# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Node images in the cache, named by the hash of their recipe."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from lablib import common, debian, recipe

# Days after its last use until an image that no lab uses is removed.
KEPT_DAYS = 2


@dataclass(frozen=True)
class Image:
    """A built image. ``root`` has the content of the disk as a folder, for builds in a chroot."""

    kernel: str
    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def disk(self) -> Path:
        return self.folder / "disk.raw"


def image_key(kernel: str) -> str:
    """Return the hash of everything that determines an image, except the state of the Debian mirror."""
    sources = [inspect.getsource(module) for module in (recipe, debian)]
    digest = hashlib.sha256(json.dumps([kernel, *sources]).encode())
    for name, content in recipe.overlay_files().items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:12]


def newest_image(kernel: str) -> Image | None:
    """Return the newest image of the current recipe, or None if the cache has none."""
    key = image_key(kernel)
    folders = sorted((common.cache_dir() / "images").glob(f"{kernel}-{key}-*"))
    return Image(kernel, folders[-1]) if folders else None


def ensure_image(kernel: str, *, rebuild: bool = False) -> tuple[Image, bool]:
    """Return the image of a kernel and whether this call built it.

    A rebuilt image has a new folder, because labs use the disk of the previous one as their backing file.
    """
    with common.lock(f"image-{kernel}"):
        image = newest_image(kernel)
        if image and not rebuild:
            os.utime(image.folder)
            return image, False
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        image = Image(kernel, common.cache_dir() / "images" / f"{kernel}-{image_key(kernel)}-{now}")
        with (
            common.step(f"image for kernel {kernel} (packages, disk)", 60),
            common.built_dir(image.folder) as work,
        ):
            recipe.build_root(kernel, work / "root", work / "overlay")
            recipe.build_disk(work / "root", work / "disk.raw")
            shutil.rmtree(work / "overlay")
        _remove_unused(image)
    return image, True


def _remove_unused(newest: Image) -> None:
    """Remove images of the same kernel that no lab uses and no run has requested for KEPT_DAYS."""
    labs = [path.read_text() for path in (common.cache_dir() / "labs").glob("*/state.json")]
    for folder in newest.folder.parent.glob(f"{newest.kernel}-*"):
        old = time.time() - folder.stat().st_mtime > KEPT_DAYS * 86400
        if old and not any(folder.name in lab for lab in labs):
            common.remove_tree(folder)
