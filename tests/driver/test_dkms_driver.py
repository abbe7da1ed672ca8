# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""dkms_driver, kernel_module_build and kernel_module with the real DKMS and compiler of a node's image.

Each test has a fresh overlay of the image. Modules are not loaded, because this machine runs another kernel;
tests on nodes do that.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lablib import debian

from ansible_collections.podnet.datapath.plugins.module_utils._kmod import dkms, dkms_plan
from tests.support.checkout import DRIVER
from tests.support.lab_node import lab, run
from tests.support.module_build import make_signing_key

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
    """Return the files of a small module; ``value`` is inserted in its source."""
    text = SOURCE.format(value=value, tag=tag.replace("VERSION)", f'"{version}")'))
    return {"Kbuild": "obj-m := trivial.o\n", "dkms.conf": CONF.format(version=version), "trivial.c": text}


@dataclass
class Image:
    """A node's root file system, and its kernel that has headers."""

    root: Path
    kernel: str
    interpreter: Path

    def enter(self, *command: str) -> str:
        return run(str(self.interpreter.with_name("enter")), *command)

    def module(self, *options: str, plugin: str = "dkms_driver", **arguments: Any) -> dict[str, Any]:
        """Run a module in the image and return its result."""
        values = {"name": "trivial", "kernel": self.kernel, **arguments}
        done = subprocess.run(
            [
                *("ansible", "localhost", "-m", f"podnet.datapath.{plugin}"),
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
        """Return DKMS' status, the source and the module's digest, which a failure must not change."""
        status = self.enter("dkms", "status", "-m", "trivial").splitlines()
        installed = sorted((self.root / "lib/modules" / self.kernel).glob("updates/dkms/trivial.ko*"))
        digest = run("sha256sum", *map(str, installed)) if installed else ""
        return status, dkms.read_tree(str(self.root / "usr/src/trivial-1.0")), digest

    def leftovers(self) -> list[str]:
        return [path.name for path in (self.root / "usr/src").glob(".podnet*")]


def overlay(folder: Path, lower: list[Path]) -> Iterator[Path]:
    """Mount a writable overlay of the folders in ``lower``, uppermost first; yield its root."""
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    options = f"lowerdir={':'.join(map(str, lower))},upperdir={folder}/upper,workdir={folder}/work"
    run("mount", "-t", "overlay", "-o", options, "overlay", str(folder / "root"))
    try:
        yield folder / "root"
    finally:
        run("umount", str(folder / "root"))


def image_at(root: Path, folder: Path, kernel: str) -> Image:
    """Write an interpreter that runs a module in the image with private mounts; return the image."""
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
    """Return the overlay layer of an installation of version 1.0."""
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
    """Yield the image with version 1.0 of the module."""
    for root in overlay(tmp_path, [installed, pristine]):
        yield image_at(root, tmp_path, kernel)


def test_second_run_changes_nothing(image: Image) -> None:
    before = image.state()
    result = image.module(version="1.0", files=source())
    assert not result["changed"] and result["changes"] == [] and not result["built"]
    assert image.state() == before


def test_changed_source_of_same_version_is_rebuilt(image: Image) -> None:
    before = image.module(version="1.0", files=source())["srcversion"]
    result = image.module("--diff", version="1.0", files=source(value="7"))
    assert result.get("changes") == ["deploy: the source differs: trivial.c"], result
    assert result["srcversion"] not in ("", before)
    assert "+++ after: /usr/src/trivial-1.0/trivial.c" in result["shown"]
    assert "-static int value = 0; +static int value = 7;" in result["shown"]
    assert not image.module(version="1.0", files=source(value="7"))["changed"]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_failed_build_changes_nothing(image: Image, version: str) -> None:
    before = image.state()
    result = image.module(version=version, files=source(version, value="undeclared"))
    assert result["failed"] and "undeclared" in result["msg"] and "nothing was changed" in result["msg"]
    assert len(result["msg"].splitlines()) <= 21
    assert image.state() == before and not image.leftovers()


@pytest.mark.parametrize("version", ["2.0", "0.9"])
def test_another_version_replaces_the_installed_one(image: Image, version: str) -> None:
    result = image.module(version=version, files=source(version))
    assert [change.split(":")[0] for change in result["changes"]] == ["deploy", "retire"]
    status, former, dummy = image.state()
    assert len(status) == 1 and version in status[0] and former is None
    assert image.enter("modinfo", "-k", image.kernel, "-F", "version", "trivial").strip() == version


def test_missing_headers_are_reported_with_their_package(image: Image) -> None:
    headers = image.root / "lib/modules" / image.kernel / "build"
    headers.rename(headers.with_name("away"))
    before = image.state()
    result = image.module(version="2.0", files=source("2.0"))
    assert result["failed"] and f"apt-get install linux-headers-{image.kernel}" in result["msg"]
    assert image.state() == before
    # A dry run still reports the steps, because the headers may be installed before the run.
    planned = image.module("--check", version="2.0", files=source("2.0"))
    assert planned["changed"] and f"linux-headers-{image.kernel}" in planned["shown"]
    # A run that builds nothing does not need headers.
    assert not image.module(version="1.0", files=source())["changed"]


def test_failure_after_the_build_is_rolled_back(image: Image) -> None:
    modules = image.root / "lib/modules" / image.kernel
    # Outside of the kernel's modules, where DKMS does not look for modules to replace.
    foreign = image.root / "opt/foreign"
    foreign.mkdir(parents=True)
    run("cp", *map(str, modules.glob("updates/dkms/trivial.ko*")), str(foreign))
    (image.root / "etc/depmod.d").mkdir(exist_ok=True)
    search = "external * /opt/foreign\nsearch external updates built-in\n"
    (image.root / "etc/depmod.d/foreign.conf").write_text(search)
    image.enter("depmod", "-a", image.kernel)
    before = image.state()
    for version in ("1.0", "2.0"):
        result = image.module(version=version, files=source(version, value="7"))
        assert result["failed"] and "/foreign/trivial.ko" in result["msg"]
        assert image.state() == before and not image.leftovers()


def test_module_without_version_is_refused(image: Image) -> None:
    before = image.state()
    result = image.module(version="1.0", files=source(tag=""))
    assert result["failed"] and "MODULE_VERSION" in result["msg"]
    assert image.state() == before


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_missing_source_is_deployed_again(image: Image, version: str) -> None:
    run("rm", "-r", str(image.root / "usr/src/trivial-1.0"))
    assert image.module(version=version, files=source(version))["changed"]
    status, dummy, dummy = image.state()
    assert len(status) == 1 and version in status[0] and status[0].endswith(": installed")


def test_modified_module_is_installed_again(image: Image) -> None:
    before = image.state()
    for path in (image.root / "lib/modules" / image.kernel / "updates/dkms").iterdir():
        path.write_bytes(path.read_bytes() + b"x")
    result = image.module(version="1.0", files=source())
    assert [change.split(":")[0] for change in result["changes"]] == ["install"] and not result["built"]
    assert image.state() == before


def test_absent_removes_everything(image: Image) -> None:
    assert image.module("--check", state="absent")["changed"]
    assert image.state()[0]
    assert image.module(state="absent")["changed"]
    assert image.state() == ([], None, "")
    assert not (image.root / "etc/modules-load.d/podnet-trivial.conf").exists()
    assert not image.module(state="absent")["changed"]


@pytest.fixture
def key(image: Image) -> tuple[str, str, str]:
    """Return the paths of a key and its certificate in the image, and the certificate's serial number."""
    folder = image.root / "etc/keys"
    folder.mkdir()
    make_signing_key(f"{folder}/key", f"{folder}/certificate", "signed", serial=0x4CFE)
    return "/etc/keys/key", "/etc/keys/certificate", "4C:FE"


def test_dkms_signs_with_the_given_key(image: Image, key: tuple[str, str, str]) -> None:
    before = image.state()
    wanted: dict[str, Any] = {"version": "1.0", "files": source(), "signing_key": key[0]}
    result = image.module(**wanted, signing_certificate="/etc/keys/none")
    assert result["failed"] and "signing_certificate: /etc/keys/none" in result["msg"]
    assert image.state() == before
    result = image.module(**wanted, signing_certificate=key[1])
    assert [change.split(":")[0] for change in result["changes"]] == ["sign", "deploy"], result
    assert image.enter("modinfo", "-k", image.kernel, "-F", "sig_key", "trivial").strip() == key[2]
    assert not image.module(**wanted, signing_certificate=key[1])["changed"]
    assert image.module(state="absent")["changed"]
    assert not (image.root / "etc/dkms/framework.conf.d/podnet.conf").exists()


def test_key_that_does_not_match_certificate_changes_nothing(image: Image, key: tuple[str, str, str]) -> None:
    run("openssl", "genrsa", "-out", f"{image.root}{key[0]}", "2048")
    before = image.state()
    result = image.module(version="1.0", files=source(), signing_key=key[0], signing_certificate=key[1])
    assert result["failed"] and "signing_key" in result["msg"], result
    assert image.state() == before
    assert not (image.root / "etc/dkms/framework.conf.d/podnet.conf").exists()


# kernel_module_build needs a Makefile, which source() does not return.
MAKEFILE = "modules:\n\t$(MAKE) -C $(KDIR) M=$(CURDIR) modules\n"


def test_module_is_built_once_and_installed_without_a_compiler(
    image: Image, key: tuple[str, str, str], tmp_path: Path
) -> None:
    keys = [f"{image.root}{path}" for path in key[:2]]
    kept = tmp_path / "kept"
    build: dict[str, Any] = {
        "plugin": "kernel_module_build",
        "files": {**source(value="3"), "Makefile": MAKEFILE},
        "dest": str(kept),
        "signing_key": keys[0],
        "signing_certificate": keys[1],
    }
    assert image.module("--check", **build)["path"] == "" and not kept.exists()
    before = image.state()
    built = image.module(**build)
    assert built.get("changed") and Path(built["path"]).parent == kept, built
    assert image.state() == before
    again = image.module(**build)
    assert not again["changed"] and again["path"] == built["path"]

    # Remove compiler, headers and sign-file from the node.
    for path in ("usr/bin/gcc", "usr/bin/make", f"lib/modules/{image.kernel}/build"):
        (image.root / path).rename(image.root / f"{path}.away")
    install: dict[str, Any] = {"plugin": "kernel_module", "src": str(kept), "certificate": keys[1]}
    planned = image.module("--check", **install)
    assert image.state() == before
    result = image.module("--diff", **install)
    assert result.get("changes") == planned["changes"], result
    assert [change.split(":")[0] for change in result["changes"]] == ["install", "retire"]
    assert result["signer"] == "signed" and "-DKMS: 1.0" in result["shown"]
    place = image.root / f"lib/modules/{image.kernel}/updates/podnet/trivial.ko"
    assert place.read_bytes() == Path(built["path"]).read_bytes()
    found = image.enter("modinfo", "-k", image.kernel, "-F", "filename", "trivial").strip()
    assert found == f"/lib/modules/{image.kernel}/updates/podnet/trivial.ko"
    assert image.state()[:2] == ([], None)
    assert not image.module(**install)["changed"]

    place.write_bytes(b"damaged")
    assert image.module(**install)["changes"] == [f"install: {found} differs"]
    assert image.module(state="absent")["changed"] and not place.exists()


def test_dkms_replaces_a_delivered_module(image: Image, tmp_path: Path) -> None:
    files = {**source(), "Makefile": MAKEFILE}
    assert image.module(plugin="kernel_module_build", files=files, dest=str(tmp_path / "kept"))["changed"]
    assert image.module(plugin="kernel_module", src=str(tmp_path / "kept"))["changed"]
    result = image.module(version="1.0", files=source())
    assert [change.split(":")[0] for change in result["changes"]] == ["deploy", "retire"], result
    found = image.enter("modinfo", "-k", image.kernel, "-F", "filename", "trivial")
    assert "/updates/dkms/" in found
    assert not image.module(version="1.0", files=source())["changed"]


def test_module_for_another_node_is_refused(image: Image, key: tuple[str, str, str], tmp_path: Path) -> None:
    files = {**source(), "Makefile": MAKEFILE}
    kept = str(tmp_path / "kept")
    path = Path(image.module(plugin="kernel_module_build", files=files, dest=kept)["path"])
    before = image.state()
    for arguments, words in (
        ({"kernel": "6.0.0-0-amd64"}, "another kernel"),
        ({"name": "other"}, "the file is the module trivial"),
        ({"certificate": f"{image.root}{key[1]}"}, "signed for certificate (none)"),
        ({"src": str(tmp_path / "none")}, "has no module"),
    ):
        result = image.module(**{"plugin": "kernel_module", "src": kept, **arguments})
        assert result["failed"] and words in result["msg"], result
        assert image.state() == before
    path.write_bytes(path.read_bytes() + b"x")
    result = image.module(plugin="kernel_module", src=kept)
    assert result["failed"] and "damaged" in result["msg"]
    assert image.state() == before


def test_failed_build_for_delivery_keeps_nothing(image: Image, tmp_path: Path) -> None:
    files = {**source(value="undeclared"), "Makefile": MAKEFILE}
    result = image.module(plugin="kernel_module_build", files=files, dest=str(tmp_path / "kept"))
    assert result["failed"] and "undeclared" in result["msg"] and not (tmp_path / "kept").exists()


def driver_files() -> dict[str, str]:
    names = run("git", "-C", str(DRIVER), "ls-files", ".").split()
    return {name: (DRIVER / name).read_text() for name in names}


def test_driver_of_this_collection_is_built(image: Image) -> None:
    files = driver_files()
    version = dkms_plan.conf_value(files["dkms.conf"], "PACKAGE_VERSION")
    result = image.module(name="meta", version=version, files=files)
    assert result["changed"] and result["srcversion"], result
    assert image.enter("modinfo", "-k", image.kernel, "-F", "version", "meta").strip() == version
    assert not image.module(name="meta", version=version, files=files)["changed"]


@pytest.mark.parametrize("flavour", ["cloud", "rt"])
def test_driver_is_built_for_kernel_flavour(image: Image, flavour: str, tmp_path: Path) -> None:
    """Debian's kernel flavours have their own headers, whose installation triggers DKMS."""
    settings = debian.apt_settings(run("apt-config", "dump"))
    (image.root / "etc/apt/apt.conf.d/99machine").write_text("\n".join(settings) + "\n")
    (image.root / "etc/resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
    for hook in ("initramfs-tools", "zz-update-grub"):  # They need a bootable machine.
        (image.root / "etc/kernel/postinst.d" / hook).unlink(missing_ok=True)
    release = re.sub(r"-amd64$", f"-{flavour}-amd64", image.kernel)
    image.enter("apt-get", "-q", "update")
    image.enter("apt-get", "-q", "install", "--yes", "--no-install-recommends", f"linux-headers-{release}")
    assert f"trivial/1.0, {release}, x86_64: installed" in image.enter("dkms", "status")
    result = image.module(
        plugin="kernel_module_build",
        name="meta",
        kernel=release,
        files=driver_files(),
        dest=str(tmp_path / "kept"),
    )
    assert result.get("path"), result
    assert run("modinfo", "-F", "vermagic", result["path"]).startswith(f"{release} ")
