# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back for NICs. Private to this collection."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from .._core.plan import Problem, Value, reason
from .._kernel.ethtool import Ethtool, Nic
from .._rollback.net_changes import Key
from .._rollback.revert import GONE, REMOVED, Now
from . import settings


class Nics:
    """Settings of NICs."""

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return what is; raises ``Problem`` where a NIC is there and cannot be read, as during its reset."""
        ethtool = Ethtool()
        known: dict[str, Nic | None] = {}
        found: dict[Key, Now] = {}
        try:
            for key in keys:
                if key.scope not in known:
                    known[key.scope] = _read(ethtool, key.scope)
                nic = known[key.scope]
                absent = REMOVED if settings.of_queue(key.name) else GONE
                found[key] = nic.values.get(key.name, absent) if nic else GONE
        finally:
            ethtool.close()
        return found

    def write(self, wished: Mapping[Key, Value]) -> None:
        """Set NICs to former values; one that cannot be keeps none of the others; raises ``Problem``."""
        ethtool = Ethtool()
        # What a queue did not have, as it was not there, goes with it.
        due = {
            key: value
            for key, value in wished.items()
            if value is not None or not settings.of_queue(key.name)
        }
        left = sorted({key.scope for key in due})
        tried: list[str] = []
        problems: list[str] = []
        try:
            # Again while that helps: an interface has to wait for the larger MTU of the one below it.
            while left and left != tried:
                tried, left, problems = left, [], []
                for name in tried:
                    former: dict[str, Any] = {key.name: v for key, v in due.items() if key.scope == name}
                    try:
                        _write(ethtool, name, former)
                    except Problem as problem:
                        left.append(name)
                        problems.append(str(problem))
        finally:
            ethtool.close()
        if problems:
            raise Problem("\n".join(problems))


def _read(ethtool: Ethtool, name: str) -> Nic | None:
    """Return a NIC, ``None`` where there is none of that name; raises ``Problem``."""
    try:
        return settings.read(ethtool, name)
    except OSError as error:
        if name in (name for dummy, name in socket.if_nameindex()):
            raise Problem(f"{name} cannot be read: {reason(error)}") from None
        return None


def _write(ethtool: Ethtool, name: str, former: Mapping[str, Any]) -> None:
    """Set one NIC to former values; raises ``Problem``."""
    now = _read(ethtool, name)
    if now is None:
        return
    wanted = {name: value for name, value in former.items() if name in now.wanted}
    as_it_was = replace(now, values={**now.values, **former}, wanted={**now.wanted, **wanted})
    said = settings.restore(ethtool, [as_it_was])
    after = _read(ethtool, name)
    # Of a queue that did not come back, as somebody else changed their number, nothing can be set.
    there = {s: v for s, v in former.items() if after and (s in after.values or not settings.of_queue(s))}
    missed = settings.missed(after, there) if after else []
    if missed:
        raise Problem("\n".join([*missed, said]))
