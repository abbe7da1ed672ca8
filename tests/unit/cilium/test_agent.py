# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers of an agent: those of its releases, malformed ones, and none."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import agent

# Excerpts of the answers of 1.20.2.
HEALTH: dict[str, Any] = {
    "cilium": {"state": "Ok", "msg": "1.20.2 (v1.20.2-0123456)"},
    "datapath-mode": "netkit",
    "configured-datapath-mode": "netkit",
    "routing": {
        "intra-host-routing-mode": "BPF",
        "inter-host-routing-mode": "Native",
        "tunnel-protocol": "vxlan",
    },
    "kube-proxy-replacement": {"mode": "True", "devices": ["eth0"]},
    "ipv4-big-tcp": {"enabled": True, "maxGRO": 196608, "maxGSO": 196608},
    "ipv6-big-tcp": {},
    "bandwidth-manager": {"enabled": True, "congestionControl": "bbr", "devices": ["eth0"]},
}
CONFIG = {"status": {"daemonConfigurationMap": {"EnableIPv4": True, "EnableIPv6": False}}}
ENDPOINT = {
    "id": 5,
    "status": {
        "state": "ready",
        "external-identifiers": {"pod-name": "default/web", "container-id": "x"},
        "networking": {
            "interface-name": "lxc1",
            "container-interface-name": "eth0",
            "addressing": [{"ipv4": "10.0.0.1", "ipv6": "fd00::1"}],
        },
    },
}
HOST = {"id": 1, "status": {"state": "ready", "external-identifiers": {}, "networking": {}}}


def test_answers_of_1_20() -> None:
    found = agent.parse(HEALTH, CONFIG, [ENDPOINT, HOST])
    assert found["version"] == "1.20.2" and found["devices"] == ["eth0"]
    assert found["settings"] == {
        "host_routing": "bpf",
        "device_mode": "netkit",
        "big_tcp": "ipv4",
        "bbr": "enabled",
    }
    assert found["cluster"] == {
        "routing-mode": "native",
        "kube-proxy-replacement": "true",
        "enable-ipv4": "true",
        "enable-ipv6": "false",
    }
    (endpoint,) = found["endpoints"]
    assert (endpoint["namespace"], endpoint["name"], endpoint["device"]) == ("default", "web", "lxc1")
    assert endpoint["addresses"] == ["10.0.0.1", "fd00::1"]


def test_answers_of_1_15() -> None:
    """1.15 does not report routing, and neither kinds of devices nor Pods' names in the new form."""
    health = {
        "cilium": {"state": "Warning", "msg": "1.15.19 (v1.15.19-0123456)    1 unreachable peer"},
        "kube-proxy-replacement": {"mode": "Strict"},
    }
    options = {"EnableHostLegacyRouting": False, "RoutingMode": "tunnel", "DatapathMode": "veth"}
    names = {"k8s-namespace": "default", "k8s-pod-name": "web"}
    endpoint = {"id": 5, "status": {**ENDPOINT["status"], "external-identifiers": names}}  # type: ignore[dict-item]
    config = {"status": {"datapathMode": "veth", "daemonConfigurationMap": options}}
    found = agent.parse(health, config, [endpoint])
    assert found["version"] == "1.15.19"
    assert found["settings"] == {
        "host_routing": "bpf",
        "device_mode": "veth",
        "big_tcp": "disabled",
        "bbr": "disabled",
    }
    assert found["cluster"] == {"routing-mode": "tunnel", "kube-proxy-replacement": "true"}
    assert found["endpoints"][0]["name"] == "web"
    assert agent.differences(found, {"host_routing": "bpf"}) == []


def test_differences_name_setting_and_state() -> None:
    found = agent.parse({**HEALTH, "cilium": {"state": "Failure", "msg": "1.20.2    kvstore"}}, CONFIG, [])
    assert agent.differences(found, {"big_tcp": "enabled"}) == [
        "big_tcp is ipv4 instead of enabled",
        "the agent's state is Failure: 1.20.2    kvstore",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(health=JSON, config=JSON, endpoints=JSON)
def test_malformed_answers_are_reported(health: Any, config: Any, endpoints: Any) -> None:
    for given_answers in (
        (health, config, endpoints),
        (HEALTH, config, []),
        (health, CONFIG, []),
        (HEALTH, CONFIG, endpoints),
    ):
        with contextlib.suppress(agent.AgentError):
            agent.parse(*given_answers)


@contextlib.contextmanager
def server(path: Path, answer: bytes | None) -> Iterator[str]:
    """Answer each connection with these bytes; with ``None``, do not answer."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path / "s"))
    listener.listen()

    def work() -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                client.recv(65536)
                if answer is None:
                    time.sleep(2)
                else:
                    client.sendall(answer)
                client.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield str(path / "s")
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed connection without response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", "IncompleteRead|Expecting"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "Expecting property name"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nwhy?", "HTTP 500 why\\?"),
        (b"SSH-2.0\r\n", "SSH-2.0|BadStatusLine"),
        (None, "timed out"),
    ],
)
def test_bad_server_is_reported(tmp_path: Path, answer: bytes | None, reason: str) -> None:
    with server(tmp_path, answer) as path, pytest.raises(agent.AgentError, match=reason):
        agent.get(path, "healthz", timeout=0.5)


def test_missing_agent_is_reported(tmp_path: Path) -> None:
    with pytest.raises(agent.AgentError, match=r"No such file.*set cilium_socket"):
        agent.wait(f"{tmp_path}/s", {}, 0)
    with pytest.raises(agent.AgentError, match="does not have the expected settings after 0 s"):
        agent.wait(f"{tmp_path}/s", {"bbr": "enabled"}, 0)


def test_agent_that_starts_late_is_awaited(tmp_path: Path) -> None:
    answers = {"/v1/healthz": HEALTH, "/v1/config": CONFIG, "/v1/endpoint": []}
    waited = []

    def start(_seconds: float) -> None:
        waited.append(1)
        if len(waited) > 1:
            return
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def work() -> None:
            for _request in answers:
                client = listener.accept()[0]
                path = client.recv(65536).split()[1].decode()
                body = json.dumps(answers[path]).encode()
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                client.close()
            listener.close()

        threading.Thread(target=work, daemon=True).start()

    found = agent.wait(f"{tmp_path}/s", {"device_mode": "netkit"}, 30, sleep=start)
    assert found["state"] == "Ok" and waited == [1]


def test_endpoints_without_names_are_pods() -> None:
    """Agents of 1.20 report only the attachment of the plugin; their own endpoints have none."""
    addressing = [{"ipv4": "10.0.1.18", "ipv6": "fd00::18"}]
    status = {
        "external-identifiers": {"cni-attachment-id": "4770db:eth0"},
        "identity": {"labels": ["k8s:app=web", "k8s:io.kubernetes.pod.namespace=shop"]},
        "networking": {
            "interface-name": "lxc1",
            "container-interface-name": "eth0",
            "addressing": addressing,
        },
        "state": "ready",
    }
    own = {"id": 1, "status": {**status, "external-identifiers": {}}}
    (found,) = agent.parse({}, {"status": {}}, [own, {"id": 2, "status": status}])["endpoints"]
    assert (found["namespace"], found["name"], found["device"]) == ("shop", "", "lxc1")
    assert found["addresses"] == ["10.0.1.18", "fd00::18"]
