# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""dkms_driver with the real DKMS, compiler and headers of a node's image, below a chroot.

Every test has the image as it was, through an overlay. Nothing is loaded here, as this machine runs another
kernel; that is tested on nodes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from driver_lab import DRIVER, lab, run

from ansible_collections.podnet.datapath.plugins.module_utils import _dkms

CONF = """PACKAGE_NAME="trivial"
PACKAGE_VERSION="{version}"
BUILT_MODULE_NAME[0]="trivial"
DEST_MODULE_LOCATION[0]="/updates/dkms"
MAKE[0]="make -C ${{kernel_source_dir}} M=${{dkms_tree}}/${{PACKAGE_NAME}}/${{PACKAGE_VERSION}}/build modules"
CLEAN="true"
AUTOINSTALL="yes"
"""
SOURCE = """// SPDX-License-Identifier: GPL-2.0-only
#include <linux/module.h>
static int value = {value};
module_param(value, int, 0444);
static int __init trivial_init(void) {{ return 0; }}
static void __exit trivial_exit(void) {{ }}
module_init(trivial_init);
module_exit(trivial_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Nothing");
{tag}
"""


def source(version: str = "1.0", value: str = "0", tag: str = "MODULE_VERSION(VERSION);") -> dict[str, str]:
    """A small module; ``value`` goes into its source."""
    text = SOURCE.format(value=value, tag=tag.replace("VERSION)", f'"{version}")'))
    return {"Kbuild": "obj-m := trivial.o\n", "dkms.conf": CONF.format(version=version), "trivial.c": text}


@dataclass
class Image:
    """A node's file system, and the kernel in it that has headers."""

    root: Path
    kernel: str
    interpreter: Path

    def enter(self, *command: str) -> str:
        return run(str(self.interpreter.with_name("enter")), *command)

    def module(self, *options: str, **arguments: Any) -> dict[str, Any]:
        """Run dkms_driver in the image and return its result."""
        values = {"name": "trivial", "kernel": self.kernel, **arguments}
        done = subprocess.run(
            [
                *("ansible", "localhost", "-m", "podnet.datapath.dkms_driver"),
                *("-e", f"ansible_python_interpreter={self.interpreter}"),
                *("-a", json.dumps(values), *options),
            ],
            env={**os.environ, "ANSIBLE_PIPELINING": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        outcome, found, rest = done.stdout.partition(" => ")
        assert found, done.stdout + done.stderr
        result: dict[str, Any] = json.JSONDecoder().raw_decode(rest)[0]
        shown = " ".join((done.stdout + done.stderr).split())
        return {**result, "failed": "FAILED" in outcome, "shown": shown}

    def state(self) -> tuple[list[str], dict[str, str] | None, str]:
        """What DKMS has, the source, and the installed module: all that a failure must leave as it is."""
        status = self.enter("dkms", "status", "-m", "trivial").splitlines()
        installed = sorted((self.root / "lib/modules" / self.kernel).glob("updates/dkms/trivial.ko*"))
        digest = run("sha256sum", *map(str, installed)) if installed else ""
        return status, _dkms.read_tree(str(self.root / "usr/src/trivial-1.0")), digest

    def leftovers(self) -> list[str]:
        return [path.name for path in (self.root / "usr/src").glob(".podnet*")]


def overlay(folder: Path, lower: list[Path]) -> Iterator[Path]:
    """Mount a writable view of the folders in ``lower``, the uppermost first."""
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    options = f"lowerdir={':'.join(map(str, lower))},upperdir={folder}/upper,workdir={folder}/work"
    run("mount", "-t", "overlay", "-o", options, "overlay", str(folder / "root"))
    try:
        yield folder / "root"
    finally:
        run("umount", str(folder / "root"))


def image_at(root: Path, folder: Path, kernel: str) -> Image:
    """Make the interpreter that runs a module inside the image, with its own mounts."""
    enter = (
        f"mount -t proc proc {root}/proc; mount --rbind /sys {root}/sys; mount --bind /dev {root}/dev; "
        f'mount -t tmpfs run {root}/run; exec chroot {root} "$@"'
    )
    for name, command in (("enter", '"$@"'), ("python", '/usr/bin/python3 "$@"')):
        script = folder / name
        script.write_text(
            f"#!/bin/sh\nexec unshare --mount --propagation private sh -ec '{enter}' sh {command}\n"
        )
        script.chmod(0o755)
    return Image(root, kernel, folder / "python")


@pytest.fixture(scope="session")
def pristine() -> Path:
    return Path(lab("root", "--kernel", os.environ.get("PODNET_KERNEL", "6.1")).strip())


@pytest.fixture(scope="session")
def kernel(pristine: Path) -> str:
    built = sorted(pristine.glob("usr/src/linux-headers-*/Module.symvers"))
    return built[0].parent.name.removeprefix("linux-headers-")


@pytest.fixture(scope="session")
def installed(pristine: Path, kernel: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installation of version 1.0 adds to the image, as a layer."""
    folder = tmp_path_factory.mktemp("installed")
    mounted = overlay(folder, [pristine])
    image = image_at(next(mounted), folder, kernel)
    before = image.state()
    planned = image.module("--check", version="1.0", files=source())
    assert planned["changed"] and image.state() == before == ([], None, "")

    result = image.module(version="1.0", files=source())
    assert result["changes"] == planned["changes"] and result["built"] and result["srcversion"]
    status, files, digest = image.state()
    assert len(status) == 1 and status[0].endswith(": installed") and kernel in status[0]
    assert files == source() and digest and not image.leftovers()
    assert (image.root / "etc/modules-load.d/podnet-trivial.conf").read_text().endswith("\ntrivial\n")
    mounted.close()  # type: ignore[attr-defined]
    return folder / "upper"


@pytest.fixture
def image(pristine: Path, installed: Path, kernel: str, tmp_path: Path) -> Iterator[Image]:
    """The image with version 1.0 of the module."""
    for root in overlay(tmp_path, [installed, pristine]):
        yield image_at(root, tmp_path, kernel)


def test_a_second_run_changes_nothing(image: Image) -> None:
    before = image.state()
    result = image.module(version="1.0", files=source())
    assert not result["changed"] and result["changes"] == [] and not result["built"]
    assert image.state() == before


def test_another_source_of_the_same_version_is_built(image: Image) -> None:
    before = image.module(version="1.0", files=source())["srcversion"]
    result = image.module("--diff", version="1.0", files=source(value="7"))
    assert result.get("changes") == ["deploy: the source differs: trivial.c"], result
    assert result["srcversion"] not in ("", before)
    assert "+++ after: /usr/src/trivial-1.0/trivial.c" in result["shown"]
    assert "-static int value = 0; +static int value = 7;" in result["shown"]
    assert not image.module(version="1.0", files=source(value="7"))["changed"]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_build_that_fails_changes_nothing(image: Image, version: str) -> None:
    before = image.state()
    result = image.module(version=version, files=source(version, value="undeclared"))
    assert result["failed"] and "undeclared" in result["msg"] and "nothing was changed" in result["msg"]
    assert len(result["msg"].splitlines()) <= 21
    assert image.state() == before and not image.leftovers()


@pytest.mark.parametrize("version", ["2.0", "0.9"])
def test_another_version_takes_the_place(image: Image, version: str) -> None:
    result = image.module(version=version, files=source(version))
    assert [change.split(":")[0] for change in result["changes"]] == ["deploy", "retire"]
    status, former, dummy = image.state()
    assert len(status) == 1 and version in status[0] and former is None
    assert image.enter("modinfo", "-k", image.kernel, "-F", "version", "trivial").strip() == version


def test_missing_headers_are_named_with_their_package(image: Image) -> None:
    headers = image.root / "lib/modules" / image.kernel / "build"
    headers.rename(headers.with_name("away"))
    before = image.state()
    result = image.module(version="2.0", files=source("2.0"))
    assert result["failed"] and f"apt-get install linux-headers-{image.kernel}" in result["msg"]
    assert image.state() == before
    # A dry run still tells the steps: what is missing may be installed before the real one.
    planned = image.module("--check", version="2.0", files=source("2.0"))
    assert planned["changed"] and f"linux-headers-{image.kernel}" in planned["shown"]
    # Nothing has to be built.
    assert not image.module(version="1.0", files=source())["changed"]


def test_what_fails_after_the_build_is_undone(image: Image) -> None:
    modules = image.root / "lib/modules" / image.kernel
    (modules / "foreign").mkdir()
    run("cp", *map(str, modules.glob("updates/dkms/trivial.ko*")), str(modules / "foreign"))
    (image.root / "etc/depmod.d").mkdir(exist_ok=True)
    (image.root / "etc/depmod.d/foreign.conf").write_text("override trivial * foreign\n")
    image.enter("depmod", "-a", image.kernel)
    before = image.state()
    for version in ("1.0", "2.0"):
        result = image.module(version=version, files=source(version, value="7"))
        assert result["failed"] and "/foreign/trivial.ko" in result["msg"]
        assert image.state() == before and not image.leftovers()


def test_a_module_that_cannot_be_told_from_another_is_refused(image: Image) -> None:
    before = image.state()
    result = image.module(version="1.0", files=source(tag=""))
    assert result["failed"] and "MODULE_VERSION" in result["msg"]
    assert image.state() == before


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_source_that_dkms_lost_is_no_obstacle(image: Image, version: str) -> None:
    run("rm", "-r", str(image.root / "usr/src/trivial-1.0"))
    assert image.module(version=version, files=source(version))["changed"]
    status, dummy, dummy = image.state()
    assert len(status) == 1 and version in status[0] and status[0].endswith(": installed")


def test_a_module_that_was_tampered_with_is_put_back(image: Image) -> None:
    before = image.state()
    for path in (image.root / "lib/modules" / image.kernel / "updates/dkms").iterdir():
        path.write_bytes(path.read_bytes() + b"x")
    result = image.module(version="1.0", files=source())
    assert [change.split(":")[0] for change in result["changes"]] == ["install"] and not result["built"]
    assert image.state() == before


def test_absent_leaves_nothing(image: Image) -> None:
    assert image.module("--check", state="absent")["changed"]
    assert image.state()[0]
    assert image.module(state="absent")["changed"]
    assert image.state() == ([], None, "")
    assert not (image.root / "etc/modules-load.d/podnet-trivial.conf").exists()
    assert not image.module(state="absent")["changed"]


def test_the_driver_of_this_collection_is_built(image: Image) -> None:
    names = run("git", "-C", str(DRIVER), "ls-files", ".").split()
    files = {name: (DRIVER / name).read_text() for name in names}
    version = _dkms.conf_value(files["dkms.conf"], "PACKAGE_VERSION")
    result = image.module(name="meta", version=version, files=files)
    assert result["changed"] and result["srcversion"], result
    assert image.enter("modinfo", "-k", image.kernel, "-F", "version", "meta").strip() == version
    assert not image.module(name="meta", version=version, files=files)["changed"]
