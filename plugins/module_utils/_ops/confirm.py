# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to be well before a change is confirmed: NICs, and paths of Pods. Private to this collection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from .._core.command import RunCommand
from .._core.plan import Problem
from .._measure import probe as _probe
from .._rollback import checkpoint, journal
from .._rollback.arm import Confirmation, has_carrier
from .._rollback.net_changes import Record
from .._rollback.revert import Subsystem

# Seconds until what a change interrupts for a while, as a link that is negotiated anew, has to be back.
PATIENCE = 15
_PACKETS, _ENOUGH = 10, 8  # sent on a path, and how many answers make it one that comes through


# The options of a module whose changes are to be confirmed

ARGUMENTS: dict[str, Any] = {
    "confirm_timeout": {"type": "int", "default": 0},
    "confirm_name": {"type": "str", "default": ""},
    "confirm_paths": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "netns": {"type": "str"},
            "to": {"type": "str", "required": True},
            "size": {"type": "int", "default": 84},
        },
    },
}


def confirmation(params: Mapping[str, Any]) -> Confirmation:
    """Return what the options say; raises ``Problem``."""
    return Confirmation(
        params["confirm_timeout"], params["confirm_name"], read_paths(params["confirm_paths"])
    )


# Paths: what came through before the change


def probes(paths: Sequence[Mapping[str, Any]]) -> list[_probe.Probe]:
    """Return a module's option ``confirm_paths``, parsed. Raises ``Problem``."""
    try:
        return [
            _probe.Probe(
                _probe.parse_address("to", path["to"]),
                path.get("netns"),
                count=_PACKETS,
                size=path["size"],
                timeout=2.0,
            )
            for path in paths
        ]
    except _probe.ProbeError as problem:
        raise Problem(f"confirm_paths: {problem}") from None


def read_paths(paths: Sequence[Mapping[str, Any]]) -> Callable[[], list[Record]]:
    """Return what finds the paths that answer, as the journal keeps them; two seconds for each that does not.

    Raises ``Problem``.
    """
    parsed = probes(paths)
    return lambda: [
        {"netns": probe.netns, "to": str(probe.to), "size": probe.size}
        for probe in parsed
        if not _silent(probe)
    ]


def _silent(probe: _probe.Probe) -> str:
    """Return how too little came back from a path; empty where enough did.

    Not all has to, as the first may wait for a neighbour.
    """
    try:
        result = _probe.run_probe(probe)
    except _probe.ProbeError as problem:  # Its namespace is not there.
        return str(problem)
    return "" if len(result.rtts) >= _ENOUGH else result.describe()


# NICs


def errors(nic: str) -> int | None:
    """Return how many bad frames a NIC counted, ``None`` for one without carrier."""
    folder = f"/sys/class/net/{nic}"
    if not has_carrier(nic):
        return None
    total = 0
    try:
        for counter in ("rx_errors", "rx_crc_errors", "tx_errors", "tx_carrier_errors"):
            with open(f"{folder}/statistics/{counter}", encoding="ascii") as file:
                total += int(file.read())
    except OSError:
        return None
    return total


def unhealthy(nics: Iterable[str], before: Mapping[str, Any], no_carrier: Iterable[str] = ()) -> list[str]:
    """Return what is wrong with NICs: no carrier, or more errors than ``before``, where that has any.

    ``no_carrier`` are those that had no carrier before the change, as a port without a cable.
    """
    found = []
    for nic in sorted(nics):
        count = errors(nic)
        if count is None:
            if nic not in no_carrier:
                found.append(f"{nic} has no carrier")
        elif before.get(nic) is not None and count > int(before[nic]):
            found.append(f"{nic} counted {count - int(before[nic])} errors since the change")
    return found


def _nics(records: Iterable[Record], name: str) -> list[str]:
    """Return the NICs that were changed under a checkpoint, or whose programs were, and that there are."""
    changed = set()
    for record in records:
        if "end" in record or record.get("checkpoint") != name:
            continue
        for change in record.get("changes", ()):
            if record["subsystem"] == "nics":
                changed.add(change["scope"])
            device, dash, hook = change["name"].rpartition("/")[2].rpartition("-")
            # A Pod's device has no carrier where the Pod has it down.
            if record["subsystem"] == "programs" and dash and hook in ("ingress", "egress"):
                changed.add(unquote(device))
    return sorted(nic for nic in changed if os.path.isdir(f"/sys/class/net/{nic}"))


# The module


def run(
    name: str,
    state: str,
    why: str,
    before: Mapping[str, Any],
    check: bool,
    command: RunCommand,
    subsystems: Mapping[str, Subsystem],
) -> dict[str, Any]:
    """Do what the module's options say; return its result. Raises ``Problem``."""
    found = checkpoint.status(journal.read(), name)
    armed = found.get("checkpoint_state") in ("armed", "reverting")
    changed = state == "confirmed" or (state == "reverted" and armed)
    if state == "confirmed":
        found = _confirm(name, before, check, command)
    elif changed and not check:
        found = checkpoint.roll_back(found["checkpoint"], why, command, subsystems)
    return {
        "changed": changed,
        "name": found.get("checkpoint", ""),
        "status": found.get("checkpoint_state", "none"),
        **{key: found.get(key, "") for key in ("by", "time", "reason")},
        "timeout": found.get("timeout", 0),
        "reverted": found.get("reverted", []),
        "paths": found.get("paths", []),
        "errors": {nic: errors(nic) for nic in _nics(journal.read(), found.get("checkpoint", ""))},
    }


def _confirm(name: str, before: Mapping[str, Any], check: bool, command: RunCommand) -> dict[str, Any]:
    """Keep the changes; raises ``Problem`` where something is not well, or it is too late."""
    found = status = checkpoint.status(journal.read(), name)
    wrong = _wrong(found, before) if found.get("checkpoint_state") == "armed" else []
    with journal.locked():
        status = checkpoint.status(journal.read(), name)
        if status.get("checkpoint_state") != "armed" or status["checkpoint"] != found.get("checkpoint"):
            raise Problem(checkpoint.ended_message(name, status))
        if wrong:
            raise Problem(f"checkpoint {status['checkpoint']} is not confirmed: {'; '.join(wrong)}")
        if not check:
            checkpoint.end(status["checkpoint"], "confirmed", command)
        return checkpoint.status(journal.read(), name)


def _wrong(found: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Return what a change has broken and what has not come back in ``PATIENCE`` seconds.

    Its module may still be at it, where only the connection to it was lost.
    """
    name = found["checkpoint"]
    paths = probes(found.get("paths", ()))
    end = time.monotonic() + PATIENCE
    while True:
        records = journal.read()
        half = [] if checkpoint.status(records, name).get("complete") else ["its changes are not complete"]
        silent = [f"there were answers before the change, now {text}" for text in map(_silent, paths) if text]
        wrong = [*half, *unhealthy(_nics(records, name), before, found.get("no_carrier", ())), *silent]
        if not wrong or time.monotonic() > end:
            return wrong
        time.sleep(0.5)
