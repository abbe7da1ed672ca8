# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lifecycle of a lab: create, start, report, remove."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from lablib import (
    accelerator,
    access,
    common,
    disks,
    image,
    login,
    machine,
    ports,
    process,
    qemu,
    snapshots,
    wire,
)
from lablib.common import LabError
from lablib.files import LabFiles
from lablib.spec import LabSpec
from lablib.state import Node, State

BOOT_TIMEOUT = 450.0  # seconds; on a busy computer, emulated nodes take two minutes


class Lab:
    """A lab. Callers of ``up``, ``down``, ``snapshot`` and ``restore`` hold ``locked()``."""

    def __init__(self, name: str) -> None:
        self.files = LabFiles(name)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Return the context manager that holds the lab's lock."""
        return common.lock(f"lab-{self.files.name}")

    def report(self) -> dict[str, Any]:
        """Return the lab's configuration, state and paths for output as JSON."""
        files, state = self.files, self.files.load_state()
        if state is None:
            return {"name": files.name, "state": "absent", "nodes": []}
        nodes = [
            {
                "name": node.name,
                "host": "127.0.0.1",
                "port": node.port,
                "running": process.is_running(node),
                "pid": node.pid,
            }
            for node in state.nodes
        ]
        return {
            "name": files.name,
            "state": "running" if all(node["running"] for node in nodes) else "stopped",
            "kernel": state.kernel,
            "accelerator": state.accelerator,
            "accelerator_reason": state.reason,
            "qemu": state.emulator,
            "memory": state.memory,
            "cpus": state.cpus,
            "disk": state.disk,
            "namespace": files.namespace,
            "folder": str(files.folder),
            "inventory": str(files.inventory),
            "ssh_config": str(files.ssh_config),
            "nodes": nodes,
            "snapshots": files.snapshot_names(),
        }

    def require_exists(self) -> None:
        """Raise LabError if the lab does not exist."""
        self.files.require_state()

    def ssh_argv(self, node: str) -> list[str]:
        """Return the ssh command that logs in to a node; raise LabError if the lab has no such node."""
        names = [known.name for known in self.files.require_state().nodes]
        if node not in names:
            raise LabError(f"lab {self.files.name!r} has no node {node!r} (available: {', '.join(names)})")
        return login.ssh_argv(self.files, node)

    def up(self, spec: LabSpec, snapshot: str = "") -> bool:
        """Create the lab, or start its stopped nodes; return whether anything changed.

        ``snapshot``: restore it if it exists; otherwise save it if this call creates the lab.
        """
        spec.validate()
        if snapshot:
            snapshots.require_valid_snapshot_name(snapshot)
        state = self.files.load_state()
        created = state is None
        if state is not None:
            spec.require_match(self.files.name, state)
            newest = image.newest_image(spec.kernel)
            if newest is None or state.image != str(newest.folder):
                common.say(
                    f"lab {self.files.name} uses an older image; remove the lab to use the current one"
                )
            if snapshot in self.files.snapshot_names():
                return self.restore(snapshot)
            if all(map(process.is_running, state.nodes)):
                return False
        emulator = qemu.ensure_emulator()
        if state is None:
            state = self._create(emulator, spec)
        common.say(f"lab {self.files.name}: QEMU {emulator.version}, {state.accelerator} ({state.reason})")
        self._boot(emulator, state)
        if snapshot and created:
            self.snapshot(snapshot)
        return True

    def down(self) -> bool:
        """Remove the lab's processes, namespace, disks and snapshots; return whether there were any."""
        state = self.files.load_state()
        if state is not None:
            process.stop(state.nodes)
        changed = wire.remove(self.files.namespace)
        if self.files.folder.exists():
            shutil.rmtree(self.files.folder)
            changed = True
        return changed

    def snapshot(self, name: str) -> bool:
        """Save a snapshot of all nodes; return True."""
        snapshots.save(self.files, name)
        return True

    def restore(self, name: str) -> bool:
        """Restore all nodes to a snapshot; return True."""
        snapshots.restore(self.files, name)
        return True

    def _create(self, emulator: qemu.Emulator, spec: LabSpec) -> State:
        """Create the files of the lab and its nodes; return the new state."""
        files = self.files
        base, _built = image.ensure_image(spec.kernel)
        chosen = accelerator.choose_accelerator(emulator, base)
        if files.folder.exists():
            shutil.rmtree(files.folder)  # an interrupted run left it before it wrote state.json
        files.folder.mkdir(parents=True, mode=0o755)
        state = State(
            kernel=spec.kernel,
            image=str(base.folder),
            cpus=spec.cpus,
            memory=spec.memory,
            accelerator=chosen.name,
            reason=chosen.reason,
            emulator=emulator.version,
            nics=list(spec.nics),
            durable=spec.durable,
            disk=spec.disk,
        )
        access.create_key(files.folder / "ssh_key")
        reserved = ports.reserved_ports(files.folder.parent)
        for index in range(1, spec.nodes + 1):
            node = Node(index, ports.choose_port(f"{files.folder}/{index}", reserved), "disk0.qcow2")
            reserved.add(node.port)
            state.nodes.append(node)
            self._create_node(emulator, node, base.disk)
        access.write_access_files(files, state.nodes)
        files.save_state(state)
        return state

    def _create_node(self, emulator: qemu.Emulator, node: Node, disk: Path) -> None:
        """Create a node's folder with its identity and its first layer on top of ``disk``."""
        folder = self.files.node_folder(node)
        folder.mkdir(mode=0o700)
        access.write_identity(node, folder, (self.files.folder / "ssh_key.pub").read_text())
        disks.create_layer(emulator, folder / node.layer, disk, "raw")

    def _boot(self, emulator: qemu.Emulator, state: State) -> None:
        """Start all stopped nodes and wait until every node accepts logins.

        One that does not boot is started once more: rarely, an assertion of TCG fails while a guest maps
        devices, or the timer of a guest stops.
        """
        wire.create(self.files.namespace)
        usual = 45.0 if state.accelerator == "tcg" else 10.0
        title = f"boot of {len(state.nodes)} node(s) with kernel {state.kernel} under {state.accelerator}"
        with common.step(title, usual):
            self._start(emulator, state)
            try:
                login.wait_for_logins(self.files, state.nodes, BOOT_TIMEOUT)
            except login.BootFailed as error:
                common.say(f"{error}\nstarting it again")
                process.stop([node for node in state.nodes if not login.has_ssh_server(node, timeout=10)])
                process.wait_for_end(state.nodes)
                self._start(emulator, state)
                login.wait_for_logins(self.files, state.nodes, BOOT_TIMEOUT)

    def _start(self, emulator: qemu.Emulator, state: State) -> None:
        """Start the QEMU of all stopped nodes."""
        for node in state.nodes:
            if not process.is_running(node):
                state.emulator = emulator.version
                state.machine = machine.fingerprint(emulator, self.files.name, state)
                process.start(self.files, emulator, state, node)
