# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Follow all objects of one kind in the Kubernetes API by list and watch.

Source: kubernetes.io/docs, "Kubernetes API Concepts", Efficient detection of changes.
"""

from __future__ import annotations

import random
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .kubernetes import Api, KubernetesError

WATCH_SECONDS = 300  # after which the server ends a watch
READ_TIMEOUT = 360.0  # seconds without data after which a connection is considered dead
GONE = 410  # HTTP status: the server no longer has the resource version
_MIN_DELAY, _MAX_DELAY = 1.0, 30.0  # seconds between attempts

Objects = Mapping[str, "dict[str, Any]"]


def key_of(item: Mapping[str, Any]) -> str:
    """Return ``namespace/name`` of an object, or its name if it has no namespace."""
    meta = item["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


class Watch:
    """The objects at ``path``; ``report`` is called with each error, and with an empty text on success."""

    def __init__(
        self, api: Api, path: str, report: Callable[[str], object], stopped: threading.Event | None = None
    ) -> None:
        self._api, self._path, self._report = api, path, report
        self._stopped = stopped or threading.Event()
        self._objects: dict[str, dict[str, Any]] = {}

    def follow(self) -> Iterator[Objects]:
        """Yield all objects by key, after the list and after each change; never incomplete.

        If the API is unreachable, the last objects stay valid. Ends when ``stopped`` is set.
        """
        version, delay, failed = "", _MIN_DELAY, True
        while not self._stopped.is_set():
            received = False
            try:
                if not version:
                    version = self._list()
                    self._report("")
                    yield dict(self._objects)
                for event in self._api.stream(self._query(version), READ_TIMEOUT):
                    if failed:
                        self._report("")
                    received, failed, delay = True, False, _MIN_DELAY
                    version, changed = self._apply(event, version)
                    if changed:
                        yield dict(self._objects)
                if received:
                    continue  # The server ends each watch.
            except KubernetesError as error:
                # List again: the version has expired (410), or the list renews the credentials (401).
                version = "" if error.status else version
                if error.status != GONE:
                    failed = True
                    self._report(str(error))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                version, failed = "", True
                self._report(f"watch {self._path}: invalid response: {error!r}")
            self._stopped.wait(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, _MAX_DELAY)

    def _query(self, version: str) -> str:
        options = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        return f"{self._path}{'&' if '?' in self._path else '?'}{urllib.parse.urlencode(options)}"

    def _list(self) -> str:
        """Replace the objects by those of the server; return their resource version."""
        found = self._api.request("GET", self._path)
        self._objects = {key_of(item): item for item in found.get("items") or ()}
        return str(found["metadata"]["resourceVersion"])

    def _apply(self, event: Mapping[str, Any], version: str) -> tuple[str, bool]:
        """Apply one event; return the resource version after it, and whether an object changed."""
        kind, item = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            raise KubernetesError(f"watch {self._path}: {item.get('message')}", int(item.get("code") or 500))
        version = str((item.get("metadata") or {}).get("resourceVersion") or version)
        if kind == "BOOKMARK":
            return version, False
        if kind == "DELETED":
            self._objects.pop(key_of(item), None)
        else:
            self._objects[key_of(item)] = item
        return version, True
