# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load drivers on a kernel in Secure Boot's lockdown: unsigned.ko, unknown.ko and enrolled.ko.

This is the guest's init; it prints the results on the console and powers the guest off.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import signing
from ansible_collections.podnet.datapath.plugins.module_utils._kmod import delivery, files, loading
from ansible_collections.podnet.datapath.plugins.module_utils._node import facts as _node
from ansible_collections.podnet.datapath.plugins.module_utils._node import readiness
from tests.support import node_checks

MARK = "SECURE_BOOT "
KERNEL = os.uname().release
ENROLLED, UNKNOWN = (str(Path(f"{name}.pem").resolve()) for name in ("enrolled", "unknown"))
CHECKS = node_checks.Checks()


def insmod(name: str) -> str:
    done = subprocess.run(["insmod", name], capture_output=True, text=True, check=False)
    return done.stderr


def deliver(name: str, certificate: str = "") -> str:
    """Install a driver as the role does; return the error, or an empty string."""
    serial = signing.serial(Path(certificate).read_bytes()) if certificate else ""
    desired = delivery.Desired("meta", KERNEL, Path(name).read_bytes(), "idle", serial)
    try:
        delivery.deliver(delivery.Installer("meta"), desired, check_mode=False)
    except loading.ModuleError as error:
        return str(error)
    return ""


def loaded() -> bool:
    return Path("/sys/module/meta").exists()


def delivered_files() -> list[str]:
    """Return the files of a delivery that exist."""
    paths = (files.delivered_file("meta", KERNEL), loading.autoload_file("meta"))
    return [path for path in paths if os.path.exists(path)]


@CHECKS
def secure_boot_enables_lockdown() -> None:
    facts = _node.Node().security("")
    assert facts["secure_boot"] and facts["lockdown"] == "integrity" and facts["signature_required"], facts


@CHECKS
def preflight_reports_enrolled_key() -> None:
    node = _node.Node()
    need = readiness.Requirements((), True, True)
    facts = node.facts()
    for certificate, enrolled in ((ENROLLED, True), (UNKNOWN, False), ("", False)):
        security = node.security(certificate)
        assert security["key_enrolled"] is enrolled, (certificate, security)
        refusals = [
            problem
            for problem in readiness.problems({**facts, "security": security}, "meta", need)
            if "Secure Boot is on, lockdown is integrity" in problem
        ]
        assert bool(refusals) is not enrolled, (certificate, refusals)


@CHECKS
def unsigned_driver_is_refused() -> None:
    assert insmod("unsigned.ko") and not loaded()
    assert "Secure Boot is on" in deliver("unsigned.ko") and not loaded() and not delivered_files()


@CHECKS
def driver_signed_with_unknown_key_is_refused() -> None:
    assert insmod("unknown.ko") and not loaded()
    assert deliver("unknown.ko", UNKNOWN) and not loaded() and not delivered_files()


@CHECKS
def driver_signed_with_enrolled_key_is_loaded() -> None:
    assert not deliver("enrolled.ko", ENROLLED)
    assert loaded() and len(delivered_files()) == 2
    subprocess.run(["ip", "link", "add", "signed0", "type", "meta"], check=True)


def main() -> None:
    for name, function in CHECKS.items():
        node_checks.report(name, node_checks.run(function), mark=MARK)


if __name__ == "__main__":
    try:
        main()
    finally:
        sys.stdout.flush()
        ctypes.CDLL(None).reboot(0x4321FEDC)  # RB_POWER_OFF
