# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Follow all objects of one kind in the Kubernetes API by list and watch.

Source: kubernetes.io/docs, "Kubernetes API Concepts", Efficient detection of changes, Retrieving large
results sets in chunks.
"""

from __future__ import annotations

import random
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Optional, TypeVar

from .kubernetes import Api, KubernetesError

WATCH_SECONDS = 300  # shortest watch; the longest takes twice as long: nodes reconnect at different times
READ_TIMEOUT = 150.0  # seconds without data, also bookmarks, after which a connection is considered dead
PAGE = 250  # objects of a list that are in memory in full at the same time
GONE = 410  # HTTP status: the server no longer has the resource version
OVERLOADED = (0, 429, 502, 503, 504)  # no connection, and HTTP statuses after which the version stays valid
MIN_DELAY, MAX_DELAY = 1.0, 30.0  # seconds between attempts

T = TypeVar("T")
Reduce = Callable[["dict[str, Any]"], Optional[T]]


def key_of(item: Mapping[str, Any]) -> str:
    """Return ``namespace/name`` of an object, or its name if it has no namespace."""
    meta = item["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


class Watch(Generic[T]):
    """The objects at ``path``, each reduced to what the caller needs, so that a large cluster fits in memory.

    ``reduce`` returns None for objects that the caller ignores. If it raises an exception, the objects are
    listed again. ``report`` is called with each error, and with an empty text on success.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        reduce: Reduce[T],
        report: Callable[[str], object],
        stopped: threading.Event | None = None,
    ) -> None:
        self._api, self._path, self._reduce, self._report = api, path, reduce, report
        self._stopped = stopped or threading.Event()
        self._objects: dict[str, T] = {}
        self._read: set[str] = set()  # keys of objects of which the caller may know another version

    def set_read(self, keys: Iterable[str]) -> None:
        """Record that the caller is about to use versions of objects that it has read from the API itself.

        Changes between such a version and the next list may have no event, so that list yields the objects
        in any case.
        """
        self._read.update(keys)

    def follow(self) -> Iterator[dict[str, T | None]]:
        """Yield what has changed by key, None for an object that no longer exists.

        The first result has all objects, and may be empty. If the server has forgotten the changes since the
        last event, the objects are listed again, and only the differences are yielded. If the API is
        unreachable, the last objects stay valid. Raises nothing, and ends when ``stopped`` is set.
        """
        version, delay, listed, failed = "", MIN_DELAY, False, True
        while not self._stopped.is_set():
            received, began = False, time.monotonic()
            try:
                if not version:
                    version, changes = self._list()
                    self._report("")
                    if changes or not listed:
                        listed = True
                        yield changes
                for event in self._api.stream(self._query(version), READ_TIMEOUT):
                    if failed:
                        self._report("")
                    received, failed, delay = True, False, MIN_DELAY
                    version, changes = self._apply(event, version)
                    if changes:
                        yield changes
                if received:
                    continue  # The server ends each watch.
            except KubernetesError as error:
                # List again if the version has expired (410); the list also renews the credentials (401).
                version = version if error.status in OVERLOADED else ""
                if error.status != GONE:
                    failed = True
                    self._report(str(error))
            except Exception as error:  # Nothing that a server sends may end the watch.
                version, failed = "", True
                self._report(f"watch {self._path}: invalid response: {error!r}")
            # After etcd is restored from a backup, the server sends nothing before it reaches the version.
            if not received and time.monotonic() - began >= READ_TIMEOUT:
                version = ""
            self._stopped.wait(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, MAX_DELAY)

    def _query(self, version: str) -> str:
        return self._with_options(
            watch="1",
            allowWatchBookmarks="true",
            resourceVersion=version,
            timeoutSeconds=str(random.randint(WATCH_SECONDS, 2 * WATCH_SECONDS)),
        )

    def _with_options(self, **options: str) -> str:
        return f"{self._path}{'&' if '?' in self._path else '?'}{urllib.parse.urlencode(options)}"

    def _list(self) -> tuple[str, dict[str, T | None]]:
        """Replace the objects by those of the server; return their resource version, and the differences."""
        objects: dict[str, T] = {}
        options = {"limit": str(PAGE)}
        while True:
            page = self._api.request("GET", self._with_options(**options))
            for item in page.get("items") or ():
                reduced = self._reduce(item)
                if reduced is not None:
                    objects[key_of(item)] = reduced
            version = str(page["metadata"]["resourceVersion"])
            following = page["metadata"].get("continue")
            if not following:
                break
            options["continue"] = str(following)
        former = self._objects
        changes: dict[str, T | None] = {
            key: one for key, one in objects.items() if key not in former or former[key] != one
        }
        changes.update(dict.fromkeys(former.keys() - objects.keys()))
        changes.update((key, objects.get(key)) for key in tuple(self._read))
        self._objects = objects
        return version, changes

    def _apply(self, event: Mapping[str, Any], version: str) -> tuple[str, dict[str, T | None]]:
        """Apply one event; return the resource version after it, and the object that has changed."""
        kind, item = event.get("type"), event.get("object") or {}
        if kind == "ERROR":
            raise KubernetesError(f"watch {self._path}: {item.get('message')}", int(item.get("code") or 500))
        version = str((item.get("metadata") or {}).get("resourceVersion") or version)
        if kind == "BOOKMARK":
            return version, {}
        key = key_of(item)
        reduced = None if kind == "DELETED" else self._reduce(item)
        former = self._objects.get(key)
        if reduced is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = reduced
        if reduced == former:
            return version, {}
        self._read.discard(key)  # The caller uses this version from now on.
        return version, {key: reduced}
