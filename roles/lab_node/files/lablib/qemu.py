# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The emulator: which one, with which accelerator, and with which arguments."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lablib import common, debian
from lablib.common import run
from lablib.image import Image

# QEMU 7.2 (Debian 12) corrupts the flags around cmpxchg16b when it emulates: kernels from 6.12 on crash.
OLDEST_QEMU = 8
QEMU_SUITE = "trixie"
QEMU_PACKAGES = ("qemu-system-x86", "qemu-utils")
LIBRARIES = "usr/lib/x86_64-linux-gnu"

# Seconds for a kernel to reach its init under KVM; it takes about 1 s where KVM works.
KVM_TRIAL = 12.0
# The kernel's line before it starts the initramfs' init.
KVM_SIGN = b"Run /init as init process"

# An emulated processor is quicker without what the guest would use at every switch or copy.
TCG_CPU = (
    "max,la57=off,pku=off,smap=off,smep=off,umip=off,"
    "avx=off,avx2=off,f16c=off,fma=off,vaes=off,vpclmulqdq=off"
)
# Locally administered look, QEMU's prefix; the last number is the node's.
MGMT_MAC = "52:54:00:31:01:{:02x}"
WIRE_MAC = "52:54:00:31:02:{:02x}"
MORE_MAC = "52:54:00:31:{:02x}:{:02x}"  # the NIC's number, then the node's
# What makes a machine wait for a saved state, and for the word to go on.
INCOMING = ("-S", "-incoming", "defer")


@dataclass(frozen=True)
class Emulator:
    """How to call QEMU: command prefixes and the environment they need."""

    system: tuple[str, ...]
    img: tuple[str, ...]
    version: str
    env: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Accelerator:
    """What runs the guest's processor, and why."""

    name: str
    reason: str


def major(version_text: str) -> int:
    """Return the major version from ``qemu-system-x86_64 --version``, 0 where there is none."""
    found = re.search(r"version (\d+)\.", version_text)
    return int(found[1]) if found else 0


def _version(text: str) -> str:
    found = re.search(r"version (\S+)", text)
    return found[1] if found else "unknown"


def ensure_emulator() -> Emulator:
    """Return the machine's QEMU where it is new enough, else a private one from the cache."""
    system, img = shutil.which("qemu-system-x86_64"), shutil.which("qemu-img")
    if system and img:
        text = run([system, "--version"])
        if major(text) >= OLDEST_QEMU:
            return Emulator((system,), (img,), _version(text))
    recipe = json.dumps([QEMU_SUITE, QEMU_PACKAGES, Path(debian.__file__).read_text()])
    root = common.cache_dir() / f"qemu/{QEMU_SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with common.lock("qemu"):
        if not root.exists():
            with (
                common.step("private QEMU (the system's is missing or old)", 40),
                common.built_dir(root) as work,
            ):
                debian.make_root(work, QEMU_SUITE, QEMU_PACKAGES, variant="extract")
    return _private_emulator(root)


def _private_emulator(root: Path) -> Emulator:
    """Return a QEMU that runs from a root of another Debian release, by that root's own loader."""
    loader = [f"{root}/{LIBRARIES}/ld-linux-x86-64.so.2", "--library-path", f"{root}/{LIBRARIES}"]
    env = (("QEMU_MODULE_DIR", f"{root}/{LIBRARIES}/qemu"),)
    system = (*loader, f"{root}/usr/bin/qemu-system-x86_64")
    text = run([*system, "--version"], env=dict(env))
    data = ("-L", f"{root}/usr/share/qemu", "-L", f"{root}/usr/share/seabios")
    return Emulator((*system, *data), (*loader, f"{root}/usr/bin/qemu-img"), _version(text), env)


def choose_accelerator(emulator: Emulator, image: Image) -> Accelerator:
    """Return KVM where a kernel really boots under it, else TCG; the verdict holds until the next boot."""
    if not Path("/dev/kvm").exists():
        return Accelerator("tcg", "there is no /dev/kvm")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    asked = hashlib.sha256(json.dumps([boot, emulator.system, emulator.version]).encode()).hexdigest()[:16]
    verdict = common.cache_dir() / f"kvm/{asked}.json"
    with common.lock("kvm"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            return Accelerator(**json.loads(verdict.read_text()))
        with common.step("trial boot under KVM", 2):
            error = _kvm_trial(emulator, image)
        chosen = Accelerator("tcg", error) if error else Accelerator("kvm", "a trial boot reached its init")
        common.write_atomic(verdict, json.dumps(vars(chosen)))
    return chosen


def _kvm_trial(emulator: Emulator, image: Image) -> str:
    """Boot the image's kernel under KVM; return why that failed, or an empty text.

    A /dev/kvm that opens proves nothing: a paravirtual one may hang every stock kernel.
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
                end = time.monotonic() + KVM_TRIAL
                while time.monotonic() < end:
                    if log.exists() and KVM_SIGN in log.read_bytes():
                        return ""
                    if process.poll() is not None:
                        errors.seek(0)
                        lines = errors.read().strip().splitlines() or [f"exit {process.returncode}"]
                        return "QEMU under KVM: " + lines[-1].removeprefix("qemu-system-x86_64: ")
                    time.sleep(0.1)
                return f"a kernel under KVM did not reach its init within {KVM_TRIAL:.0f} s"
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()


def _cached(layer: str, durable: bool) -> str:
    if durable:
        options = "file.driver=file,file.cache.no-flush=on,format=qcow2,cache=writeback"
        return f"file.filename={layer},{options}"
    return f"file={layer},format=qcow2,cache=unsafe"


def node_argv(
    emulator: Emulator,
    accelerator: str,
    *,
    title: str,
    index: int,
    cpus: int,
    memory: int,
    port: int,
    layer: str,
    wire_fd: int,
    nics: Sequence[str] = (),
    durable: bool = False,
) -> list[str]:
    """Return a node's command line; every path in it is relative to the node's folder.

    ``memory`` is in MiB, ``port`` the one on 127.0.0.1 that leads to the node's SSH, ``layer`` its disk,
    ``nics`` are the models of those that a hub joins with each other alone. ``durable``: what the node has
    flushed is in the layer, not in QEMU's memory.
    The same arguments and INCOMING make a machine that takes a saved state in.
    """
    machine = "q35,accel=kvm" if accelerator == "kvm" else "q35"
    processor: Sequence[str] = ("-cpu", "host")
    if accelerator == "tcg":
        processor = ("-accel", "tcg,thread=multi", "-cpu", TCG_CPU)
    return [
        *emulator.system,
        *("-name", title, "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", machine, *processor, "-smp", str(cpus), "-m", str(memory)),
        # The disk is thrown away with the lab: nothing needs to reach the machine's own.
        *("-drive", f"if=none,id=disk,{_cached(layer, durable)},discard=unmap"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", f"user,id=mgmt,ipv6=off,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", f"virtio-net-pci,netdev=mgmt,romfile=,mac={MGMT_MAC.format(index)}"),
        *("-netdev", f"tap,id=wire,fd={wire_fd}"),
        *("-device", f"virtio-net-pci,netdev=wire,romfile=,mac={WIRE_MAC.format(index)}"),
        *(
            word
            for number, model in enumerate(nics, 3)
            for word in (
                *("-netdev", f"hubport,id=more{number},hubid=1", "-device"),
                f"{model},netdev=more{number},romfile=,mac={MORE_MAC.format(number, index)}",
            )
        ),
        *("-device", "virtio-rng-pci"),
        *("-chardev", "file,id=console,path=console.log,append=on", "-serial", "chardev:console"),
        *("-fw_cfg", "name=opt/podnet.datapath/identity,file=identity.tar"),
        *("-qmp", "unix:qmp.sock,server=on,wait=off"),
    ]
