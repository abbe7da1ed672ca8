# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Create Events for objects of the Kubernetes API that cannot be enforced.

Source: Kubernetes API, core/v1 Event.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Iterable
from typing import Any

from .._cluster.policies import Unenforced
from .._ops.kubernetes import Api, KubernetesError

REASON = "NotEnforced"
_VERSIONS = {
    "EndpointSlice": "discovery.k8s.io/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Pod": "v1",
    "Service": "v1",
}

log = logging.getLogger("podnet-agent")


def event_of(one: Unenforced, now: str) -> dict[str, Any]:
    """Return the Event; its name is the same on all nodes, so that only one is created."""
    digest = hashlib.sha256(one.message.encode()).hexdigest()[:16]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{one.uid}.{digest}", "namespace": one.namespace},
        "involvedObject": {
            "apiVersion": _VERSIONS[one.kind],
            "kind": one.kind,
            "name": one.name,
            "namespace": one.namespace,
            "uid": one.uid,
        },
        "reason": REASON,
        "message": one.message[:1024],
        "type": "Warning",
        "source": {"component": "podnet-agent"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


class EventWriter:
    """Creates Events in a thread, because the API may be slow."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._queue: queue.SimpleQueue[Unenforced] = queue.SimpleQueue()
        self._reported: set[Unenforced] = set()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="events", daemon=True).start()

    def set(self, unenforced: Iterable[Unenforced]) -> None:
        """Create an Event for each of these that was not there in the last call."""
        current = set(unenforced)
        for one in sorted(current - self._reported):
            log.warning("%s %s/%s: %s", one.kind, one.namespace, one.name, one.message)
            self._queue.put(one)
        self._reported = current

    def _run(self) -> None:
        while True:
            one = self._queue.get()
            event = event_of(one, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
            try:
                self._api.request("POST", f"/api/v1/namespaces/{one.namespace}/events", event)
            except KubernetesError as error:
                if error.status != 409:  # another node has created it
                    log.warning("cannot create an Event: %s", error)
