# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver: its build against a kernel's headers, and its checks on a node with that kernel."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.driver import driver_checks
from tests.support.checkout import DRIVER
from tests.support.lab_node import assert_passed
from tests.support.module_build import Build
from tests.support.node_checks import Outcome


@pytest.mark.parametrize("check", [*driver_checks.CHECKS, driver_checks.REMOVAL])
def test_on_node(results: dict[str, Outcome], check: str) -> None:
    """Pass a check of driver_checks.py."""
    assert_passed(results[check])


def test_modinfo_has_licence_alias_version_and_srcversion(module: Path) -> None:
    """srcversion is compared with that of the loaded module."""
    extract = ["objcopy", "-O", "binary", "--only-section=.modinfo", str(module), "/dev/stdout"]
    section = subprocess.run(extract, capture_output=True, check=True).stdout.decode()
    facts = dict(entry.split("=", 1) for entry in section.split("\0") if entry)
    assert facts["license"] == "GPL"
    assert facts["alias"] == "rtnl-link-meta"
    assert re.fullmatch(r"[0-9A-F]{23}", facts["srcversion"])
    version = re.search(r'META_VERSION\s+"(.+)"', (DRIVER / "meta.h").read_text())
    packaged = re.search(r'PACKAGE_VERSION="(.+)"', (DRIVER / "dkms.conf").read_text())
    assert version and packaged and facts["version"] == version[1] == packaged[1]


def _refusal(build: Build, kdir: str = "", replace: tuple[Path, Path] | None = None) -> str:
    """Assert that the build fails with one message of the driver; return it."""
    done = build.make(kdir=kdir, replace=replace)
    assert done.returncode, "the build was not refused"
    messages = [line for line in done.stderr.splitlines() if line.startswith("meta: ")]
    assert len(messages) == 1, done.stderr
    assert not (build.path / "meta_config.h").exists()
    return messages[0]


def _refusal_of_changed(build: Build, link: str, file: str, known: str, unknown: str) -> str:
    """Return the message of a build with a changed file of the kernel's headers, found by ``link``."""
    modules = f"/usr/lib/modules/{build.node.release}"
    target = os.readlink(f"{build.node.root}{modules}/{link}")  # within the image, absolute or relative
    folder = os.path.normpath(os.path.join(modules, target))
    original = Path(f"{build.node.root}{folder}", file)
    text = original.read_text()
    assert known in text, f"{original} has no {known}"
    changed = build.path / "changed"
    changed.write_text(text.replace(known, unknown))
    return _refusal(build, replace=(original, changed))


def test_build_without_headers_names_the_package(build: Build) -> None:
    message = _refusal(build, kdir="/lib/modules/0.0.0/build")
    assert "no kernel headers in /lib/modules/0.0.0/build" in message
    assert "linux-headers-" in message


@pytest.mark.parametrize(
    ("header", "known", "unknown", "name"),
    [
        ("net/rtnetlink.h", "(*newlink)(", "(*newlink)(int unheard_of, ", "rtnl_link_ops.newlink"),
        ("linux/netdevice.h", "pcpu_stat_type:8", "somewhere_else:8", "net_device.pcpu_stat_type"),
        ("linux/skbuff.h", "bool xnet", "int xnet", "skb_scrub_packet"),
    ],
)
def test_unknown_declaration_is_reported(
    build: Build, header: str, known: str, unknown: str, name: str
) -> None:
    message = _refusal_of_changed(build, "source", f"include/{header}", known, unknown)
    assert message == f"meta: unsupported kernel API: {name} is missing or has a different declaration"


def test_unexported_symbol_is_reported(build: Build) -> None:
    message = _refusal_of_changed(build, "build", "Module.symvers", "\t__netif_rx\t", "\t__netif_ry\t")
    assert message == "meta: unsupported kernel API: __netif_rx is not exported to modules"


def test_configuration_is_renewed_for_another_kernel(build: Build) -> None:
    """A configuration of other headers is replaced; one of the same headers is kept, with the module."""
    config = build.path / "meta_config.h"
    config.write_text("#error of another kernel\n")
    done = build.make()
    assert done.returncode == 0, done.stdout + done.stderr
    built = (build.path / "meta.ko").stat().st_mtime_ns, config.stat().st_mtime_ns
    done = build.make()
    assert done.returncode == 0, done.stdout + done.stderr
    assert ((build.path / "meta.ko").stat().st_mtime_ns, config.stat().st_mtime_ns) == built
    done = build.make("clean")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in build.path.iterdir()} == {path.name for path in DRIVER.iterdir()}
