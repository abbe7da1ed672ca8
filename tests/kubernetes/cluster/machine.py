# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A machine of the cluster: namespaces on this computer with a Debian root in memory.

The file system with its changes is mounted in a mount namespace of its own, which a process holds, so that it
survives a reboot of the machine.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from lablib import common

from tests.kubernetes.cluster import cgroups
from tests.kubernetes.cluster.host import Host
from tests.kubernetes.cluster.images import PATH

CGROUP2 = "/run/cgroup2"  # where a machine has cgroup v2
SCRIPT = Path(__file__).with_name("machine.sh")


class Machine(Host):
    """Mount, PID, UTS, IPC and network namespaces with a root; they end with the machine's init.

    ``cluster`` is the folder of the cluster and ``group`` its cgroup. ``netns`` is a named network namespace,
    or empty for the one of this process. The cgroup ``disk`` has the process that holds the file system.
    """

    def __init__(self, name: str, cluster: Path, netns: str, group: str) -> None:
        super().__init__(name)
        self.netns, self.group = netns, f"{group}/{name}"
        self.disk = f"{self.group}-disk"
        self._root = cluster / name
        self._pid = cluster / f"{name}.pid"

    @property
    def pid(self) -> int:
        """The ID of the machine's init; raises ``LabError`` unless it runs."""
        try:
            found = int(self._pid.read_text())
        except (OSError, ValueError):
            found = 0
        if found not in cgroups.processes(self.group):
            raise common.LabError(f"the machine {self.name} does not run")
        return found

    def boot(self, layers: Sequence[Path], size: str = "4g") -> None:
        """Create the namespaces and mount the root; ``size`` limits the memory of its changes."""
        if not cgroups.processes(self.disk):
            self._make_disk(size)
        (holder,) = cgroups.processes(self.disk)
        enter = [f"--net=/run/netns/{self.netns}"] if self.netns else []
        command = cgroups.enter(
            self.group,
            *("nsenter", f"--mount=/proc/{holder}/ns/mnt", *enter, "--"),
            *("unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"),
            *("sh", SCRIPT, self.name, self._root, ":".join(map(str, layers))),
        )
        with ExitStack() as stack:
            # The cache does not remove a layer that is locked. The init inherits the locks.
            locks = [os.open(layer, os.O_RDONLY) for layer in layers]
            for lock in locks:
                stack.callback(os.close, lock)
                fcntl.flock(lock, fcntl.LOCK_SH)
            log = stack.enter_context(self._pid.with_suffix(".log").open("w"))
            init = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, pass_fds=locks, start_new_session=True, text=True
            )
            assert init.stdout
            pid = init.stdout.readline().strip()
        if not pid:
            raise common.LabError(f"the machine {self.name} does not start: {common.tail(Path(log.name))}")
        common.write_atomic(self._pid, pid)

    def _make_disk(self, size: str) -> None:
        """Mount the file system in a new mount namespace."""
        self._root.mkdir(parents=True)
        cgroups.create(self.disk)
        script = 'mount -t tmpfs -o "mode=755,size=$1" tmpfs "$2" && echo && exec sleep infinity >&- 2>&-'
        words = ("unshare", "--mount", "sh", "-c", script, "disk", size, self._root)
        holder = subprocess.Popen(
            cgroups.enter(self.disk, *words), stdout=subprocess.PIPE, start_new_session=True
        )
        assert holder.stdout
        if not holder.stdout.readline():
            raise common.LabError(f"the machine {self.name} has no file system: mount(8) failed")

    def halt(self) -> None:
        """Kill all processes at once, as a power failure does; what was written remains until ``boot``."""
        cgroups.remove(self.group)
        # kubelet takes seconds for each group of a container that it does not know.
        cgroups.create(self.group)

    def enter(self, *argv: str | Path) -> list[str]:
        namespaces = ("--mount", "--pid", "--uts", "--ipc", "--net", "--root", "--wd")
        inside = ("--", "env", "-i", f"PATH={PATH}", "HOME=/root", *argv)
        return cgroups.enter(self.group, "nsenter", f"--target={self.pid}", *namespaces, *inside)

    def shell(self) -> list[str]:
        return [*self.enter(), "sh", "-c"]

    def start(self, name: str, *argv: str | Path) -> None:
        background = ("--start", "--background", "--make-pidfile", "--output", f"/var/log/{name}.log")
        self._daemon(name, *background, "--startas", "/usr/bin/env", "--", *argv)

    def stop(self, name: str, signals: str = "TERM/20/KILL/5") -> None:
        """Stop a daemon by a schedule of signals (start-stop-daemon(8)); not running is no error."""
        self._daemon(name, "--stop", "--oknodo", "--remove-pidfile", "--retry", signals)

    def _daemon(self, name: str, *arguments: str | Path) -> None:
        self.run("start-stop-daemon", "--pidfile", f"/run/{name}.pid", *arguments)

    def path(self, path: str) -> Path:
        """Return the path that a file of the machine has outside of it."""
        return Path(f"/proc/{self.pid}/root") / path.lstrip("/")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        common.write_atomic(self.path(path), text, mode)

    def logs(self, lines: int = 15) -> str:
        files = sorted(self.path("/var/log").glob("*.log"))
        return "\n".join(f"{self.name} {file.name}:\n{common.tail(file, lines)}" for file in files)
