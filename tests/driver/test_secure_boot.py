# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver under Secure Boot: a guest with firmware that has a key of ours enrolled.

Debian's ovmf package has such a firmware for tests, with the private part of the key.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import one_boot
import pytest
from driver_lab import HERE, run
from lablib import common, debian, image

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import signing

CHECKS = re.findall(r"^@check\ndef (\w+)", (HERE / "secure_boot_checks.py").read_text(), re.MULTILINE)
MARK = "SECURE_BOOT "
KERNEL = os.environ.get("PODNET_KERNEL", "6.1")
UTILS = "plugins/module_utils"
# Emulated; a node with KVM is there in a tenth of that.
SECONDS = 900.0
FIRMWARE_SUITE = "bookworm"
FIRMWARE_PACKAGES = ("ovmf",)
FIRMWARE_PACKAGES = ("ovmf",)
# mokutil, and of its libraries those that an image lacks.
TOOLS = ("usr/bin/mokutil", "usr/lib/*/libefivar.so.1", "usr/lib/*/libkeyutils.so.1")
FIRMWARE_PACKAGES = ("ovmf", "mokutil")
PASSPHRASE = "snakeoil"  # of the key in Debian's package


@pytest.fixture(scope="module")
def firmware() -> Path:
    """The root of Debian's packages with the firmware and mokutil."""
    recipe = json.dumps([FIRMWARE_SUITE, FIRMWARE_PACKAGES])
    folder = common.cache_dir() / f"firmware/{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with common.lock("firmware"):
        if not folder.exists():
            with common.step("firmware with Secure Boot", 20), common.built_dir(folder) as work:
                debian.make_root(work, FIRMWARE_SUITE, FIRMWARE_PACKAGES, variant="extract")
    return folder


def strangers_key(folder: Path) -> tuple[str, str]:
    key, certificate = str(folder / "stranger.key"), str(folder / "stranger.pem")
    new = ("openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    run(*new, "-subj", "/CN=stranger", "-keyout", key, "-out", certificate)
    return key, certificate


@pytest.fixture(scope="module")
def outcomes(module: Path, firmware: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What went wrong in the guest by check, "" where nothing did."""
    work = tmp_path_factory.mktemp("secure-boot")
    guest = work / "guest"
    utils = guest / "ansible_collections/podnet/datapath" / UTILS
    shutil.copytree(HERE.parents[1] / UTILS, utils, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "secure_boot_checks.py", guest)
    shutil.copy(firmware / "usr/bin/mokutil", guest)

    enrolled = str(work / "enrolled.key")
    locked = str(firmware / "usr/share/ovmf/PkKek-1-snakeoil.key")
    run("openssl", "pkey", "-in", locked, "-passin", f"pass:{PASSPHRASE}", "-out", enrolled)
    shutil.copy(firmware / "usr/share/ovmf/PkKek-1-snakeoil.pem", guest / "enrolled.pem")
    stranger, certificate = strangers_key(work)
    shutil.copy(certificate, guest)
    shutil.copy(module, guest / "unsigned.ko")
    for name, key in (("enrolled", enrolled), ("stranger", stranger)):
        signed = signing.sign(module.read_bytes(), key, str(guest / f"{name}.pem"))
        (guest / f"{name}.ko").write_bytes(signed)

    variables = work / "variables.fd"
    shutil.copy(firmware / "usr/share/OVMF/OVMF_VARS_4M.snakeoil.fd", variables)
    code = firmware / "usr/share/OVMF/OVMF_CODE_4M.fd"
    base, dummy = image.ensure_image(KERNEL)
    command = (
        "mount -t efivarfs none /sys/firmware/efi/efivars; mount -t securityfs none /sys/kernel/security; "
        "cp mokutil /usr/bin; PYTHONPATH=/run exec python3 secure_boot_checks.py"
    )
    machine = [
        *("-machine", "q35", "-smp", "2"),
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
    ]
    disk = one_boot.make_disk(guest, work / "disk.tar")
    console = one_boot.boot(base, disk, command, machine, SECONDS)
    found = [json.loads(line.partition(MARK)[2]) for line in console.splitlines() if MARK in line]
    assert len(found) == len(CHECKS), console[-5000:]
    return {one["check"]: one["failure"] for one in found}


@pytest.mark.parametrize("check", CHECKS)
def test_under_secure_boot(outcomes: dict[str, str], check: str) -> None:
    """One of secure_boot_checks.py, which says what it is about."""
    assert not outcomes[check], f"\n{outcomes[check]}"
