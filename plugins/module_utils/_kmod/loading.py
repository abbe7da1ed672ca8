# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan how an installed kernel module gets into the running kernel. Pure.

Sources: modules-load.d(5), modprobe(8).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .._core.plan import Change, Plan, Problem
from .._node import facts, readiness

AUTOLOAD = "/etc/modules-load.d"
LOG_LINES = 20
RELOADS = ("idle", "managed")


class ModuleError(Problem):
    """A failed step; ``log`` has the output of the command if the message shows only a part of it."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log if len(log.splitlines()) > LOG_LINES else ""


@dataclass(frozen=True)
class Loaded:
    """The module in the running kernel.

    ``references`` are those of other modules. Devices hold no reference, so unloading the module removes
    them: ``managed`` are those that this collection created, ``foreign`` all others, in any namespace.
    """

    srcversion: str
    references: int = 0
    managed: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def used(self) -> bool:
        """Return whether unloading would fail or remove devices."""
        return self.references > 0 or bool(self.managed or self.foreign)

    @property
    def users(self) -> str:
        """Return what uses the module, for a message."""
        devices = ", ".join(self.managed + self.foreign)
        return f"the devices {devices}" if devices else f"{self.references} references of other modules"


@dataclass(frozen=True)
class Step:
    """One step of a plan, and its reason."""

    action: str
    reason: str

    def __str__(self) -> str:
        return f"{self.action}: {self.reason}"


@dataclass(frozen=True)
class KmodPlan(Plan):
    """The steps to the desired state; ``pending`` says why an older module stays loaded."""

    steps: tuple[Step, ...] = ()
    pending: str = ""

    def wants(self, *actions: str) -> bool:
        """Return whether one of the actions is among the steps."""
        return any(step.action in actions for step in self.steps)


def kmod_plan(steps: Sequence[Step], pending: str = "") -> KmodPlan:
    """Return a plan with these steps."""
    changes = [Change(step.action, None, step.reason) for step in steps]
    return KmodPlan(subsystem="kernel_modules", changes=changes, steps=tuple(steps), pending=pending)


def plan_loading(name: str, loaded: Loaded | None, other: bool, reload: str) -> KmodPlan:
    """Return how the installed module gets into the kernel; ``other``: the loaded one has another source.

    ``reload`` is idle (never remove a device) or managed (devices of this collection may be recreated).
    """
    if loaded is None:
        return kmod_plan([Step("load", "the module is not loaded")])
    if not other:
        return kmod_plan(())
    cause = "the loaded module has another source"
    if not loaded.used:
        return kmod_plan([Step("reload", f"{cause}, and nothing uses it")])
    if reload == "managed" and not loaded.foreign and not loaded.references:
        return kmod_plan([Step("reload", f"{cause}; this removes the devices {', '.join(loaded.managed)}")])
    stays = f"an older version of {name} stays loaded until the next boot"
    if loaded.foreign:
        return kmod_plan((), f"{stays}: unmanaged devices use it: {', '.join(loaded.foreign)}")
    if loaded.references:
        return kmod_plan((), f"{stays}: {loaded.users} use it")
    remedy = "reload: managed removes their devices, and the role pods creates them again"
    return kmod_plan((), f"{stays}: Pods use it ({', '.join(loaded.managed)}); {remedy}")


def autoload_file(name: str) -> str:
    """Return the file that loads the module at boot."""
    return f"{AUTOLOAD}/podnet-{name}.conf"


def autoload_text(name: str) -> str:
    """Return that file's content without the final newline."""
    return f"# Written by podnet.datapath.\n{name}"


def plan_autoload(name: str, current: str) -> list[Step]:
    """Return the step that writes that file, if its content ``current`` differs."""
    if current == autoload_text(name):
        return []
    return [Step("autoload", f"{autoload_file(name)} {'differs' if current else 'is missing'}")]


def explain_refusal(name: str, output: str, security: facts.Security) -> str:
    """Return why modprobe(8) could not load a module, with the remedy if one is known."""
    refusal = readiness.signature_refusal(security)
    # EKEYREJECTED, ENOKEY; lockdown answers EPERM.
    if re.search(r"Key was rejected|Required key not available", output) or (
        "Operation not permitted" in output and refusal
    ):
        return refusal or (
            f"the kernel rejects the signature of {name}: sign it with a key that the kernel trusts "
            "(meta_driver_signing_key), or disable Secure Boot"
        )
    if re.search(r"Exec format error|Invalid module format|Unknown symbol", output):
        return (
            f"the module does not match the running kernel ({output.strip()}), as it was built with the"
            f" headers of "
            "another build: install the headers of the running kernel, or boot the newest installed kernel"
        )
    return f"modprobe {name} failed: {output.strip() or 'no output'}: see the kernel log (dmesg)"


def tail(text: str, lines: int) -> str:
    """Return the last non-empty lines of a text."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
