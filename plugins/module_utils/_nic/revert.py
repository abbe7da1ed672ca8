# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and restore NIC settings for a rollback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .._core.plan import Problem, Value, reason
from .._kernel.ethtool import Ethtool, Nic
from .._rollback.net_changes import Key
from .._rollback.revert import GONE, REMOVED, Now, Subsystem
from . import configure, device, mtu
from .plan import is_queue_setting, requested_name


class Nics(Subsystem):
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
                values = {**nic.values, **_requests(nic)} if nic else {}
                found[key] = values.get(key.name, absent) if nic else GONE
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
        names = {key.scope for key in due}
        former = {name: {key.name: v for key, v in due.items() if key.scope == name} for name in names}
        try:
            problems = _restore(ethtool, former)
        finally:
            ethtool.close()
        if problems:
            raise Problem("\n".join(problems))


def _restore(ethtool: Ethtool, former: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Set all NICs to former values; return errors.

    Repeats as long as it changes something: the larger MTU of a lower device has to be set first, and a bond
    changes the MTUs of its ports.
    """
    order = [*mtu.related(former, mtu.devices())]
    seen: list[list[str]] = []
    while True:
        messages: dict[str, None] = {}
        for name in order:
            if name in former:
                with contextlib.suppress(Problem):
                    messages[_write(ethtool, name, former[name])] = None
        problems = [
            problem for name in order if name in former for problem in _wrong(ethtool, name, former[name])
        ]
        if not problems or problems in seen:
            return [*problems, *messages] if problems else []
        seen.append(problems)


def _read(ethtool: Ethtool, name: str) -> Nic | None:
    """Return a NIC, ``None`` if it does not exist; raises ``Problem``."""
    try:
        return device.read(ethtool, name)
    except device.Vanished:
        return None
    except OSError as error:
        raise Problem(f"{name} cannot be read: {reason(error)}") from None


def _write(ethtool: Ethtool, name: str, former: Mapping[str, Any]) -> str:
    """Set one NIC to former values; return a message. Raises ``Problem`` if the NIC cannot be read."""
    now = _read(ethtool, name)
    if now is None:
        return f"{name} no longer exists."
    # A feature that another device turned off or on along has its former value again with that device.
    requested = {s: value for s, value in former.items() if s in now.wanted and now.values[s] != value}
    requested.update({s: former[requested_name(s)] for s in now.wanted if requested_name(s) in former})
    values = {s: value for s, value in former.items() if s not in _requests(now)}
    original = replace(now, values={**now.values, **values}, wanted={**now.wanted, **requested})
    return configure.restore(ethtool, [original])


def _wrong(ethtool: Ethtool, name: str, former: Mapping[str, Any]) -> list[str]:
    """Return an error for each value that a NIC does not have."""
    try:
        now = _read(ethtool, name)
    except Problem as problem:
        return [str(problem)]
    if now is None:
        return []
    # If others changed the number of queues, the settings of missing queues cannot be restored.
    present = {s: v for s, v in former.items() if s in now.values or not is_queue_setting(s)}
    return configure.not_applied(replace(now, values={**now.values, **_requests(now)}), present)


def _requests(nic: Nic) -> dict[str, bool]:
    """Return which features are requested, by their names in the journal."""
    return {requested_name(feature): bool(on) for feature, on in nic.wanted.items()}
