# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual machine of a node: QEMU's arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lablib.qemu import Emulator
from lablib.state import Node, State

# The disabled features slow an emulated CPU down: the guest would use them at each context switch or copy.
TCG_CPU = (
    "max,la57=off,pku=off,smap=off,smep=off,umip=off,"
    "avx=off,avx2=off,f16c=off,fma=off,vaes=off,vpclmulqdq=off"
)
# QEMU's OUI, 52:54:00, is locally administered; the last byte is the node's index.
MGMT_MAC = "52:54:00:31:01:{:02x}"
WIRE_MAC = "52:54:00:31:02:{:02x}"
ADDITIONAL_MAC = "52:54:00:31:{:02x}:{:02x}"  # the NIC's number, then the node's index
# Makes a machine wait for a migration stream (-incoming defer) with stopped CPUs (-S).
INCOMING = ("-S", "-incoming", "defer")


def node_argv(emulator: Emulator, lab: str, state: State, node: Node, wire_fd: int) -> list[str]:
    """Return QEMU's command line for a node of the lab named ``lab``.

    ``wire_fd`` is the open tap. All paths are relative to the node's folder. The machine can load a snapshot
    if the same arguments are followed by INCOMING.
    """
    machine = "q35"
    processor: Sequence[str] = ("-accel", "tcg,thread=multi", "-cpu", TCG_CPU)
    if state.accelerator == "kvm":
        machine, processor = "q35,accel=kvm", ("-cpu", "host")
    return [
        *emulator.system,
        *("-name", f"podnet-{lab}-{node.name}", "-nodefaults", "-no-user-config", "-display", "none"),
        *("-machine", machine, *processor, "-smp", str(state.cpus), "-m", str(state.memory)),
        *("-drive", f"if=none,id=disk,{_disk_options(node.layer, state.durable)},discard=unmap"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-netdev", f"user,id=mgmt,ipv6=off,hostfwd=tcp:127.0.0.1:{node.port}-:22"),
        *("-device", f"virtio-net-pci,netdev=mgmt,romfile=,mac={MGMT_MAC.format(node.index)}"),
        *("-netdev", f"tap,id=wire,fd={wire_fd}"),
        *("-device", f"virtio-net-pci,netdev=wire,romfile=,mac={WIRE_MAC.format(node.index)}"),
        *(
            word
            for number, model in enumerate(state.nics, 3)
            for word in (
                *("-netdev", f"hubport,id=more{number},hubid=1", "-device"),
                f"{model},netdev=more{number},romfile=,mac={ADDITIONAL_MAC.format(number, node.index)}",
            )
        ),
        *("-device", "virtio-rng-pci"),
        *_second_disk(state.disk),
        *("-chardev", "file,id=console,path=console.log,append=on", "-serial", "chardev:console"),
        *("-fw_cfg", "name=opt/podnet.datapath/identity,file=identity.tar"),
        *("-qmp", "unix:qmp.sock,server=on,wait=off"),
    ]


def fingerprint(emulator: Emulator, lab: str, state: State) -> list[str]:
    """Return QEMU's version and arguments, which must be equal when a snapshot is saved and restored."""
    node = dataclasses.replace(state.nodes[0], layer="")
    return [emulator.version, *node_argv(emulator, lab, state, node, 0)[len(emulator.system) :]]


def _second_disk(path: str) -> list[str]:
    if not path:
        return []
    drive = f"if=none,id=second,file={path},format=raw,readonly=on"
    return ["-drive", drive, "-device", "virtio-blk-pci,drive=second"]


def _disk_options(layer: str, durable: bool) -> str:
    """Return the -drive options of a layer.

    Without ``durable``, QEMU ignores the guest's flushes: the disk is deleted with the lab anyway. With it,
    flushed data is in the host's page cache and survives the end of QEMU.
    """
    if durable:
        options = "file.driver=file,file.cache.no-flush=on,format=qcow2,cache=writeback"
        return f"file.filename={layer},{options}"
    return f"file={layer},format=qcow2,cache=unsafe"
