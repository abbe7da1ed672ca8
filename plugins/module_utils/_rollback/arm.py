# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a node is made to take a change back by itself: a program, a timer, a unit for the next boot.

Private to this collection. The units stay, and do nothing while nothing is armed.

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

from .._core.bundle import PACKAGE, archive, interpreter
from .._core.files import replace_file, sync_folder
from .._core.plan import Problem, reason
from . import checkpoint, journal
from .checkpoint import ARMED, TIMER
from .journal import Record
from .revert import RunCommand, Subsystem

MARKER = "# Written by podnet.datapath: changes made here are lost."
PROGRAM = "/usr/local/lib/podnet/checkpoint.pyz"
SERVICE = "/etc/systemd/system/podnet-checkpoint.service"
AT_BOOT = "/etc/systemd/system/sysinit.target.wants/podnet-checkpoint.service"
FILES = (PROGRAM, SERVICE, AT_BOOT)

_ROOM = 1 << 20  # bytes that the way back may need on a full disk
# There where systemd runs in a container (Container Interface of systemd.io).
_CONTAINER = "/run/systemd/container"

Look = Callable[[], Sequence[Record]]


@dataclass(frozen=True)
class Terms:
    """On which terms a change is made.

    ``seconds`` to confirm it, 0 where it needs none; the ``name`` that whoever will confirm it gave, made up
    where empty; ``look`` is called just before, and returns the paths that come through.
    """

    seconds: int = 0
    name: str = ""
    look: Look = list

    def __post_init__(self) -> None:
        if self.seconds < 0:
            raise Problem(
                f"confirm_timeout: {self.seconds} is no time: give seconds, or 0 to go without confirmation"
            )
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,64}", self.name):
            raise Problem(
                f"confirm_name: {self.name!r} is no name: give up to 64 letters, digits, dots, dashes or"
                " underscores"
            )


@dataclass(frozen=True)
class WayBack:
    """What takes changes of one subsystem back: a class that is made without arguments."""

    subsystem: str
    maker: type[Subsystem]

    def program(self) -> bytes:
        """Return it as a program of its own."""
        name = self.maker.__name__
        return archive(f"""\
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
""")


def service(python: str) -> str:
    """Return the unit that reverts what is not confirmed, at boot before there is a network.

    It is started again without end, as nobody else takes this back: a NIC may take minutes until it can be
    read.
    """
    return (
        f"{MARKER}\n[Unit]\nDescription=Take back changes of the network that nobody confirmed\n"
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
    """Return the unit that starts it in ``seconds``.

    It counts from boot: what counts from the timer's start begins anew whenever systemd reloads its units.
    """
    at = int(time.clock_gettime(time.CLOCK_MONOTONIC)) + seconds
    return (
        f"{MARKER}\n[Unit]\nDescription=Time to confirm a change of the network\n"
        "DefaultDependencies=no\n\n"
        f"[Timer]\nOnBootSec={at}\nAccuracySec=100ms\n"
    )


def arm(terms: Terms, way_back: WayBack, command: RunCommand) -> str:
    """Have everything changed from now on taken back unless it is confirmed; return the checkpoint's name.

    Raises ``Problem``; nothing is armed then.
    """
    if not os.path.isdir("/run/systemd/system"):
        raise Problem("confirm_timeout: needs systemd on this node: set confirm_timeout: 0")
    if os.path.exists(_CONTAINER):
        raise Problem(
            "confirm_timeout: this is a container, whose systemd does not start what takes the change back"
            " when the node boots: run it on the node, or set confirm_timeout: 0"
        )
    paths = list(terms.look())
    with journal.locked():
        records = journal.read()
        journal.refuse_other(journal.pending(records))
        if terms.name and checkpoint.status(records, terms.name):
            raise Problem(f"confirm_name: {terms.name} was the name of an earlier change: give another")
        name = terms.name or uuid.uuid4().hex[:12]
        try:
            _reserve()
            for path, data in _files(terms.seconds, way_back).items():
                os.makedirs(os.path.dirname(path), exist_ok=True)
                replace_file(path, data)
            with contextlib.suppress(FileExistsError):
                os.makedirs(os.path.dirname(AT_BOOT), exist_ok=True)
                os.symlink(SERVICE, AT_BOOT)
                sync_folder(AT_BOOT)
            # Before the journal knows: a process that is killed here leaves nothing armed that nobody ends.
            # A timer that expires here starts what waits for the lock.
            _systemctl(command, "daemon-reload")
            _systemctl(command, "restart", os.path.basename(TIMER))
            journal.append(
                {
                    "checkpoint": name,
                    "checkpoint_state": "armed",
                    "time": journal.now(),
                    "boot_id": journal.boot_id(),
                    "by": journal.requester(),
                    "timeout": terms.seconds,
                    "paths": paths,
                    # No change takes a carrier from these.
                    "dark": [nic for nic in os.listdir("/sys/class/net") if not has_carrier(nic)],
                }
            )
        except OSError as error:
            checkpoint.stand_down(command)
            raise Problem(
                f"confirm_timeout: cannot be armed ({reason(error)}), so nothing was changed: run as root"
                " (become), and have room on a writable file system"
            ) from None
        except Problem:
            checkpoint.stand_down(command)
            raise
    return name


def has_carrier(nic: str) -> bool:
    """Tell whether a NIC is there, is up, and has a carrier."""
    try:
        with open(f"/sys/class/net/{nic}/carrier", encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def _reserve() -> None:
    """Keep room on the disk for the way back; raises ``OSError``."""
    descriptor = os.open(ARMED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _ROOM)
    except OSError:
        os.unlink(ARMED)
        raise
    finally:
        os.close(descriptor)


def _files(seconds: int, way_back: WayBack) -> dict[str, bytes]:
    return {
        PROGRAM: way_back.program(),
        SERVICE: service(interpreter()).encode(),
        TIMER: timer(seconds).encode(),
    }


def _systemctl(command: RunCommand, *words: str) -> None:
    code, out, err = command(["systemctl", *words])
    if code:
        said = (out + err).strip()
        raise Problem(f"confirm_timeout: systemctl {' '.join(words)} failed, so nothing was changed: {said}")


class Checkpoint:
    """The checkpoint of one call of a module, armed before its first change where ``terms`` ask for it."""

    def __init__(self, terms: Terms, way_back: WayBack, command: RunCommand) -> None:
        self.name = ""
        self._terms, self._way_back, self._command = terms, way_back, command

    @contextlib.contextmanager
    def entered(self, entry: journal.Entry) -> Iterator[None]:
        """Journal what the block changes, as part of this checkpoint.

        Raises ``Problem`` before the block where somebody else's change waits for its confirmation: even
        what is as it is to be may be taken back then. Of our own name, it is this call, made once more.
        """
        if not entry and not self.name:
            armed = journal.pending(journal.read())
            if armed and armed["checkpoint"] == self._terms.name:
                self.name = self._terms.name
            journal.refuse_other(armed, self.name)
        if entry and self._terms.seconds and not self.name:
            self.name = arm(self._terms, self._way_back, self._command)
        with journal.entered(entry, self.name):
            yield

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Be the module's whole change: where the block fails, what it changed is taken back at once.

        Only what has come to its end can be confirmed.
        """
        try:
            yield
            if self.name:
                checkpoint.complete(self.name)
        except Exception as problem:
            if self.name:
                why = f"the module failed: {problem}"
                subsystems = {self._way_back.subsystem: self._way_back.maker()}
                try:
                    checkpoint.revert(self.name, why, self._command, subsystems)
                except Problem as other:  # The time may have been up.
                    raise Problem(f"{problem}\n{other}") from None
            raise


def remove(command: RunCommand) -> list[str]:
    """Take away what ``arm`` installed; return the files that there were."""
    present = [path for path in FILES if os.path.lexists(path)]
    for path in present:
        os.unlink(path)
        if os.path.dirname(path) == os.path.dirname(PROGRAM):
            with contextlib.suppress(OSError):  # Another program of ours is still there.
                os.rmdir(os.path.dirname(path))
    if present:
        command(["systemctl", "daemon-reload"])
    return present
