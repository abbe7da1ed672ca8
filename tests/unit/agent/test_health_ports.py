# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load balancers learn from health ports whether a node has endpoints of a service."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._agent.health_ports import HealthPorts
from ansible_collections.podnet.datapath.plugins.module_utils._agent.http_server import _CLIENTS
from ansible_collections.podnet.datapath.plugins.module_utils._cluster.services import HealthCheck

LOOPBACK = {4: "127.0.0.1", 6: "::1"}


class Ports:
    """Health ports, and whether the datapath is up to date."""

    def __init__(self) -> None:
        self.healthy = True
        self.served = HealthPorts(lambda: self.healthy)


@pytest.fixture
def ports() -> Iterator[Ports]:
    found = Ports()
    yield found
    found.served.stop()


@pytest.fixture
def port() -> int:
    with socket.socket(socket.AF_INET6) as unused:
        unused.bind(("::", 0))
        return int(unused.getsockname()[1])


def check(endpoints: int) -> HealthCheck:
    return HealthCheck("x", "web", "uid", endpoints)


def get(version: int, port: int) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection(LOOPBACK[version], port, timeout=10)
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, json.loads(response.read()), dict(response.headers)
    finally:
        connection.close()


@pytest.mark.parametrize("version", (4, 6))
@pytest.mark.parametrize(
    ("endpoints", "healthy", "status"), ((2, True, 200), (0, True, 503), (2, False, 503))
)
def test_response(ports: Ports, port: int, version: int, endpoints: int, healthy: bool, status: int) -> None:
    ports.healthy = healthy
    assert not ports.served.set({(version, port): check(endpoints)})
    found, body, headers = get(version, port)
    assert found == status
    assert body == {
        "service": {"namespace": "x", "name": "web"},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": healthy,
    }
    assert headers["X-Load-Balancing-Endpoint-Weight"] == str(endpoints)


def test_changes(ports: Ports, port: int) -> None:
    both = {(4, port): check(0), (6, port): check(1)}
    assert not ports.served.set(both)
    assert (get(4, port)[0], get(6, port)[0]) == (503, 200)
    assert not ports.served.set({(4, port): check(1)})
    assert get(4, port)[0] == 200
    with pytest.raises(ConnectionRefusedError):
        get(6, port)
    assert not ports.served.set({})
    assert not ports.served.set(both)
    assert (get(4, port)[0], get(6, port)[0]) == (503, 200)


def test_a_port_that_is_used(ports: Ports) -> None:
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        used = other.getsockname()[1]
        (problem,) = ports.served.set({(4, used): check(1)})
    assert (problem.kind, problem.namespace, problem.name, problem.uid) == ("Service", "x", "web", "uid")
    assert f"healthCheckNodePort {used} is not served for IPv4" in problem.message
    assert not ports.served.set({(4, used): check(1)})
    assert get(4, used)[0] == 200


def test_many_ports_and_clients_need_few_threads(ports: Ports) -> None:
    """A user who may create services, and hosts on the wire, cannot use all threads of the agent."""
    before = threading.active_count()
    with contextlib.ExitStack() as open_:
        unused = [open_.enter_context(socket.create_server(("", 0))) for _number in range(100)]
        found = [one.getsockname()[1] for one in unused]
    assert not ports.served.set({(4, port): check(1) for port in found})
    with contextlib.ExitStack() as open_:
        for port in found[: _CLIENTS + 2]:
            open_.enter_context(socket.create_connection((LOOPBACK[4], port), timeout=10))
        assert [get(4, port)[0] for port in (found[0], found[-1])] == [200, 200]
        assert threading.active_count() - before <= _CLIENTS + 1


def test_slow_clients_are_displaced(ports: Ports, port: int) -> None:
    """They cannot make a load balancer consider the node unhealthy."""
    assert not ports.served.set({(4, port): check(1)})
    slow = [socket.create_connection((LOOPBACK[4], port), timeout=10) for _number in range(_CLIENTS + 1)]
    assert slow[0].recv(1) == b""
    assert get(4, port)[0] == 200
    slow[-1].send(b"GET / HTTP/1.0\r\n\r\n")
    assert slow[-1].recv(12) == b"HTTP/1.0 200"
    for one in slow:
        one.close()
