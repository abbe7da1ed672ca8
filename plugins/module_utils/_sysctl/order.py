# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of sysctls and the order of the writes.

Sources: Documentation/networking/ip-sysctl.rst; inet_forward_change() of net/ipv4/devinet.c;
addrconf_fixup_forwarding() of net/ipv6/addrconf.c.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping

from .._core.plan import Change
from .effects import IP_FORWARD, effects
from .keys import name_of, normalize, path_of, printed, same


def order(path: str) -> tuple[int, str]:
    """Return the sort key that puts a key before those that the kernel changes with it.

    accept_ra comes first: forwarding removes the routes of router advertisements unless it is 2 by then.
    """
    for rank, part in enumerate(("/accept_ra", IP_FORWARD, "/conf/all/", "/conf/default/")):
        if path.endswith(part) if not rank else part in path:
            return rank, path
    return 4, path


def changes(current: Mapping[str, str], desired: Mapping[str, str], scope: str = "") -> list[Change]:
    """Return the changes from ``current`` to ``desired``, in the order of the writes."""
    return [
        Change(name_of(path), normalize(current[path]), printed(path, desired[path]), scope)
        for path in sorted(desired, key=order)
        if not same(path, normalize(current[path]), desired[path])
    ]


def writes(planned: Iterable[Change], desired: Mapping[str, str]) -> list[str]:
    """Return the paths to write, in order: changed keys, and desired keys that the kernel changes with them.

    For example, ip_forward = 1 turns on forwarding of an interface that has to keep it off.
    """
    changed = {path_of(change.name) for change in planned}
    propagated: list[str] = []
    found = []
    for path in sorted(desired, key=order):
        if path in changed or any(fnmatch.fnmatchcase(path, pattern) for pattern in propagated):
            found.append(path)
            propagated += [effect.pattern for effect in effects(path)]
    return found
