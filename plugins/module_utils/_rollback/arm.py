# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Arm a checkpoint: install a program, a timer and a boot unit that roll back unconfirmed changes.

The units stay on the node and do nothing while no checkpoint is armed.

Sources: systemd.timer(5), systemd.special(7), bootup(7).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .._core import lock
from .._core.bundle import PACKAGE, archive, interpreter
from .._core.command import RunCommand
from .._core.files import replace_file, sync_folder
from .._core.plan import Plan, Problem, reason
from . import checkpoint, journal
from .checkpoint import ARMED, TIMER
from .journal import Record
from .revert import Subsystem

MARKER = "# Written by podnet.datapath: changes made here are lost."
PROGRAM = "/usr/local/lib/podnet/checkpoint.pyz"
SERVICE = "/etc/systemd/system/podnet-checkpoint.service"
AT_BOOT = "/etc/systemd/system/sysinit.target.wants/podnet-checkpoint.service"
FILES = (PROGRAM, SERVICE, AT_BOOT)

_RESERVED = 1 << 20  # bytes that a rollback may need on a full disk
# Exists if systemd runs in a container (Container Interface of systemd.io).
_CONTAINER = "/run/systemd/container"

ReadPaths = Callable[[], Sequence[Record]]


@dataclass(frozen=True)
class Confirmation:
    """How a change is confirmed.

    ``seconds`` until the node rolls it back, 0 if it needs no confirmation; the checkpoint's ``name``,
    generated if empty; ``read_paths`` returns the paths that work before the change.
    """

    seconds: int = 0
    name: str = ""
    read_paths: ReadPaths = list

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise Problem(
                f"confirm_timeout: {self.seconds} is negative: set a number of seconds, or 0 for a change"
                " without confirmation"
            )
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", self.name):
            raise Problem(
                f"confirm_name: {self.name!r} is not a valid name: use up to 64 letters, digits, dots,"
                " dashes and underscores"
            )


@dataclass(frozen=True)
class RollbackProgram:
    """The program that rolls back one subsystem; ``maker`` is a class without constructor arguments."""

    subsystem: str
    maker: type[Subsystem]

    def archive(self) -> bytes:
        """Return a zip file that Python runs, with all that it needs at the rollback."""
        name = self.maker.__name__
        return archive(
            f"""\
import subprocess, sys
from {PACKAGE}._core import plan
from {PACKAGE}._rollback import checkpoint
from {self.maker.__module__} import {name}
def command(words):
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr
try:
    print(checkpoint.expire(command, {{{self.subsystem!r}: {name}()}}))
except (plan.Problem, OSError) as problem:
    sys.exit(str(problem))
""",
            ["pyroute2"],
        )


def service(python: str) -> str:
    """Return the unit that rolls back an unconfirmed checkpoint, at boot before the network is up.

    systemd restarts it without limit, as nothing else would roll back. A NIC may take minutes to appear.
    """
    return (
        f"{MARKER}\n[Unit]\nDescription=Roll back unconfirmed changes of the network\n"
        "DefaultDependencies=no\n"
        f"ConditionPathExists={ARMED}\n"
        f"RequiresMountsFor={journal.FOLDER} {PROGRAM}\n"
        "After=local-fs.target systemd-remount-fs.service\n"
        "Before=network-pre.target sysinit.target shutdown.target\nWants=network-pre.target\n"
        "Conflicts=shutdown.target\nStartLimitIntervalSec=0\n\n"
        f"[Service]\nType=oneshot\nExecStart={python} {PROGRAM}\n"
        "TimeoutStartSec=600\nRestart=on-failure\nRestartSec=5\n"
    )


def timer(seconds: int) -> str:
    """Return the unit that starts the service in ``seconds``.

    Uses OnBootSec, because systemd restarts OnActiveSec at every daemon-reload.
    """
    at = int(time.clock_gettime(time.CLOCK_MONOTONIC)) + seconds
    return (
        f"{MARKER}\n[Unit]\nDescription=Time to confirm a change of the network\n"
        "DefaultDependencies=no\n\n"
        f"[Timer]\nOnBootSec={at}\nAccuracySec=100ms\n"
    )


def arm(confirmation: Confirmation, program: RollbackProgram, command: RunCommand) -> str:
    """Arm a checkpoint and return its name; later changes are rolled back unless it is confirmed.

    Raises ``Problem``; then nothing is armed.
    """
    if not os.path.isdir("/run/systemd/system"):
        raise Problem("confirm_timeout: requires systemd on this node: set confirm_timeout: 0")
    if os.path.exists(_CONTAINER):
        raise Problem(
            "confirm_timeout: this is a container, whose systemd does not start the rollback when the node"
            " boots: run this on the node, or set confirm_timeout: 0"
        )
    paths = list(confirmation.read_paths())
    with journal.locked():
        records = journal.read()
        journal.refuse_other(journal.pending(records))
        if confirmation.name and checkpoint.status(records, confirmation.name):
            raise Problem(
                f"confirm_name: {confirmation.name} is the name of an earlier checkpoint: choose another name"
            )
        name = confirmation.name or uuid.uuid4().hex[:12]
        try:
            _install(confirmation.seconds, program)
            # Before the journal has the checkpoint: if this process is killed here, nothing stays armed
            # without a timer. A timer that expires here waits for the lock.
            _systemctl(command, "daemon-reload")
            _systemctl(command, "restart", os.path.basename(TIMER))
            journal.append(
                {
                    "checkpoint": name,
                    "checkpoint_state": "armed",
                    "time": journal.now(),
                    "boot_id": journal.boot_id(),
                    "by": lock.requester(),
                    "timeout": confirmation.seconds,
                    "paths": paths,
                    "no_carrier": [nic for nic in os.listdir("/sys/class/net") if not has_carrier(nic)],
                }
            )
        except OSError as error:
            checkpoint.disarm(command)
            raise Problem(
                f"confirm_timeout: the checkpoint cannot be armed ({reason(error)}), so nothing was changed:"
                " run as root (become), and free space on a writable file system"
            ) from None
        except Problem:
            checkpoint.disarm(command)
            raise
    return name


def has_carrier(nic: str) -> bool:
    """Return whether a NIC exists, is up, and has a carrier."""
    try:
        with open(f"/sys/class/net/{nic}/carrier", encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def _install(seconds: int, program: RollbackProgram) -> None:
    """Write the program and its units, and reserve disk space; raises ``OSError``."""
    descriptor = os.open(ARMED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _RESERVED)
    except OSError:
        os.unlink(ARMED)
        raise
    finally:
        os.close(descriptor)
    units = {SERVICE: service(interpreter()).encode(), TIMER: timer(seconds).encode()}
    for path, data in {PROGRAM: program.archive(), **units}.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        replace_file(path, data)
    with contextlib.suppress(FileExistsError):
        os.makedirs(os.path.dirname(AT_BOOT), exist_ok=True)
        os.symlink(SERVICE, AT_BOOT)
        sync_folder(AT_BOOT)


def _systemctl(command: RunCommand, *words: str) -> None:
    code, out, err = command(["systemctl", *words])
    if code:
        output = (out + err).strip()
        raise Problem(
            f"confirm_timeout: systemctl {' '.join(words)} failed, so nothing was changed: {output}"
        )


class Checkpoint:
    """The checkpoint of one module call, armed before its first change if ``confirmation`` asks for it."""

    def __init__(self, confirmation: Confirmation, program: RollbackProgram, command: RunCommand) -> None:
        self.name = ""
        self._confirmation, self._program, self._command = confirmation, program, command

    @contextlib.contextmanager
    def transaction(
        self, plan: Plan, observe: journal.Observe | None = None, *, backup: str = ""
    ) -> Iterator[None]:
        """Record what the block changes in the journal, as part of this checkpoint.

        Raises ``Problem`` before the block if another checkpoint is pending, even if the plan is empty:
        the current state may be rolled back. A pending checkpoint of the same name is from an earlier attempt
        of this call.
        """
        if not plan and not self.name:
            armed = journal.pending(journal.read())
            if armed and armed["checkpoint"] == self._confirmation.name:
                self.name = self._confirmation.name
            journal.refuse_other(armed, self.name)
        if plan and self._confirmation.seconds and not self.name:
            self.name = arm(self._confirmation, self._program, self._command)
        with journal.transaction(plan, observe, checkpoint=self.name, backup=backup):
            yield

    @contextlib.contextmanager
    def complete_or_revert(self) -> Iterator[None]:
        """Mark the checkpoint as complete after the block, or revert it at once if the block fails.

        Only a complete checkpoint can be confirmed.
        """
        try:
            yield
            if self.name:
                checkpoint.complete(self.name)
        except Exception as problem:
            if self.name:
                why = f"the module failed: {problem}"
                subsystems = {self._program.subsystem: self._program.maker()}
                try:
                    checkpoint.roll_back(self.name, why, self._command, subsystems)
                except Problem as other:  # The time may have expired.
                    raise Problem(f"{problem}\n{other}") from None
            raise


def remove(command: RunCommand) -> list[str]:
    """Remove what ``arm`` installed; return the files that existed."""
    present = [path for path in FILES if os.path.lexists(path)]
    for path in present:
        os.unlink(path)
        if os.path.dirname(path) == os.path.dirname(PROGRAM):
            with contextlib.suppress(OSError):  # Another program of this collection is still there.
                os.rmdir(os.path.dirname(path))
    if present:
        command(["systemctl", "daemon-reload"])
    return present
