# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver under Secure Boot, in a guest whose firmware has a test key enrolled.

Debian's ovmf package has such a firmware, and the private key.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from lablib import image

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import signing
from tests.driver.packages import unpacked
from tests.driver.secure_boot_checks import CHECKS, MARK
from tests.support import guest_tree, node_checks, one_boot
from tests.support.lab_node import assert_passed, run
from tests.support.module_build import make_signing_key
from tests.support.node_checks import Outcome

KERNEL = os.environ.get("PODNET_KERNEL", "6.1")
TIMEOUT = 900.0  # seconds for an emulated guest; with KVM a tenth of it suffices
FIRMWARE_SUITE = "bookworm"
FIRMWARE_PACKAGES = ("ovmf", "mokutil")
PASSPHRASE = "snakeoil"  # of the key in Debian's package


@pytest.fixture(scope="module")
def firmware() -> Path:
    """Return a root with Debian's packages of the firmware and mokutil."""
    return unpacked("firmware with Secure Boot", FIRMWARE_SUITE, FIRMWARE_PACKAGES)


@pytest.fixture(scope="module")
def outcomes(module: Path, firmware: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Boot the guest, which runs all checks; return their outcomes."""
    work = tmp_path_factory.mktemp("secure-boot")
    guest = work / "guest"
    guest_tree.write(guest, "tests/driver", files=[firmware / "usr/bin/mokutil"])

    enrolled = str(work / "enrolled.key")
    locked = str(firmware / "usr/share/ovmf/PkKek-1-snakeoil.key")
    run("openssl", "pkey", "-in", locked, "-passin", f"pass:{PASSPHRASE}", "-out", enrolled)
    shutil.copy(firmware / "usr/share/ovmf/PkKek-1-snakeoil.pem", guest / "enrolled.pem")
    unknown = str(work / "unknown.key")
    make_signing_key(unknown, str(guest / "unknown.pem"), "unknown")
    shutil.copy(module, guest / "unsigned.ko")
    for name, key in (("enrolled", enrolled), ("unknown", unknown)):
        signed = signing.sign(module.read_bytes(), key, str(guest / f"{name}.pem"))
        (guest / f"{name}.ko").write_bytes(signed)

    variables = work / "variables.fd"
    shutil.copy(firmware / "usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd", variables)
    code = firmware / "usr/share/OVMF/OVMF_CODE_4M.fd"
    base, dummy = image.ensure_image(KERNEL)
    command = (
        "mount -t efivarfs none /sys/firmware/efi/efivars; mount -t securityfs none /sys/kernel/security; "
        "cp mokutil /usr/bin; exec python3 -m tests.driver.secure_boot_checks"
    )
    machine = [
        *("-machine", "q35", "-smp", "2"),
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
    ]
    disk = one_boot.make_disk(guest, work / "disk.tar")
    console = one_boot.boot(base, disk, command, machine, TIMEOUT)
    found = node_checks.parse(console, MARK)
    assert found.keys() == CHECKS.keys(), console[-5000:]
    return found


@pytest.mark.parametrize("check", CHECKS)
def test_under_secure_boot(outcomes: dict[str, Outcome], check: str) -> None:
    """Pass a check of secure_boot_checks.py."""
    assert_passed(outcomes[check])
