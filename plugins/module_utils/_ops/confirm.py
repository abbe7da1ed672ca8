# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Confirm or revert a checkpoint, after checking the changed NICs and the paths of Pods."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from .._core.command import RunCommand
from .._core.plan import Problem, Result
from .._measure import probe as _probe
from .._rollback import checkpoint, journal
from .._rollback.arm import Confirmation, has_carrier
from .._rollback.journal import Record
from .._rollback.revert import Subsystem

# Seconds for a change to take effect, such as for a link to negotiate again.
PATIENCE = 15
# Not all replies are required, as the first packets may be lost during neighbour resolution.
_PACKETS, _REQUIRED_REPLIES = 10, 8


# Options of a module whose changes may require confirmation

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
    """Return the confirmation that the options request; raises ``Problem``."""
    return Confirmation(
        params["confirm_timeout"], params["confirm_name"], read_paths(params["confirm_paths"])
    )


# Paths that work before the change


def probes(paths: Sequence[Mapping[str, Any]]) -> list[_probe.Probe]:
    """Return the probes of the option ``confirm_paths``; raises ``Problem``."""
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
    """Return a function that probes paths and returns those that work, as the journal records them.

    A path without replies takes two seconds. Raises ``Problem`` for an invalid path.
    """
    parsed = probes(paths)
    return lambda: [
        {"netns": probe.netns, "to": str(probe.to), "size": probe.size}
        for probe in parsed
        if not _loss(probe)
    ]


def _loss(probe: _probe.Probe) -> str:
    """Return a description of a path with too few replies, empty for a path that works."""
    try:
        result = _probe.run_probe(probe)
    except _probe.ProbeError as problem:  # Its namespace does not exist.
        return str(problem)
    return "" if len(result.rtts) >= _REQUIRED_REPLIES else result.describe()


# NICs


def errors(nic: str) -> int | None:
    """Return the number of errors that a NIC counted, ``None`` without a carrier."""
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
    """Return an error for each NIC without a carrier or with more errors than ``before``.

    ``no_carrier`` are NICs that had no carrier before the change, such as a port without a cable.
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
    """Return the existing NICs whose settings or programs were changed under a checkpoint."""
    changed = set()
    for record in records:
        if "end" in record or record.get("checkpoint") != name:
            continue
        for change in record.get("changes", ()):
            if record["subsystem"] == "nics":
                changed.add(change["scope"])
            device, dash, hook = change["name"].rpartition("/")[2].rpartition("-")
            # A Pod's device has no carrier while it is down in the Pod.
            if record["subsystem"] == "programs" and dash and hook in ("ingress", "egress"):
                changed.add(unquote(device))
    return sorted(nic for nic in changed if os.path.isdir(f"/sys/class/net/{nic}"))


# The module


def run(
    params: Mapping[str, Any], check: bool, command: RunCommand, subsystems: Mapping[str, Subsystem]
) -> Result:
    """Confirm, revert or query the checkpoint of the module's options; raises ``Problem``."""
    name, state = params["name"], params["state"]
    found = checkpoint.status(journal.read(), name)
    armed = found.get("checkpoint_state") in ("armed", "reverting")
    changed = state == "confirmed" or (state == "reverted" and armed)
    if state == "confirmed":
        found = _confirm(name, params["errors"], check, command)
    elif changed and not check:
        found = checkpoint.roll_back(found["checkpoint"], params["reason"], command, subsystems)
    values = {
        "name": found.get("checkpoint", ""),
        "status": found.get("checkpoint_state", "none"),
        **{key: found.get(key, "") for key in ("by", "time", "reason")},
        "timeout": found.get("timeout", 0),
        "reverted": found.get("reverted", []),
        "paths": found.get("paths", []),
        "errors": {nic: errors(nic) for nic in _nics(journal.read(), found.get("checkpoint", ""))},
    }
    return Result(changed, values)


def _confirm(name: str, before: Mapping[str, Any], check: bool, command: RunCommand) -> dict[str, Any]:
    """Confirm a checkpoint; raises ``Problem`` if a check fails or the checkpoint is no longer armed."""
    found = status = checkpoint.status(journal.read(), name)
    problems = _problems(found, before) if found.get("checkpoint_state") == "armed" else []
    with journal.locked():
        status = checkpoint.status(journal.read(), name)
        if status.get("checkpoint_state") != "armed" or status["checkpoint"] != found.get("checkpoint"):
            raise Problem(checkpoint.ended_message(name, status))
        if problems:
            raise Problem(f"checkpoint {status['checkpoint']} is not confirmed: {'; '.join(problems)}")
        if not check:
            checkpoint.end(status["checkpoint"], "confirmed", command)
        return checkpoint.status(journal.read(), name)


def _problems(found: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Return the checks that still fail after ``PATIENCE`` seconds.

    The changes may be incomplete because the module still runs after its connection was lost.
    """
    name = found["checkpoint"]
    paths = probes(found.get("paths", ()))
    end = time.monotonic() + PATIENCE
    while True:
        records = journal.read()
        incomplete = (
            [] if checkpoint.status(records, name).get("complete") else ["its changes are not complete"]
        )
        lossy = [f"a path that worked before the change fails: {text}" for text in map(_loss, paths) if text]
        failed = unhealthy(_nics(records, name), before, found.get("no_carrier", ()))
        problems = [*incomplete, *failed, *lossy]
        if not problems or time.monotonic() > end:
            return problems
        time.sleep(0.5)
