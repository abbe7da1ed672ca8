# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find what kills, reboots and runtimes that never call GC leave behind, and repair what is missing."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from .._core.plan import Problem
from .attachments import Attachment, Attachments
from .commands import Commands
from .protocol import CniError
from .worker import Worker

PERIOD = 60.0  # seconds between two runs

log = logging.getLogger("podnet-agent")


@dataclass(frozen=True)
class Findings:
    """Attachments to release, Pods without a record, and attachments without a Pod."""

    stale: tuple[Attachment, ...] = ()
    orphans: tuple[str, ...] = ()
    incomplete: tuple[Attachment, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.stale or self.orphans or self.incomplete)


def find(
    attachments: Iterable[Attachment],
    existing: Mapping[str, bool],
    live: Collection[str],
    unreadable: Collection[str] = (),
) -> Findings:
    """Compare records with existing Pods (and whether they are complete), and with live namespaces.

    Pure. A record without a result is of an ADD that was killed. ``live`` has the names of attachments.
    """
    records = {one.name: one for one in attachments}
    stale = {name: one for name, one in records.items() if not one.result or name not in live}
    return Findings(
        tuple(stale.values()),
        tuple(sorted(name for name in existing if name not in records and name not in unreadable)),
        tuple(one for name, one in records.items() if name not in stale and not existing.get(name)),
    )


def run(commands: Commands, worker: Worker, attachments: Attachments) -> Findings:
    """Compare records, Pods and namespaces once, and repair the differences."""
    # Pods are read before the records, so that a Pod whose ADD runs meanwhile has its record.
    existing = worker.existing()
    every = list(attachments)
    busy = {one.name for one in every if commands.is_busy(one.name)}
    records = [one for one in every if one.name not in busy]
    found = find(
        records,
        {name: complete for name, complete in existing.items() if name not in busy},
        {one.name for one in records if one.is_live()},
        attachments.unreadable,
    )
    for one in found.stale:
        log.info("remove %s: its network namespace no longer exists, or its ADD was killed", one.shown)
        _attempt(one, "remove", functools.partial(commands.release, one))
    for name in found.orphans:
        log.info("remove the Pod %s, which no container has", name)
        _attempt(None, "remove", functools.partial(commands.remove_orphan, name))
    for one in found.incomplete:
        log.warning("device, programs or map entries of %s are missing; create them again", one.shown)
        _attempt(one, "repair", functools.partial(commands.repair, one))
    for name in attachments.unreadable - existing.keys():
        attachments.delete(name)
    return found


def _attempt(one: Attachment | None, verb: str, action: Callable[[], object]) -> None:
    """Call an action; its error must not concern other Pods."""
    try:
        action()
    except (CniError, Problem, OSError) as error:
        extra = {"pod": one.pod, "container": one.container} if one else {}
        log.warning("cannot %s %s: %s", verb, one.shown if one else "a Pod", error, extra=extra)
