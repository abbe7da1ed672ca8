# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Functions that all parts of the lab use: errors, the cache, commands, locks and progress messages."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

# Seconds between two progress messages of a long step.
HEARTBEAT = 10.0

# The Debian packages that the lab needs on the controller, and the commands that it runs from each.
PACKAGES = {
    "debian-archive-keyring": (),
    "e2fsprogs": ("mke2fs",),
    "fdisk": ("sfdisk",),
    "iproute2": ("ip",),
    "mmdebstrap": ("mmdebstrap",),
    "openssh-client": ("ssh", "ssh-keygen"),
}


class LabError(Exception):
    """An error whose message states the cause and the remedy."""


def cache_dir() -> Path:
    """Return the folder of everything that is built: PODNET_CACHE, or a folder in the user's XDG cache."""
    chosen = os.environ.get("PODNET_CACHE")
    if not chosen:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        chosen = f"{base}/podnet-datapath"
    return Path(chosen).absolute()


def require_root_and_commands() -> None:
    """Raise LabError unless the process runs as root and all of PACKAGES are installed."""
    if os.geteuid() != 0:
        raise LabError(
            "the lab needs root to create image roots, taps and namespaces; run the command with sudo"
        )
    # A root shell started by plain `su` lacks these folders.
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    missing = [package for package, names in PACKAGES.items() if not all(map(shutil.which, names))]
    if missing:
        raise LabError(f"required packages are not installed; run: apt-get install {' '.join(missing)}")


def run(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, given: str = "") -> str:
    """Run a command with ``given`` as its input and return its output; raise LabError if it fails."""
    command = [str(arg) for arg in argv]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(env or {})},
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is not installed; install it") from error
    if done.returncode:
        last_lines = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise LabError(f"exit {done.returncode} from {shlex.join(command)[:300]}\n{last_lines}")
    return done.stdout


def tail(path: Path, lines: int = 12) -> str:
    """Return the last lines of a file, or a placeholder if it cannot be read."""
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return "(nothing)"


def say(text: str) -> None:
    """Write one progress message to standard error."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(title: str, usual: float) -> Iterator[None]:
    """Report the start of a step, its elapsed time every HEARTBEAT seconds, and its end.

    ``usual`` is the expected duration in seconds, until a duration measured on this host replaces it.
    """
    timings = cache_dir() / "timings.json"
    known: dict[str, float] = {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(timings.read_text())
    usual = known.get(title, usual)
    start = time.monotonic()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            say(f"{title}: {time.monotonic() - start:.0f} s, usually {math.ceil(usual)} s")

    say(f"{title}: usually {math.ceil(usual)} s")
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    took = time.monotonic() - start
    say(f"{title}: done in {took:.1f} s")
    write_atomic(timings, json.dumps({**known, title: round(took, 1)}, indent=1, sort_keys=True))


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file atomically, so that no reader sees a partial one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    os.chmod(name, mode)
    os.replace(name, path)


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lock ``name`` of this cache; report it if another process holds the lock."""
    path = cache_dir() / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for the lock {name}, which another process holds")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def built_dir(target: Path) -> Iterator[Path]:
    """Yield a temporary folder; rename it to ``target`` if the block succeeds, otherwise delete it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for stale in target.parent.glob(f".{target.name}.*"):
        remove_tree(stale)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    work.chmod(0o755)
    try:
        yield work
        if target.exists():
            remove_tree(target)
        work.rename(target)
    finally:
        if work.exists():
            remove_tree(work)


def remove_tree(path: Path) -> None:
    """Delete a folder; raise LabError if it contains a mount, as an interrupted build may leave one."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    mounted = [line.split()[4] for line in mounts if f" {path}/" in line]
    if mounted:
        raise LabError(f"{mounted[0]} is still mounted; unmount it and try again")
    shutil.rmtree(path)
