# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Follow Pods, policies and services of the Kubernetes API, and pass them to the datapath.

Nothing is passed before all objects are known, because a part of the policies would be a wrong policy. While
the API is unreachable, the last state stays in force.
"""

from __future__ import annotations

import functools
import json
import logging
import queue
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._cluster import objects
from .._cluster.objects import parse_address
from .._cluster.policies import Unenforced
from .._cluster.state import KINDS, Changes, ClusterState, Update, reduce
from .._core.files import replace_file
from .._core.plan import Problem
from .._datapath.host_ports import parse_host_ports, taken_places
from .._datapath.model import Address
from .._datapath.store import Store, stored
from .._kernel.routes import local_addresses
from .._ops.kubernetes import Access, Api, KubernetesError
from .._ops.watch import OVERLOADED, Watch
from .attachments import Attachment
from .config import OWNER, Config
from .events import EventWriter
from .health_ports import HealthPorts
from .protocol import FAILED, TRY_AGAIN, CniError
from .warning_file import Warnings
from .worker import Worker

COALESCE = 0.02  # seconds in which changes are combined
RETRY = 5.0  # seconds after which changes that the datapath rejected are repeated
HEALTH_TIMEOUT = 60.0  # seconds of failures until health ports report the node, as in kube-proxy
LISTS_TIMEOUT = 20.0  # seconds that an ADD waits for the first lists
_POLICY_KINDS = ("namespaces", "pods", "networkpolicies")
_SERVICE_KINDS = ("services", "endpointslices")

log = logging.getLogger("podnet-agent")


class ClusterWatch:
    """Keeps the datapath's Pods, policies and services those of the cluster."""

    def __init__(self, config: Config, access: Access, worker: Worker, warnings: Warnings, file: str) -> None:
        """``file`` is where ``podnet-datapath status`` reads a summary."""
        self._node, self._worker, self._warnings, self._file = config.node, worker, warnings, file
        self._access = access
        self._api = Api(access)
        self._events = EventWriter(Api(access))
        self._kinds = [
            "nodes",
            *(_POLICY_KINDS if config.network_policies else ()),
            # Beside kube-proxy too, as egress policies are about the Pods behind the addresses of services.
            *_SERVICE_KINDS,
        ]
        self._errors: dict[str, str] = {}
        self._errors_lock = threading.Lock()
        self._missing = set(self._kinds)  # whose objects are not known yet
        self._queue: queue.SimpleQueue[tuple[str, Changes]] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the state
        self._state = ClusterState(config.node, external_addresses=config.kube_proxy == "replace")
        self._synced = threading.Event()
        self._stopped = threading.Event()
        self._watches = {kind: self._watch_of(kind) for kind in self._kinds}
        self._failed_since: float | None = None  # when the datapath rejected an update first
        self._rejected: Sequence[str] = ()
        self._health_ports = HealthPorts(self.is_healthy)
        self.unenforced = 0

    def run(self) -> None:
        """Follow the objects until ``stop`` is called."""
        self._events.start()
        for kind in self._kinds:
            threading.Thread(target=self._follow, args=(kind,), name=kind, daemon=True).start()
        while True:
            changes = self._next_changes()
            if self._stopped.is_set():
                self._health_ports.stop()
                return
            with self._lock:
                try:
                    self._apply(changes)
                except Exception:  # Later changes must be passed on nevertheless.
                    log.exception("cannot update policies and services, which is repeated")
                    self._set_failed()

    def _apply(self, changes: Sequence[tuple[str, Changes]]) -> None:
        for kind, some in changes:
            self._missing.discard(kind)
            self._state.apply(kind, some)
        if not self._missing:
            if not self._synced.is_set():
                self._state.api = _resolve(self._access.server)
            self._pass_on()

    def stop(self) -> None:
        """Pass nothing on any more."""
        self._stopped.set()
        self._queue.put(("nodes", {}))

    @property
    def problem(self) -> str:
        """Why policies and services are not known yet, empty if they are, or become known now."""
        return "" if self._synced.is_set() else next(iter(self.errors()), "")

    def is_synced(self) -> bool:
        """Return whether the datapath has the objects."""
        return self._synced.is_set()

    def is_healthy(self) -> bool:
        """Return whether load balancers may use the node: a short failure must not end its connections."""
        since = self._failed_since
        return since is None or time.monotonic() - since < HEALTH_TIMEOUT

    def _set_failed(self) -> None:
        if self._failed_since is None:
            self._failed_since = time.monotonic()

    def gauges(self) -> dict[str, float]:
        """Return metrics by name."""
        counts = {f"cluster_{kind}": float(count) for kind, count in self._counts().items()}
        return {
            **counts,
            "cluster_unenforced_objects": self.unenforced,
            "cluster_synced": self.is_synced(),
            "cluster_interrupted_watches": len(self.errors()),
            "cluster_update_failed": self._failed_since is not None,
        }

    def _counts(self) -> dict[str, int]:
        """Return the number of objects by kind, of those that the datapath uses."""
        kinds = {"pods": "pods", "policies": "networkpolicies", "services": "services"}
        return {name: count for name, count in self._state.counts().items() if kinds[name] in self._kinds}

    # Watches

    def _watch_of(self, kind: str) -> Watch[Any]:
        path = KINDS[kind]
        if kind == "nodes":
            path += "?" + urllib.parse.urlencode({"fieldSelector": f"metadata.name={self._node}"})
        return Watch(
            Api(self._access),
            path,
            functools.partial(reduce, kind, own_node=self._node),
            functools.partial(self._report, kind),
            self._stopped,
        )

    def _follow(self, kind: str) -> None:
        for changes in self._watches[kind].follow():
            self._queue.put((kind, changes))

    def _report(self, kind: str, error: str) -> None:
        with self._errors_lock:
            if error and error != self._errors.get(kind):
                log.warning("%s: %s", kind, error)
            self._errors = {**self._errors, kind: error}
            self._warnings.set("cluster watch", self.errors())

    def errors(self) -> list[str]:
        """Return why kinds of objects cannot be read now."""
        return [f"{kind} cannot be read: {one}" for kind, one in sorted(self._errors.items()) if one]

    def _next_changes(self) -> list[tuple[str, Changes]]:
        """Wait for changes; return those that arrive within a short time, none to repeat what failed.

        What an ADD has passed on may fail as well, at any time.
        """
        found = []
        try:
            found.append(self._queue.get(timeout=RETRY))
            until = time.monotonic() + COALESCE
            while True:
                found.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
        except queue.Empty:
            return found

    # Datapath

    def _pass_on(self) -> None:
        """Pass what has changed to the datapath; callers hold the lock."""
        update = self._state.take()
        if self._failed_since is not None or not self._synced.is_set():
            update = Update(everything=True)
        if not update:
            return
        former = self._rejected
        try:
            if update.everything:
                state = self._state
                self._rejected = self._worker.set_cluster(state.pods, state.policies, state.services)
            else:
                self._rejected = self._worker.update_pods(update.pods)
        except (Problem, OSError) as error:
            if self._failed_since is None:
                log.error("cannot update policies and services, which is repeated: %s", error)
            self._warnings.set("cluster", [f"policies and services are not up to date: {error}"])
            self._set_failed()
            return
        except Exception:
            self._set_failed()  # ``take`` returns the update only once.
            raise
        if not self._synced.is_set():
            log.info("synchronized with the cluster: %s", _shown(self._counts()))
        self._failed_since = None
        self._synced.set()
        self._summarize(update.everything or self._rejected != former)

    def _summarize(self, changed: bool) -> None:
        """Report what cannot be enforced if it may have ``changed``, and write the summary."""
        if changed:
            found = [
                *self._state.unenforced,
                *map(self._state.unenforced_of, self._rejected),
                *self._health_ports.set(self._state.health_checks),
            ]
            self._events.set(one for one in found if one.uid and one.namespace)
            lines = [f"{one.kind} {f'{one.namespace}/{one.name}'.strip('/')}: {one.message}" for one in found]
            self.unenforced = len({(one.kind, one.namespace, one.name) for one in found})
            more = [f"... and {len(lines) - 10} more"] if len(lines) > 10 else []
            self._warnings.set("cluster", [*lines[:10], *more])
        summary = {**self._counts(), "changed": time.time()}
        try:
            replace_file(self._file, json.dumps(summary).encode(), 0o600, sync=False)
        except OSError as error:
            log.warning("%s: %s", self._file, error)

    # ADD

    def require_pod(self, name: str, uid: str) -> str:
        """Return the UID of a Pod, of which the datapath knows the labels afterwards. Raises ``CniError``.

        ``name`` is ``namespace/name``, ``uid`` that of the runtime if it passes one.
        """
        if "pods" not in self._kinds:
            return uid
        if not self._synced.wait(LISTS_TIMEOUT):
            raise CniError(TRY_AGAIN, self.problem or "the Kubernetes API has not sent all objects yet")
        with self._lock:
            known = self._state.uid_of(name)
        interrupted = any(self._errors.get(kind) for kind in _POLICY_KINDS)
        if known and uid in ("", known) and not interrupted:
            return known
        try:
            return self._read_pod(name, uid, interrupted)
        except KubernetesError as error:
            # An API that does not respond cannot have changed anything either.
            if known and uid in ("", known) and error.status in OVERLOADED:
                return known
            raise CniError(TRY_AGAIN, str(error)) from error

    def require_host_ports(self, host_ports: Sequence[Mapping[str, Any]]) -> None:
        """Raise ``CniError`` if a host port is that of an API server, which the agent and others need."""
        if not host_ports:
            return
        with self._lock:
            servers = self._state.api_servers()
        for address, port in sorted(taken_places(parse_host_ports(host_ports), servers, local_addresses())):
            raise CniError(
                FAILED,
                f"hostPort {port}/tcp: {address} port {port} is that of the Kubernetes API; choose another"
                " hostPort",
            )

    def _read_pod(self, key: str, uid: str, with_policies: bool) -> str:
        """Read a Pod that the watch does not know yet, and its namespace.

        ``with_policies`` if watches are interrupted, and may not know the namespace's latest policies either.
        Raises ``CniError`` if the API has no such Pod, and ``KubernetesError``.
        """
        namespace, _slash, name = key.partition("/")
        quoted = urllib.parse.quote(namespace, safe="")
        path = f"{KINDS['namespaces']}/{quoted}"
        pod = self._api.request("GET", f"{path}/pods/{urllib.parse.quote(name, safe='')}")
        known = objects.uid_of(pod)
        if uid not in ("", known):
            raise CniError(TRY_AGAIN, f"the Kubernetes API has another Pod {key}, with the UID {known}")
        reduced = reduce("pods", pod, self._node)
        if isinstance(reduced, Unenforced):
            raise CniError(FAILED, f"Pod {key}: {reduced.message}")
        if reduced is None:
            raise CniError(
                TRY_AGAIN,
                f"the Kubernetes API has no running Pod {key} on {self._node}; set cni_node if this node's"
                " Node object has another name",
            )
        labels = reduce("namespaces", self._api.request("GET", path))
        policies: list[Any] = []
        if with_policies:
            group, _slash, kind = KINDS["networkpolicies"].rpartition("/")
            found = self._api.request("GET", f"{group}/namespaces/{quoted}/{kind}")
            policies = list(map(objects.network_policy, found.get("items") or ()))
        with self._lock:
            read: dict[str, Changes] = {"namespaces": {namespace: labels}, "pods": {key: reduced}}
            if with_policies:
                read["networkpolicies"] = self._state.differing_policies(namespace, policies)
            for kind, changes in read.items():
                self._watches[kind].set_read(changes)
                self._state.apply(kind, changes)
            self._pass_on()
        return known


def store_uids(pin_path: str, attachments: Iterable[Attachment]) -> None:
    """Add the UIDs to Pods that an agent created which did not know policies: else they would be denied."""
    uids = {one.name: one.pod_uid for one in attachments}
    store = Store(pin_path)
    with store.locked():
        record = store.read().get(OWNER)
        endpoints = record.options.get("endpoints") or () if record else ()
        if record and any(uids.get(one["name"]) and not one.get("uid") for one in endpoints):
            new = [{**one, "uid": one.get("uid") or uids.get(one["name"], "")} for one in endpoints]
            store.write(OWNER, replace(record, options=stored({**record.options, "endpoints": new})))


def _resolve(server: str) -> set[tuple[Address, int]]:
    """Return the addresses of a URL's host, each with the port; none if the name does not resolve."""
    url = urllib.parse.urlsplit(server)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(url.hostname, port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    addresses = (parse_address(one[4][0]) for one in found)
    return {(one, port) for one in addresses if one}


def _shown(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
