# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Pod's status says about its containers."""

from __future__ import annotations

from .._ops.kubernetes import Json


def _statuses(pod: Json) -> list[Json]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def waiting_reason(pod: Json) -> str:
    """Return why containers of a Pod do not run; empty if they do."""
    found = []
    for one in _statuses(pod):
        state, last = one.get("state") or {}, one.get("lastState") or {}
        waiting = state.get("waiting") or {}
        ended = last.get("terminated") or state.get("terminated") or {}
        if waiting.get("reason") and (ended or waiting["reason"] != "PodInitializing"):
            text = _reason(str(ended.get("message") or ""))
            found.append(f"{one.get('name')}: {waiting['reason']}{f': {text}' if text else ''}")
    return "; ".join(found)


def _reason(log: str) -> str:
    """Return the last fatal line of an agent's log, or the log's end if it has none."""
    fatal = [line for line in log.splitlines() if "level=fatal" in line]
    return " ".join((fatal[-1] if fatal else log).split())[-600:]


def restarts(pod: Json) -> int:
    """Return how often the containers of a Pod were restarted."""
    return sum(int(one.get("restartCount") or 0) for one in _statuses(pod))
