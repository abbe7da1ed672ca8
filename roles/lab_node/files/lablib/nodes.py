# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A lab: one or two nodes, their wire, keys and disks, and what can be done with them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lablib import access, common, image, qemu, wire
from lablib.common import LabError, run
from lablib.qmp import Qmp
from lablib.state import Node, State, alive, choose_port, ports_of_labs, process_start

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,19}")
MODEL = re.compile(r"[a-z0-9][a-z0-9-]*")
MAX_NODES = 2  # the wire joins two, back to back
BOOT_TIMEOUT = 900.0
RESTORE_TIMEOUT = 300.0
LOGIN_TIMEOUT = 120.0
PANIC = "Kernel panic"
START_TIMEOUT = 60.0
STOP_TIMEOUT = 5.0
SAVE_BANDWIDTH = 10 << 30  # bytes/s; QEMU's default is meant for networks


class Lab:
    """A lab by its name. Callers of methods that change it hold ``locked()``."""

    def __init__(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise LabError(f"--name {name!r}: use 1 to 20 of a-z, 0-9 and -, no - first")
        self.name = name
        self.folder = common.cache_dir() / "labs" / name
        # The folder's hash keeps labs of the same name in different caches apart.
        self.namespace = f"podnet-{name}-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]}"

    def locked(self) -> contextlib.AbstractContextManager[None]:
        return common.lock(f"lab-{self.name}")

    # -- state ---------------------------------------------------------------------------------------

    def load(self) -> State | None:
        try:
            return State.from_json((self.folder / "state.json").read_text())
        except FileNotFoundError:
            return None

    def need(self) -> State:
        state = self.load()
        if state is None:
            raise LabError(f"there is no lab {self.name!r}; make it: lab.py up --name {self.name}")
        return state

    def _save(self, state: State) -> None:
        common.write_atomic(self.folder / "state.json", json.dumps(dataclasses.asdict(state), indent=1))

    def node_folder(self, node: Node) -> Path:
        return self.folder / node.name

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory.yml"

    def snapshots(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "snapshots").glob("[!.]*"))

    def report(self) -> dict[str, Any]:
        """Return what a caller wants to know of the lab."""
        state = self.load()
        if state is None:
            return {"name": self.name, "state": "absent", "nodes": []}
        nodes = [
            {
                "name": node.name,
                "host": "127.0.0.1",
                "port": node.port,
                "running": alive(node),
                "pid": node.pid,
            }
            for node in state.nodes
        ]
        running = all(node["running"] for node in nodes)
        return {
            "name": self.name,
            "state": "running" if running else "stopped",
            "kernel": state.kernel,
            "accelerator": state.accelerator,
            "accelerator_reason": state.reason,
            "qemu": state.emulator,
            "memory": state.memory,
            "cpus": state.cpus,
            "namespace": self.namespace,
            "folder": str(self.folder),
            "inventory": str(self.inventory),
            "ssh_config": str(self.folder / "ssh_config"),
            "nodes": nodes,
            "snapshots": self.snapshots(),
        }

    # -- up and down ---------------------------------------------------------------------------------

    def up(
        self,
        *,
        kernel: str,
        count: int,
        memory: int,
        cpus: int,
        snapshot: str = "",
        nics: Sequence[str] = (),
        durable: bool = False,
    ) -> bool:
        """Make the lab or start what of it does not run; return whether anything changed.

        ``snapshot``: restored where the lab has it, else taken from the nodes when they have just been made.
        """
        if not 1 <= count <= MAX_NODES:
            raise LabError(f"--nodes {count}: the wire joins one or two nodes")
        if snapshot:
            _check_snapshot_name(snapshot)
        _check_nics(nics)
        state = self.load()
        fresh = state is None
        if state is not None:
            asked = {"kernel": kernel, "nodes": count, "memory": memory, "cpus": cpus, "durable": durable}
            self._refuse_difference(state, **asked, nic=" ".join(nics))
            today = image.newest_image(kernel)
            if today is None or state.image != str(today.folder):
                common.say(f"lab {self.name}: it runs an older image; a new lab takes today's")
            if snapshot in self.snapshots():
                self.restore(snapshot)
                return True
            if all(map(alive, state.nodes)):
                return False
        emulator = qemu.ensure_emulator()
        if state is None:
            state = self._make(emulator, kernel=kernel, count=count, memory=memory, cpus=cpus, nics=nics)
            state.durable = durable
        common.say(f"lab {self.name}: QEMU {emulator.version}, {state.accelerator} ({state.reason})")
        wire.make(self.namespace)
        usual = 45.0 if state.accelerator == "tcg" else 10.0
        with common.step(f"boot of {count} node(s) with kernel {kernel} under {state.accelerator}", usual):
            for node in state.nodes:
                if not alive(node):
                    state.emulator, state.machine = emulator.version, self._machine(emulator, state)
                    self._start(emulator, state, node)
            self._wait_for_ssh(state, BOOT_TIMEOUT)
        if snapshot and fresh:
            self.snapshot(snapshot)
        return True

    def _refuse_difference(self, state: State, **asked: object) -> None:
        has = {
            "kernel": state.kernel,
            "nodes": len(state.nodes),
            "memory": state.memory,
            "cpus": state.cpus,
            "nic": " ".join(state.nics),
            "durable": state.durable,
        }
        for option, value in asked.items():
            if has[option] != value:
                raise LabError(
                    f"--{option} {value or 'none'}: lab {self.name!r} has {has[option] or 'none'}; "
                    f"remove it first (lab.py down --name {self.name}) or take another --name"
                )

    def _make(
        self,
        emulator: qemu.Emulator,
        *,
        kernel: str,
        count: int,
        memory: int,
        cpus: int,
        nics: Sequence[str] = (),
    ) -> State:
        base, _built = image.ensure_image(kernel)
        accelerator = qemu.choose_accelerator(emulator, base)
        if self.folder.exists():
            shutil.rmtree(self.folder)  # left by a run that was cut off before it wrote its state
        self.folder.mkdir(parents=True, mode=0o755)
        state = State(
            kernel, str(base.folder), cpus, memory, accelerator.name, accelerator.reason, emulator.version
        )
        state.nics = list(nics)
        access.make_key(self.folder / "ssh_key")
        login_key = (self.folder / "ssh_key.pub").read_text()
        taken = ports_of_labs(self.folder.parent)
        known = []
        for index in range(1, count + 1):
            node = Node(index, choose_port(f"{self.folder}/{index}", taken), "disk0.qcow2")
            taken.add(node.port)
            state.nodes.append(node)
            folder = self.node_folder(node)
            folder.mkdir(mode=0o700)
            access.write_identity(node, folder, login_key)
            known.append(access.known_hosts_line(node, folder))
            self._make_layer(emulator, folder / node.layer, base.disk, "raw")
        common.write_atomic(self.folder / "known_hosts", "".join(known))
        common.write_atomic(self.folder / "ssh_config", access.ssh_config_text(self.folder, state.nodes))
        common.write_atomic(self.inventory, access.inventory_text(self.folder, state.nodes))
        self._save(state)
        return state

    @staticmethod
    def _make_layer(emulator: qemu.Emulator, layer: Path, backing: Path, form: str) -> None:
        create = ["create", "-q", "-f", "qcow2", "-F", form, "-b", str(backing), str(layer)]
        run([*emulator.img, *create], env=dict(emulator.env))

    def _start(self, emulator: qemu.Emulator, state: State, node: Node, *, incoming: bool = False) -> None:
        folder = self.node_folder(node)
        (folder / "qmp.sock").unlink(missing_ok=True)
        if not incoming:
            # The console of the boot before, which may have ended in a panic.
            with contextlib.suppress(FileNotFoundError):
                (folder / "console.log").replace(folder / "console.old.log")
        tap = wire.open_tap(self.namespace, node.name)
        argv = self._argv(emulator, state, node, tap)
        if incoming:
            argv += qemu.INCOMING
        log = folder / "qemu.log"
        try:
            with log.open("a") as output:
                process = subprocess.Popen(
                    argv,
                    cwd=folder,
                    env={**os.environ, **dict(emulator.env)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[tap],
                    start_new_session=True,
                )
        finally:
            os.close(tap)
        node.pid, node.started = process.pid, process_start(process.pid)
        self._save(state)
        end = time.monotonic() + START_TIMEOUT
        while not (folder / "qmp.sock").exists():
            if process.poll() is not None or time.monotonic() > end:
                raise LabError(f"QEMU of {node.name} does not start; {log} ends:\n{_tail(log)}")
            time.sleep(0.02)

    def _argv(self, emulator: qemu.Emulator, state: State, node: Node, wire_fd: int) -> list[str]:
        return qemu.node_argv(
            emulator,
            state.accelerator,
            title=f"podnet-{self.name}-{node.name}",
            index=node.index,
            cpus=state.cpus,
            memory=state.memory,
            port=node.port,
            layer=node.layer,
            wire_fd=wire_fd,
            nics=state.nics,
            durable=state.durable,
        )

    def _machine(self, emulator: qemu.Emulator, state: State) -> list[str]:
        """Return what must be the same when a state is taken in that was saved before."""
        node = dataclasses.replace(state.nodes[0], layer="")
        return [emulator.version, *self._argv(emulator, state, node, 0)[len(emulator.system) :]]

    def _wait_for_ssh(self, state: State, timeout: float) -> None:
        """Wait until every node takes a login over SSH; the port alone accepts before the guest is up."""
        start = time.monotonic()
        end = start + timeout
        for node in state.nodes:
            # A busy machine's node is slow to answer, and the slower the more logins are waiting.
            while not _banner(node.port, timeout=3 + (time.monotonic() - start) / 10):
                log, console = (self.node_folder(node) / name for name in ("qemu.log", "console.log"))
                if not alive(node):
                    raise LabError(f"QEMU of {node.name} ended; {log} ends:\n{_tail(log)}")
                if PANIC in (end_of_console := _tail(console)):
                    raise LabError(f"the kernel of {node.name} panicked; {console} ends:\n{end_of_console}")
                if time.monotonic() > end:
                    raise LabError(
                        f"{node.name} has no SSH after {timeout:.0f} s; {console} ends:\n{end_of_console}"
                    )
                time.sleep(0.2)
        for node in state.nodes:
            self._set_clock(node)

    def _set_clock(self, node: Node) -> None:
        """Set a node's clock: a restored one shows the time of its snapshot.

        The time is sent once the shell in the node is there: a login takes a second or two.
        """
        script = "echo ready; read -r now; date -s @$now"
        with subprocess.Popen(
            [*self.ssh_argv(node.name), script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            guard = threading.Timer(LOGIN_TIMEOUT, process.kill)
            guard.start()
            try:
                ready = process.stdout.readline()
                _out, errors = process.communicate(f"{time.time():.3f}\n" if ready else None)
            finally:
                guard.cancel()
        if process.returncode:
            reason = errors.strip() or f"no answer within {LOGIN_TIMEOUT:.0f} s"
            raise LabError(f"SSH to {node.name}: {reason}")

    def ssh_argv(self, node: str) -> list[str]:
        return ["ssh", "-F", str(self.folder / "ssh_config"), node]

    def down(self) -> bool:
        """Remove the lab with its processes, wire, disks and snapshots; return whether there was any."""
        state = self.load()
        if state is not None:
            self._stop(state.nodes)
        changed = wire.remove(self.namespace)
        if self.folder.exists():
            shutil.rmtree(self.folder)
            changed = True
        return changed

    def _stop(self, nodes: Sequence[Node]) -> None:
        """End the QEMU processes, at once: their disks are the lab's own."""
        running = [node for node in nodes if alive(node)]
        for node in running:
            os.kill(node.pid, signal.SIGTERM)
        for number in (signal.SIGKILL, 0):
            end = time.monotonic() + STOP_TIMEOUT
            while time.monotonic() < end and any(map(alive, running)):
                time.sleep(0.02)
            for node in filter(alive, running):
                if not number:
                    raise LabError(f"QEMU of {node.name} (process {node.pid}) does not end")
                os.kill(node.pid, number)

    # -- snapshots -----------------------------------------------------------------------------------

    def snapshot(self, name: str) -> bool:
        """Save the nodes' memory and disks, all at the same moment; they run on."""
        _check_snapshot_name(name)
        state = self.need()
        if dead := [node.name for node in state.nodes if not alive(node)]:
            raise LabError(f"{', '.join(dead)} not running; start: lab.py up --name {self.name}")
        saved = {"machine": state.machine, "layers": [node.layer for node in state.nodes]}
        with (
            common.step(f"snapshot of {len(state.nodes)} node(s)", 2),
            common.built_dir(self.folder / "snapshots" / name) as work,
            self._qmps(state) as qmps,
        ):
            # A stopped node's disk layer is frozen with its memory: what is written later goes to a new one.
            for qmp in qmps:
                qmp("stop")
            try:
                for node, qmp in zip(state.nodes, qmps):
                    qmp("migrate-set-parameters", max_bandwidth=SAVE_BANDWIDTH)
                    layer = self._next_layer(node)
                    qmp("blockdev-snapshot-sync", device="disk", snapshot_file=layer, format="qcow2")
                    node.layer = layer
                    self._save(state)
                    qmp("migrate", uri=f"file:{os.path.relpath(work, self.node_folder(node))}/{node.name}")
                for qmp in qmps:
                    qmp.migrated()
            finally:
                for qmp in qmps:
                    qmp("cont")
            common.write_atomic(work / "snapshot.json", json.dumps(saved))
        return True

    def restore(self, name: str) -> bool:
        """Put the nodes back to a snapshot: memory, disks, ports; then set their clocks."""
        _check_snapshot_name(name)
        state = self.need()
        folder = self.folder / "snapshots" / name
        if not folder.exists():
            has = ", ".join(self.snapshots()) or "none"
            raise LabError(f"lab {self.name!r} has no snapshot {name!r} (it has: {has})")
        saved = json.loads((folder / "snapshot.json").read_text())
        emulator = qemu.ensure_emulator()
        machine = self._machine(emulator, state)
        if machine != saved.get("machine"):
            raise LabError(
                f"snapshot {name!r} was taken with another QEMU or other arguments of it; "
                f"make the lab anew: lab.py down --name {self.name}"
            )
        with common.step(f"restore of {len(state.nodes)} node(s)", 4):
            self._stop(state.nodes)
            wire.make(self.namespace)
            for node, frozen in zip(state.nodes, saved["layers"]):
                layer, left = self._next_layer(node), self.node_folder(node) / node.layer
                self._make_layer(
                    emulator, self.node_folder(node) / layer, self.node_folder(node) / frozen, "qcow2"
                )
                node.layer = layer
                state.emulator, state.machine = emulator.version, machine
                self._start(emulator, state, node, incoming=True)
                # The layer that was written to until now belongs to no snapshot.
                left.unlink(missing_ok=True)
            with self._qmps(state) as qmps:
                for node, qmp in zip(state.nodes, qmps):
                    qmp("migrate-incoming", uri=f"file:../snapshots/{name}/{node.name}")
                for qmp in qmps:
                    qmp.migrated()
                for qmp in qmps:
                    qmp("cont")
            self._wait_for_ssh(state, RESTORE_TIMEOUT)
        return True

    @contextlib.contextmanager
    def _qmps(self, state: State) -> Iterator[list[Qmp]]:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(Qmp(self.node_folder(node) / "qmp.sock")) for node in state.nodes]

    def _next_layer(self, node: Node) -> str:
        """Return the name of a disk layer that was never used: snapshots refer to them by name."""
        numbers = [int(path.stem[4:]) for path in self.node_folder(node).glob("disk*.qcow2")]
        return f"disk{max(numbers, default=-1) + 1}.qcow2"


def _check_snapshot_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise LabError(f"snapshot {name!r}: use 1 to 20 of a-z, 0-9 and -, no - first")


def _check_nics(models: Sequence[str]) -> None:
    for model in models:
        if not MODEL.fullmatch(model):
            raise LabError(f"--nic {model!r}: use a model as QEMU names it, such as e1000e")


def _banner(port: int, timeout: float) -> bool:
    """Tell whether an SSH server answers behind a port of 127.0.0.1."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _tail(path: Path, lines: int = 12) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return "(nothing)"
