# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health ports of services, by which load balancers find the nodes that have endpoints.

Source: Kubernetes, pkg/proxy/healthcheck/service_health.go.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from .._cluster.policies import Unenforced
from .._cluster.services import HealthCheck
from .http_server import HttpServer, HttpServers, Response

_ANY = {4: "0.0.0.0", 6: "::"}
Place = tuple[int, int]  # IP version and port


class HealthPorts:
    """Serves the health ports of services on all addresses of the node."""

    def __init__(self, is_healthy: Callable[[], bool]) -> None:
        """``is_healthy`` returns whether the datapath has the cluster's services."""
        self._is_healthy = is_healthy
        self._checks: Mapping[Place, HealthCheck] = {}
        self._all = HttpServers()
        self._servers: dict[Place, HttpServer] = {}

    def set(self, checks: Mapping[Place, HealthCheck]) -> list[Unenforced]:
        """Serve these and no others; return a problem for each port that cannot be served."""
        self._checks = dict(checks)
        for place in self._servers.keys() - checks.keys():
            self._all.remove(self._servers.pop(place))
        problems = []
        for place in sorted(checks.keys() - self._servers.keys()):
            version, port = place
            try:
                self._servers[place] = self._all.add(_ANY[version], port, self._respond(place))
            except OSError as error:
                one = checks[place]
                message = f"healthCheckNodePort {port} is not served for IPv{version}: {error}"
                problems.append(Unenforced("Service", one.namespace, one.name, one.uid, message))
        return problems

    def stop(self) -> None:
        """Serve none any more."""
        self.set({})

    def _respond(self, place: Place) -> Callable[[str], Response]:
        def respond(_path: str) -> Response:
            healthy = self._is_healthy()
            one = self._checks.get(place)
            count = one.endpoints if one else 0
            headers = {
                "Content-Type": "application/json",
                "X-Content-Type-Options": "nosniff",
                "X-Load-Balancing-Endpoint-Weight": str(count),
            }
            body = {
                "service": {"namespace": one.namespace, "name": one.name} if one else {},
                "localEndpoints": count,
                "serviceProxyHealthy": healthy,
            }
            return Response(200 if count and healthy else 503, json.dumps(body) + "\n", headers)

        return respond
