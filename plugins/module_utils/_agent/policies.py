# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report NetworkPolicy objects, which the datapath does not enforce.

Source: Kubernetes API, networking.k8s.io/v1 NetworkPolicy and core/v1 Event.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from .._ops.kubernetes import Api, KubernetesError
from .._ops.watch import Watch
from .warning_file import Warnings

PATH = "/apis/networking.k8s.io/v1/networkpolicies"
REASON = "NotEnforced"
MESSAGE = (
    "podnet.datapath does not enforce NetworkPolicy objects yet: it allows all traffic of the selected Pods"
)

log = logging.getLogger("podnet-agent")


def event_of(policy: Mapping[str, Any], now: str) -> dict[str, Any]:
    """Return the Event for a NetworkPolicy; its name is the same on all nodes, so that one is created."""
    meta = policy["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{meta['name']}.{meta['uid']}", "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
        },
        "reason": REASON,
        "message": MESSAGE,
        "type": "Warning",
        "source": {"component": "podnet-agent"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


class PolicyWatch:
    """Follows the NetworkPolicy objects, and creates an Event for each."""

    def __init__(self, api: Api, warnings: Warnings) -> None:
        self._api, self._warnings = api, warnings
        self._watch = Watch(api, PATH, self._report)

    def run(self) -> None:
        """Follow the objects forever."""
        reported: set[str] = set()
        for policies in self._watch.follow():
            names = sorted(policies)
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            self._warnings.set(
                "policies", [f"{len(names)} NetworkPolicy objects are not enforced: {shown}"] if names else []
            )
            new = {str(one["metadata"]["uid"]): one for one in policies.values()}
            for uid in new.keys() - reported:
                self._create(new[uid])
            reported = set(new)

    def _create(self, policy: Mapping[str, Any]) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        event = event_of(policy, now)
        namespace = event["metadata"]["namespace"]
        log.warning("NetworkPolicy %s/%s is not enforced", namespace, policy["metadata"]["name"])
        try:
            self._api.request("POST", f"/api/v1/namespaces/{namespace}/events", event)
        except KubernetesError as error:
            if error.status != 409:  # another node has created it
                log.warning("cannot create an Event: %s", error)

    def _report(self, error: str) -> None:
        lines = [f"NetworkPolicy objects cannot be read: {error}"] if error else []
        self._warnings.set("policy watch", lines)
