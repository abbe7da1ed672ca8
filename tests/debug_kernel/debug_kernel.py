# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot the debug kernel.

User-Mode Linux runs as a process of this machine at native speed. Its root is the Debian root that it was
built in, read-only; a folder with modules and checks is at /mnt.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.debug_kernel.kernel_build import built_root

MEMORY = "1280M"


@dataclass(frozen=True)
class DebugKernel:
    """A root with User-Mode Linux and its build tree in /usr/src/build."""

    root: Path
    release: str

    def boot(self, folder: Path, *arguments: str, seconds: float) -> Iterator[str]:
        """Boot with ``folder`` at /mnt and inside.py as init; yield the lines of the kernel's log."""
        (folder / "arguments").write_text("\n".join(arguments))
        (folder / "randomness").write_bytes(os.urandom(512))
        enter = (
            'mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/tmp" && mount --bind "$1" "$0/mnt" && '
            'mount --bind /dev "$0/dev" && root=$0 && shift && chroot "$root" "$@"; exit'
        )
        kernel = [
            "/usr/src/build/linux",
            *(f"mem={MEMORY}", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
            *("con=null", "con0=null,fd:1", "kasan_multi_shot", "printk.devkmsg=on", "loglevel=7"),
            *(
                "init=/usr/bin/env",
                "--",
                "PYTHONPATH=/mnt",
                "/usr/bin/python3",
                "-m",
                "tests.debug_kernel.inside",
            ),
        ]
        # The end of this process ends the kernel. The kernel is not init of its PID namespace, because it
        # ends itself by a signal after a panic, which an init ignores.
        isolate = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        process = subprocess.Popen(
            [*isolate, "sh", "-c", enter, str(self.root), str(folder), *kernel],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": "/tmp", "HOME": "/tmp"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        ended = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
        ended.start()
        try:
            assert process.stdout
            yield from process.stdout
        finally:
            ended.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def debug_kernel(kernel: str) -> DebugKernel:
    """Return the debug kernel of one of the lab's kernels (6.1, 6.12, 7.3)."""
    root = built_root(kernel)
    return DebugKernel(root, (root / "usr/src/build/include/config/kernel.release").read_text().strip())
