# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that changes devices and maps.

It combines the Pods that wait for it, because a commit costs the same for one Pod and for many.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Union

from .._core.plan import Problem
from .._datapath.model import Pod, Policy, Service
from .._kernel.rtnl import NextHop
from .._pods.api import PodSpec
from .._pods.model import Route
from .._pods.single import CreatedPod, SinglePods

_BATCH = 16  # Pods, so that the first of many does not wait for all


@dataclass
class _Create:
    pod: PodSpec
    done: Future[CreatedPod] = field(default_factory=Future)


@dataclass
class _Call:
    function: Callable[[], Any]
    done: Future[Any] = field(default_factory=Future)


_Job = Union[_Create, _Call, None]


class Worker:
    """Executes changes of Pods in one thread, in the order of the calls."""

    def __init__(self, pods: SinglePods, sysctls: Mapping[str, str]) -> None:
        self._pods, self._sysctls = pods, sysctls
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the waiting jobs and end the thread."""
        self._jobs.put(None)
        self._thread.join()
        self._pods.close()

    def __len__(self) -> int:
        """Return the number of waiting jobs."""
        return self._jobs.qsize()

    def create(self, pod: PodSpec) -> CreatedPod:
        """Create a Pod. Raises ``Problem``; then nothing of it is left."""
        job = _Create(pod)
        self._jobs.put(job)
        return job.done.result()

    def remove(self, names: Sequence[str]) -> None:
        """Remove Pods, which need not exist. Raises ``Problem``."""
        self._call(lambda: self._pods.remove(names))

    def repair(self, pod: PodSpec) -> None:
        """Create a Pod again. Raises ``Problem``."""
        self._call(lambda: self._pods.repair(pod, self._sysctls))

    def complete_entries(self) -> None:
        """Complete the map entries if an agent was killed while it wrote them. Raises ``Problem``."""
        self._call(self._pods.complete_entries)

    def update_node(self) -> None:
        """Write what depends on addresses of the node again if they have changed. Raises ``Problem``."""
        self._call(self._pods.update_node)

    def differences(self, pod: PodSpec) -> list[str]:
        """Return how an existing Pod differs from its spec."""
        found: list[str] = self._call(lambda: self._pods.differences(pod))
        return found

    def existing(self) -> dict[str, bool]:
        """Return the names of Pods that have a device or map entries, and whether they are complete."""
        found: dict[str, bool] = self._call(self._pods.existing)
        return found

    def next_hop(self, address: str) -> NextHop | None:
        """Return the next hop of the node's route to an address."""
        found: NextHop | None = self._call(lambda: self._pods.next_hop(address))
        return found

    def set_routes(self, routes: frozenset[Route]) -> None:
        """Replace the agent's routes of the host. Raises ``Problem``."""
        self._call(lambda: self._pods.set_routes(routes))

    def set_cluster(
        self, pods: Mapping[str, Pod], policies: Sequence[Policy], services: Sequence[Service]
    ) -> list[str]:
        """Replace all that the API declares; return what cannot be enforced. Raises ``Problem``."""
        found: list[str] = self._call(lambda: self._pods.set_cluster(pods, policies, services))
        return found

    def update_pods(self, changes: Mapping[str, Pod | None]) -> list[str]:
        """Change single Pods of the API; return what cannot be enforced. Raises ``Problem``."""
        found: list[str] = self._call(lambda: self._pods.update_pods(changes))
        return found

    def problem(self) -> str:
        """Return why Pods cannot be created on this node, empty if they can."""
        found: str = self._call(self._pods.problem)
        return found

    def _call(self, function: Callable[[], Any]) -> Any:
        job = _Call(function)
        self._jobs.put(job)
        return job.done.result()

    def _run(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            # Wait for nothing: combine what is there.
            while isinstance(jobs[-1], _Create) and len(jobs) < _BATCH and not self._jobs.empty():
                jobs.append(self._jobs.get())
            self._create([job for job in jobs if isinstance(job, _Create)])
            last = jobs[-1]
            if last is None:
                return
            if isinstance(last, _Call):
                try:
                    last.done.set_result(last.function())
                except BaseException as error:
                    last.done.set_exception(error)

    def _create(self, jobs: Sequence[_Create]) -> None:
        if not jobs:
            return
        try:
            results = self._pods.create([job.pod for job in jobs], self._sysctls)
        except BaseException as error:
            for job in jobs:
                job.done.set_exception(error)
            return
        for job, result in zip(jobs, results):
            if isinstance(result, Problem):
                job.done.set_exception(result)
            else:
                job.done.set_result(result)
