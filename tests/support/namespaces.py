# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces for tests, and commands in them. Standard library only, so that nodes can use it."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h


def command(*words: str, netns: str | None = None, check: bool = True) -> str:
    """Run a program and return its output; ``netns`` changes its network namespace, not its mounts.

    ``ip netns exec`` would mount a new /sys, which hides the BPF file system.
    """
    inside = ["nsenter", f"--net=/run/netns/{netns}"] if netns else []
    done = subprocess.run([*inside, *words], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def enter(path: str) -> None:
    """Move the calling thread to a network namespace."""
    with open(path) as there:
        if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


_numbers = itertools.count()


class Namespaces:
    """Network namespaces with unique names."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self, name: str) -> str:
        """Create a namespace with loopback up and return its full name."""
        full = f"t{os.getpid()}-{next(_numbers)}-{name}"
        command("ip", "netns", "add", full)
        self.made.append(full)
        command("ip", "link", "set", "lo", "up", netns=full)
        return full

    def run(self, netns: str, *words: str, check: bool = True) -> str:
        """Run a program in a namespace and return its output."""
        return command(*words, netns=netns, check=check)

    @contextlib.contextmanager
    def inside(self, netns: str) -> Iterator[None]:
        """Move the calling thread to a namespace during the block; sockets opened there stay in it."""
        with open("/proc/thread-self/ns/net") as home:
            enter(f"/run/netns/{netns}")
            try:
                yield
            finally:
                enter(f"/proc/self/fd/{home.fileno()}")

    def ip(self, netns: str, *lines: str) -> None:
        """Run lines of ip(8) in a namespace by one process."""
        batch = subprocess.run(
            ["nsenter", f"--net=/run/netns/{netns}", "ip", "-batch", "-"],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert batch.returncode == 0, batch.stderr

    def sysctl(self, netns: str, **values: object) -> None:
        """Set sysctls below net, written with ``__`` for the dots of their names."""
        words = [f"net.{name.replace('__', '.')}={value}" for name, value in values.items()]
        command("sysctl", "-qw", *words, netns=netns)

    def delete(self) -> None:
        """Delete all namespaces with their devices."""
        for name in self.made:
            command("ip", "netns", "delete", name, check=False)
        self.made.clear()
