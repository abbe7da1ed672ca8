# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Counters of the agent, and the HTTP server for its health and Prometheus.

Source: Prometheus, "Exposition formats".
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping

from .http_server import HttpServers, Response
from .protocol import CniError

BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)  # seconds


class Metrics:
    """Requests by command, duration and error code."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._count: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._failed: Counter[tuple[str, int]] = Counter()

    def observe(self, command: str, seconds: float, error: CniError | None) -> None:
        """Count one request."""
        name = command or "invalid"
        with self._lock:
            self._count[name] += 1
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds
            for limit in BUCKETS:
                if seconds <= limit:
                    self._buckets[name, limit] += 1
            if error:
                self._failed[name, error.code] += 1

    def text(self, gauges: Mapping[str, float]) -> str:
        """Return everything in Prometheus' text format; ``gauges`` are by name without prefix."""
        lines = [
            "# HELP podnet_cni_request_duration_seconds Duration of CNI requests.",
            "# TYPE podnet_cni_request_duration_seconds histogram",
        ]
        with self._lock:
            for name, count in sorted(self._count.items()):
                metric = "podnet_cni_request_duration_seconds"
                for limit in BUCKETS:
                    value = self._buckets[name, limit]
                    lines.append(f'{metric}_bucket{{command="{name}",le="{limit}"}} {value}')
                lines.append(f'{metric}_bucket{{command="{name}",le="+Inf"}} {count}')
                lines.append(f'{metric}_sum{{command="{name}"}} {self._seconds[name]:.6f}')
                lines.append(f'{metric}_count{{command="{name}"}} {count}')
            lines.append("# HELP podnet_cni_failures_total Failed CNI requests by error code.")
            lines.append("# TYPE podnet_cni_failures_total counter")
            for (name, code), count in sorted(self._failed.items()):
                lines.append(f'podnet_cni_failures_total{{command="{name}",code="{code}"}} {count}')
        for name, gauge in gauges.items():
            lines += [f"# TYPE podnet_{name} gauge", f"podnet_{name} {gauge:g}"]
        return "\n".join(lines) + "\n"


def serve(address: str, port: int, health: Callable[[], str], metrics: Callable[[], str]) -> None:
    """Serve /healthz and /metrics in a thread; ``health`` returns a problem, empty if there is none.

    Raises ``OSError``.
    """

    def respond(path: str) -> Response:
        if path == "/healthz":
            problem = health()
            return Response(503 if problem else 200, (problem or "ok") + "\n")
        if path == "/metrics":
            return Response(200, metrics())
        return Response(404, "use /healthz or /metrics\n")

    HttpServers().add(address, port, respond)
