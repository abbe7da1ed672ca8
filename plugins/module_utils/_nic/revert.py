# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and restore NIC settings for a rollback."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .._core.plan import Problem, Value, reason
from .._kernel.ethtool import Ethtool, Nic
from .._rollback.net_changes import Key
from .._rollback.revert import GONE, REMOVED, Now
from . import configure, device
from .plan import is_queue_setting


class Nics:
    """Settings of NICs."""

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return current values; raises ``Problem`` if a NIC cannot be read, for example during its reset."""
        ethtool = Ethtool()
        known: dict[str, Nic | None] = {}
        found: dict[Key, Now] = {}
        try:
            for key in keys:
                if key.scope not in known:
                    known[key.scope] = _read(ethtool, key.scope)
                nic = known[key.scope]
                absent = REMOVED if is_queue_setting(key.name) else GONE
                found[key] = nic.values.get(key.name, absent) if nic else GONE
        finally:
            ethtool.close()
        return found

    def write(self, desired: Mapping[Key, Value]) -> None:
        """Set original values; raises ``Problem`` after all NICs were tried."""
        ethtool = Ethtool()
        # The settings of a queue that did not exist disappear with it.
        due = {
            key: value
            for key, value in desired.items()
            if value is not None or not is_queue_setting(key.name)
        }
        remaining = sorted({key.scope for key in due})
        tried: list[str] = []
        problems: list[str] = []
        try:
            # Repeat while it helps: the larger MTU of the lower device has to be set first.
            while remaining and remaining != tried:
                tried, remaining, problems = remaining, [], []
                for name in tried:
                    former: dict[str, Any] = {key.name: v for key, v in due.items() if key.scope == name}
                    try:
                        _write(ethtool, name, former)
                    except Problem as problem:
                        remaining.append(name)
                        problems.append(str(problem))
        finally:
            ethtool.close()
        if problems:
            raise Problem("\n".join(problems))


def _read(ethtool: Ethtool, name: str) -> Nic | None:
    """Return a NIC, ``None`` if it does not exist; raises ``Problem``."""
    try:
        return device.read(ethtool, name)
    except OSError as error:
        if name in (name for dummy, name in socket.if_nameindex()):
            raise Problem(f"{name} cannot be read: {reason(error)}") from None
        return None


def _write(ethtool: Ethtool, name: str, former: Mapping[str, Any]) -> None:
    """Set one NIC to former values; raises ``Problem``."""
    now = _read(ethtool, name)
    if now is None:
        return
    requested = {name: value for name, value in former.items() if name in now.wanted}
    original = replace(now, values={**now.values, **former}, wanted={**now.wanted, **requested})
    message = configure.restore(ethtool, [original])
    after = _read(ethtool, name)
    if after is None:
        return
    # If others changed the number of queues, the settings of missing queues cannot be restored.
    present = {s: v for s, v in former.items() if s in after.values or not is_queue_setting(s)}
    problems = configure.not_applied(after, present)
    if problems:
        raise Problem("\n".join([*problems, message]))
