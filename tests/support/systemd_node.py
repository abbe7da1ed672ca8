# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node on this machine that systemd boots in its own namespaces, from an overlay of this machine's root.

It starts in a second and can be rebooted, with this machine's kernel. Nothing that it changes reaches the
machine: files are in an overlay, /dev, /run and /sys/fs/bpf are its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.checkout import CHECKOUT

SYSTEMD = "/lib/systemd/systemd"
# Settings of this machine that the node must not have.
ABSENT = "/etc/cni /opt/cni /var/lib/cni /etc/podnet /usr/local/lib/podnet /var/lib/podnet-datapath"
# They would act on devices and sysctls of this machine, or delete files in /tmp.
MASKED = "tmpfiles-setup tmpfiles-setup-dev tmpfiles-clean udevd sysctl modules-load random-seed"
# The upper directory survives a reboot; $1 is a directory on a tmpfs.
BOOT = f"""
set -e
mount --make-rprivate /
mkdir -p $1/upper $1/work $1/root
mount -t overlay overlay -o lowerdir=/,upperdir=$1/upper,workdir=$1/work $1/root
cd $1/root
[ -e $1/booted ] || {{
    rm -rf etc/systemd/system/*.wants; (cd /; for path in {ABSENT}; do rm -rf $1/root$path; done)
    for name in {MASKED}; do ln -sf /dev/null etc/systemd/system/systemd-$name.service; done
    ln -sf /dev/null etc/systemd/system/tmp.mount
    touch $1/booted
}}
mount -t proc proc proc
mount -t sysfs sysfs sys
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs tmpfs sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
fi
for path in run dev tmp; do mount -t tmpfs tmpfs $path; done
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/shm dev/pts
mount -t devpts devpts dev/pts
shift
for path in "$@"; do mkdir -p ./$path; mount --bind $path ./$path; done
mkdir -p oldroot
pivot_root . oldroot
umount -l /oldroot
mount -t bpf bpf /sys/fs/bpf
mount --make-rshared /
ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
export -n $(compgen -e)
export container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec {SYSTEMD} --system --unit=multi-user.target --log-target=null
"""
MODULE = "import sys; sys.argv = ['module']; from {module} import main; main()"


class SystemdNode:
    """The node; ``folder`` has its files, and is visible in it under the same path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        disk = folder / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", disk], check=True)
        (folder / "shared").mkdir()
        self._disk = disk
        self._process: subprocess.Popen[bytes] | None = None
        self.pid = 0

    def boot(self) -> None:
        """Start systemd and wait until it has started all units."""
        trees = [path for path in os.environ["PYTHONPATH"].split(":") if path.startswith("/")]
        shared = {str(CHECKOUT), sys.prefix, str(self.folder / "shared"), *trees}
        words = ["unshare", "--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup", "--fork"]
        words += ["bash", "-c", BOOT, "boot", str(self._disk), *sorted(shared)]
        with (self.folder / "console").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, ValueError, subprocess.CalledProcessError):
                self.pid = int(children.read_text())
                state = self.run("systemctl", "is-system-running", "--wait", check=False).strip()
                if state in ("running", "degraded"):
                    return
            time.sleep(0.1)
        raise AssertionError(f"systemd did not start: {(self.folder / 'console').read_text()}")

    def stop(self) -> None:
        """End all processes of the node at once, as by a power failure."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def reboot(self) -> None:
        """Boot again from the same files, with an empty /run and without devices and programs."""
        self.stop()
        self.boot()

    def delete(self) -> None:
        """Remove the node."""
        self.stop()
        subprocess.run(["umount", "-l", self._disk], check=False)

    def enter(self, *words: str) -> list[str]:
        """Return the command that runs a program in the node."""
        return ["nsenter", "--target", str(self.pid), "--all", *words]

    def run(self, *words: str, check: bool = True, given: str | None = None) -> str:
        """Run a program in the node and return its output."""
        done = subprocess.run(self.enter(*words), input=given, capture_output=True, text=True, check=False)
        assert not check or not done.returncode, f"{shlex.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def module(
        self, name: str, args: dict[str, Any], check: bool = False, fails: bool = False
    ) -> dict[str, Any]:
        """Run a module of this collection and return its result."""
        code = MODULE.format(module=f"ansible_collections.podnet.datapath.plugins.modules.{name}")
        request = {"ANSIBLE_MODULE_ARGS": {**args, "_ansible_check_mode": check, "_ansible_diff": True}}
        done = subprocess.run(
            self.enter(sys.executable, "-c", code),
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            result: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise AssertionError(f"{name} printed no JSON: {done.stdout}{done.stderr}") from None
        assert bool(result.get("failed")) == fails, result.get("msg", result)
        return result

    def variables(self) -> dict[str, Any]:
        """Return the inventory variables of this node."""
        python = self.folder / "python3"
        python.write_text(f'#!/bin/sh\nexec {shlex.join(self.enter(sys.executable))} "$@"\n')
        python.chmod(0o755)
        return {
            "ansible_connection": "local",
            "ansible_pipelining": True,
            "ansible_become": False,
            "ansible_python_interpreter": str(python),
        }

    def files(self, *folders: str) -> list[str]:
        """Return all files and links in folders of the node."""
        return sorted(self.run("find", *folders, "!", "-type", "d", check=False).splitlines())


@contextlib.contextmanager
def systemd_node(folder: Path) -> Iterator[SystemdNode]:
    """Boot a node and remove it after the block."""
    node = SystemdNode(folder)
    try:
        node.boot()
        yield node
    finally:
        node.delete()


def play(folder: Path, hosts: dict[str, dict[str, Any]], roles: Sequence[str], *arguments: str) -> str:
    """Run roles on hosts; return the output of ansible-playbook."""
    names = [f"podnet.datapath.{role}" for role in roles]
    path = folder / "play.json"
    path.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": names}]))
    return run_playbook(folder, hosts, str(path), *arguments)


def run_playbook(
    folder: Path, hosts: dict[str, dict[str, Any]], playbook: str, *arguments: str, fails: bool = False
) -> str:
    """Run a playbook, a path in the checkout or an absolute one; return the output of ansible-playbook."""
    inventory = folder / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    words = ["ansible-playbook", "-i", str(inventory), str(CHECKOUT / playbook), *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout
