# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find what kills, reboots and runtimes that never call GC leave behind, and repair what is missing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from .._core.plan import Problem
from .._kernel import netns
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


def find(attachments: Iterable[Attachment], existing: Mapping[str, bool], live: Collection[str]) -> Findings:
    """Compare records with existing Pods (and whether they are complete), and with live namespaces.

    Pure. A record without a result is of an ADD that was killed.
    """
    records = {one.name: one for one in attachments}
    stale = {name: one for name, one in records.items() if not one.result or one.netns not in live}
    return Findings(
        tuple(stale.values()),
        tuple(sorted(name for name in existing if name not in records)),
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
        {one.netns for one in records if _is_live(one.netns)},
    )
    for one in found.stale:
        extra = {"pod": one.pod, "container": one.container}
        log.info("remove %s, whose network namespace no longer exists", one.shown, extra=extra)
        try:
            commands.release(one)
        except (CniError, Problem, OSError) as error:
            log.warning("cannot remove %s: %s", one.shown, error, extra=extra)
    if found.orphans:
        log.info("remove %d Pods that no container has", len(found.orphans))
        worker.remove(found.orphans)
    for one in found.incomplete:
        extra = {"pod": one.pod, "container": one.container}
        log.warning("device or map entries of %s are missing; create them again", one.shown, extra=extra)
        try:
            worker.remove([one.name])
            worker.create(commands.spec_of(one))
        except (Problem, OSError) as error:
            log.warning("cannot repair %s: %s", one.shown, error, extra=extra)
    return found


def _is_live(path: str) -> bool:
    try:
        return netns.is_namespace(path)
    except OSError:
        return False
