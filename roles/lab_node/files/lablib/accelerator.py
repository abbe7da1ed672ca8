# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The choice between KVM and TCG, by a trial boot."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from lablib import common
from lablib.image import Image
from lablib.qemu import Emulator

# Seconds for a kernel to start its init under KVM; it takes about 1 s if KVM works.
KVM_TIMEOUT = 12.0
# The kernel logs this before it starts the initramfs' init.
INIT_MESSAGE = b"Run /init as init process"


@dataclass(frozen=True)
class Accelerator:
    """The accelerator, ``kvm`` or ``tcg``, and the reason for the choice."""

    name: str
    reason: str


def choose_accelerator(emulator: Emulator, image: Image) -> Accelerator:
    """Return KVM if the image's kernel boots under it, otherwise TCG.

    The result is cached until the host reboots.
    """
    if not Path("/dev/kvm").exists():
        return Accelerator("tcg", "there is no /dev/kvm")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    key = hashlib.sha256(json.dumps([boot, emulator.system, emulator.version]).encode()).hexdigest()[:16]
    cached = common.cache_dir() / f"kvm/{key}.json"
    with common.lock("kvm"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Accelerator(**json.loads(cached.read_text()))
        with common.step("trial boot under KVM", 2):
            error = _try_kvm(emulator, image)
        chosen = Accelerator("tcg", error) if error else Accelerator("kvm", "a trial boot reached its init")
        common.write_atomic(cached, json.dumps(vars(chosen)))
    return chosen


def _try_kvm(emulator: Emulator, image: Image) -> str:
    """Boot the image's kernel under KVM; return the reason for a failure, or an empty string.

    Opening /dev/kvm is not a sufficient test: under a paravirtualized KVM, every stock kernel may hang.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "console.log"
        argv = [
            *emulator.system,
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-machine", "q35,accel=kvm", "-cpu", "host", "-smp", "2", "-m", "512"),
            *("-kernel", str(image.root / "vmlinuz"), "-initrd", str(image.root / "initrd.img")),
            *("-append", "console=ttyS0,115200 panic=-1"),
            *("-chardev", f"file,id=console,path={log.name}", "-serial", "chardev:console"),
        ]
        with (Path(folder) / "errors").open("w+") as errors:
            process = subprocess.Popen(
                argv,
                cwd=folder,
                env={**os.environ, **dict(emulator.env)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            try:
                end = time.monotonic() + KVM_TIMEOUT
                while time.monotonic() < end:
                    if log.exists() and INIT_MESSAGE in log.read_bytes():
                        return ""
                    if process.poll() is not None:
                        errors.seek(0)
                        lines = errors.read().strip().splitlines() or [f"exit {process.returncode}"]
                        return "QEMU under KVM: " + lines[-1].removeprefix("qemu-system-x86_64: ")
                    time.sleep(0.1)
                return f"a kernel under KVM did not reach its init within {KVM_TIMEOUT:.0f} s"
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
