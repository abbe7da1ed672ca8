# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots of a lab: memory, devices and disks of all nodes, saved at the same moment.

A snapshot is one QEMU migration stream per node, plus snapshot.json with the disk layers that it freezes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

from lablib import common, disks, machine, process, qemu, wire
from lablib.common import LabError
from lablib.files import LabFiles, require_valid_name
from lablib.login import wait_for_logins
from lablib.qmp import Qmp
from lablib.state import State

RESTORE_TIMEOUT = 300.0  # seconds
SAVE_BANDWIDTH = 10 << 30  # bytes/s; QEMU's default suits a network


def require_valid_snapshot_name(name: str) -> None:
    """Raise LabError unless ``name`` is valid."""
    require_valid_name("snapshot", name)


def save(files: LabFiles, name: str) -> None:
    """Save a snapshot of all nodes; they continue to run. Raise LabError if one does not run."""
    require_valid_snapshot_name(name)
    state = files.require_state()
    if stopped := [node.name for node in state.nodes if not process.is_running(node)]:
        raise LabError(f"{', '.join(stopped)} not running; start the lab: lab.py up --name {files.name}")
    saved = {"machine": state.machine, "layers": [node.layer for node in state.nodes]}
    with (
        common.step(f"snapshot of {len(state.nodes)} node(s)", 2),
        common.built_dir(files.snapshots / name) as work,
        _connect(files, state) as connections,
    ):
        for qmp in connections:
            qmp("stop")
        try:
            for node, qmp in zip(state.nodes, connections):
                folder = files.node_folder(node)
                qmp("migrate-set-parameters", max_bandwidth=SAVE_BANDWIDTH)
                # While the CPUs are stopped, a new layer freezes the current one in step with the memory.
                layer = disks.next_layer(folder)
                qmp("blockdev-snapshot-sync", device="disk", snapshot_file=layer, format="qcow2")
                node.layer = layer
                files.save_state(state)
                qmp("migrate", uri=f"file:{os.path.relpath(work, folder)}/{node.name}")
            for qmp in connections:
                qmp.wait_for_migration()
        finally:
            for qmp in connections:
                qmp("cont")
        common.write_atomic(work / "snapshot.json", json.dumps(saved))


def restore(files: LabFiles, name: str) -> None:
    """Restore all nodes to a snapshot, on the same ports, and set their clocks.

    Raise LabError if the snapshot does not exist or needs another machine than this QEMU provides.
    """
    require_valid_snapshot_name(name)
    state = files.require_state()
    if name not in files.snapshot_names():
        available = ", ".join(files.snapshot_names()) or "none"
        raise LabError(f"lab {files.name!r} has no snapshot {name!r} (available: {available})")
    saved = json.loads((files.snapshots / name / "snapshot.json").read_text())
    emulator = qemu.ensure_emulator()
    fingerprint = machine.fingerprint(emulator, files.name, state)
    if fingerprint != saved.get("machine"):
        raise LabError(
            f"snapshot {name!r} was saved with another version or other arguments of QEMU; "
            f"remove the lab and create it again: lab.py down --name {files.name}"
        )
    with common.step(f"restore of {len(state.nodes)} node(s)", 4):
        process.stop(state.nodes)
        wire.create(files.namespace)
        state.emulator, state.machine = emulator.version, fingerprint
        for node, frozen in zip(state.nodes, saved["layers"]):
            folder = files.node_folder(node)
            abandoned = folder / node.layer
            node.layer = disks.next_layer(folder)
            disks.create_layer(emulator, folder / node.layer, folder / frozen, "qcow2")
            process.start(files, emulator, state, node, incoming=True)
            # The node wrote to this layer until now; no snapshot refers to it.
            abandoned.unlink(missing_ok=True)
        with _connect(files, state) as connections:
            for node, qmp in zip(state.nodes, connections):
                qmp("migrate-incoming", uri=f"file:../snapshots/{name}/{node.name}")
            for qmp in connections:
                qmp.wait_for_migration()
            for qmp in connections:
                qmp("cont")
        wait_for_logins(files, state.nodes, RESTORE_TIMEOUT)


@contextlib.contextmanager
def _connect(files: LabFiles, state: State) -> Iterator[list[Qmp]]:
    """Yield a QMP connection to each node."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Qmp(files.node_folder(node) / "qmp.sock")) for node in state.nodes]
