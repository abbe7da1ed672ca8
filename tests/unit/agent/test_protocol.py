# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests of the plugin are validated, and results have the format of their version."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._agent import protocol
from ansible_collections.podnet.datapath.plugins.module_utils._agent.protocol import Address, CniError

CONFIG: dict[str, Any] = {"cniVersion": "1.0.0", "name": "net", "ipam": {"type": "host-local"}}
VARIABLES = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "eth0",
}
POD = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0"


def encode(config: Any, **variables: str | None) -> bytes:
    """Return a request; a variable that is None is not set."""
    body = config if isinstance(config, bytes) else json.dumps(config).encode()
    merged = {**VARIABLES, **{f"CNI_{name}": value for name, value in variables.items()}}
    given = {name: value for name, value in merged.items() if value is not None}
    return b"".join(f"{name}={value}".encode() + b"\0" for name, value in given.items()) + b"\0" + body


def test_a_request_is_parsed() -> None:
    mappings = [
        {"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": ""},
        {"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "FD00:0::1"},
        {"hostPort": 9, "containerPort": 9, "protocol": "sctp", "hostIP": "0.0.0.0"},
        {"hostPort": 65535, "containerPort": 1},
    ]
    runtime = {"bandwidth": {"egressRate": 10_000_000}, "portMappings": mappings}
    request = protocol.parse_request(encode({**CONFIG, "runtimeConfig": runtime}, ARGS=POD))
    assert (request.command, request.container, request.interface) == ("ADD", "c1", "eth0")
    assert (request.pod, request.shown, request.network) == ("shop/web-0", "shop/web-0", "net")
    assert (request.egress_rate, request.ingress_rate) == (10_000_000, 0)
    assert request.host_ports == (
        {"port": 80, "target": 8080, "protocol": "tcp"},
        {"port": 53, "target": 53, "protocol": "udp", "address": "fd00::1"},
        {"port": 9, "target": 9, "protocol": "sctp", "address": "0.0.0.0"},
        {"port": 65535, "target": 1, "protocol": "tcp"},
    )


def test_names_of_containerd() -> None:
    """Its library has no names for JSON, and encodes those of Go."""
    runtime = {
        "bandwidth": {"IngressRate": 1, "IngressBurst": 2, "EgressRate": 10_000_000, "EgressBurst": 3},
        "portMappings": [{"HostPort": 80, "ContainerPort": 8080, "Protocol": "udp", "HostIP": "127.0.0.1"}],
    }
    request = protocol.parse_request(encode({**CONFIG, "runtimeConfig": runtime}))
    assert (request.egress_rate, request.ingress_rate) == (10_000_000, 1)
    assert request.host_ports == ({"port": 80, "target": 8080, "protocol": "udp", "address": "127.0.0.1"},)


@pytest.mark.parametrize("command", ["DEL", "CHECK"])
def test_a_container_whose_values_were_rejected_can_be_deleted(command: str) -> None:
    for value in RUNTIME.values():
        raw = encode({**CONFIG, "runtimeConfig": value}, COMMAND=command)
        assert protocol.parse_request(raw).command == command


def test_variables_may_contain_any_bytes_but_nul() -> None:
    request = protocol.parse_request(encode(CONFIG, NETNS="/run/netns/\u00fc=x\n"))
    assert request.netns == "/run/netns/\u00fc=x\n"


INVALID: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", protocol.IO_FAILURE, "truncated"),
    "no end of variables": (b"CNI_COMMAND=ADD\0", protocol.IO_FAILURE, "truncated"),
    "foreign variable": (b"PATH=/x\0\0{}", protocol.IO_FAILURE, "PATH"),
    "no equals": (b"CNI_COMMAND\0\0{}", protocol.IO_FAILURE, "CNI_COMMAND"),
    "no variables": (b"\0{}", protocol.INVALID_ENVIRONMENT, "CNI_COMMAND"),
    "unknown command": (encode(CONFIG, COMMAND="ATTACH"), protocol.INVALID_ENVIRONMENT, "ATTACH"),
    "no command": (encode(CONFIG, COMMAND=None), protocol.INVALID_ENVIRONMENT, "CNI_COMMAND"),
    "no JSON": (encode(b"{"), protocol.DECODING_FAILURE, "JSON"),
    "no body": (encode(b""), protocol.DECODING_FAILURE, "JSON"),
    "not UTF-8": (encode(b'{"name": "\xff"}'), protocol.DECODING_FAILURE, "JSON"),
    "deep": (encode(b"[" * 100_000), protocol.DECODING_FAILURE, "JSON"),
    "list": (encode([]), protocol.DECODING_FAILURE, "object"),
    "null": (encode(None), protocol.DECODING_FAILURE, "object"),
    "no version": (encode({"name": "net"}), protocol.INCOMPATIBLE_VERSION, "cniVersion"),
    "old version": (encode({**CONFIG, "cniVersion": "0.3.1"}), protocol.INCOMPATIBLE_VERSION, "0.3.1"),
    "new version": (encode({**CONFIG, "cniVersion": "2.0.0"}), protocol.INCOMPATIBLE_VERSION, "2.0.0"),
    "list as version": (encode({**CONFIG, "cniVersion": []}), protocol.INCOMPATIBLE_VERSION, "cniVersion"),
    "no name": (encode({"cniVersion": "1.0.0"}), protocol.INVALID_CONFIG, "name"),
    "path as name": (encode({**CONFIG, "name": "../x"}), protocol.INVALID_CONFIG, "name"),
    "number as name": (encode({**CONFIG, "name": 1}), protocol.INVALID_CONFIG, "name"),
    "ipam list": (encode({**CONFIG, "ipam": []}), protocol.INVALID_CONFIG, "ipam"),
    "ipam text": (encode({**CONFIG, "ipam": "x"}), protocol.INVALID_CONFIG, "ipam"),
    "ipam without type": (encode({**CONFIG, "ipam": {"a": 1}}), protocol.INVALID_CONFIG, "ipam.type"),
    "path as type": (encode({**CONFIG, "ipam": {"type": "../sh"}}), protocol.INVALID_CONFIG, "ipam.type"),
    "prevResult text": (encode({**CONFIG, "prevResult": "x"}), protocol.INVALID_CONFIG, "prevResult"),
    "runtimeConfig list": (
        encode({**CONFIG, "runtimeConfig": [1]}),
        protocol.INVALID_CONFIG,
        "runtimeConfig",
    ),
    "no container": (encode(CONFIG, CONTAINERID=None), protocol.INVALID_ENVIRONMENT, "CNI_CONTAINERID"),
    "path as container": (encode(CONFIG, CONTAINERID="../a"), protocol.INVALID_ENVIRONMENT, "CONTAINERID"),
    "long container": (encode(CONFIG, CONTAINERID="a" * 256), protocol.INVALID_ENVIRONMENT, "CONTAINERID"),
    "line break": (encode(CONFIG, CONTAINERID="a\n"), protocol.INVALID_ENVIRONMENT, "CONTAINERID"),
    "no interface": (encode(CONFIG, IFNAME=None), protocol.INVALID_ENVIRONMENT, "CNI_IFNAME"),
    "long interface": (encode(CONFIG, IFNAME="e" * 16), protocol.INVALID_ENVIRONMENT, "15 bytes"),
    "slash in interface": (encode(CONFIG, IFNAME="a/b"), protocol.INVALID_ENVIRONMENT, "CNI_IFNAME"),
    "lo": (encode(CONFIG, IFNAME="lo"), protocol.INVALID_ENVIRONMENT, "reserved"),
    "no namespace": (encode(CONFIG, NETNS=None), protocol.INVALID_ENVIRONMENT, "CNI_NETNS"),
    "relative namespace": (encode(CONFIG, NETNS="netns/c1"), protocol.INVALID_ENVIRONMENT, "absolute"),
    "arguments": (encode(CONFIG, ARGS="a;b=1"), protocol.INVALID_ENVIRONMENT, "CNI_ARGS"),
    "GC of 1.0.0": (encode(CONFIG, COMMAND="GC"), protocol.INVALID_ENVIRONMENT, "1.1.0"),
    "STATUS of 0.4.0": (
        encode({**CONFIG, "cniVersion": "0.4.0"}, COMMAND="STATUS"),
        protocol.INVALID_ENVIRONMENT,
        "1.1.0",
    ),
}
RUNTIME: dict[str, Any] = {
    "rate as text": {"bandwidth": {"egressRate": "10M"}},
    "negative rate": {"bandwidth": {"egressRate": -1}},
    "rate as bool": {"bandwidth": {"egressRate": True}},
    "part of a bit": {"bandwidth": {"ingressRate": 1.5}},
    "bandwidth list": {"bandwidth": []},
    "ports object": {"portMappings": {}},
    "ports of numbers": {"portMappings": [80]},
    **{
        f"{key} {value!r}": {"portMappings": [{"hostPort": 80, "containerPort": 80, key: value}]}
        for key, values in {
            "hostPort": (0, -1, 65536, 70000, "80", 80.0, True, None, []),
            "containerPort": (0, -1, 65536, "80", 80.5, False, None, {}),
            "protocol": ("", "icmp", "tcp4", 6, None, ["tcp"]),
            "hostIP": ("localhost", "10.0.0.256", "10.0.0.0/24", "fe80::1%eth0", " ", 0, 1, False, ["::1"]),
        }.items()
        for value in values
    },
    "no hostPort": {"portMappings": [{"containerPort": 80}]},
    "no containerPort": {"portMappings": [{"hostPort": 80}]},
    "SCTP to another port": {"portMappings": [{"hostPort": 80, "containerPort": 8080, "protocol": "sctp"}]},
}
GC: dict[str, Any] = {
    "no list": None,
    "object": {},
    "numbers": [1],
    "incomplete": [{"containerID": "a"}],
    "number as ID": [{"containerID": 1, "ifname": "eth0"}],
}
INVALID.update(
    {
        name: (encode({**CONFIG, "runtimeConfig": value}), protocol.INVALID_CONFIG, "runtimeConfig")
        for name, value in RUNTIME.items()
    }
)
INVALID.update(
    {
        f"GC {name}": (
            encode({**CONFIG, "cniVersion": "1.1.0", "cni.dev/valid-attachments": value}, COMMAND="GC"),
            protocol.INVALID_CONFIG,
            "valid-attachments",
        )
        for name, value in GC.items()
    }
)


@pytest.mark.parametrize("name", INVALID)
def test_invalid_requests_have_a_code_and_name_the_value(name: str) -> None:
    raw, code, part = INVALID[name]
    with pytest.raises(CniError) as caught:
        protocol.parse_request(raw)
    assert caught.value.code == code and part in str(caught.value)
    status, _newline, body = protocol.error_response(caught.value).partition(b"\n")
    assert status == b"1" and json.loads(body)["code"] == code


@given(st.binary(max_size=200))
def test_no_input_raises_another_error(raw: bytes) -> None:
    for given_bytes in (raw, encode(raw)):
        try:
            protocol.parse_request(given_bytes)
        except CniError as error:
            assert error.code


@pytest.mark.parametrize("version", protocol.VERSIONS)
def test_results_have_the_fields_of_their_version(version: str) -> None:
    interfaces = [{"name": "pn1", "mtu": 1500}, {"name": "eth0", "sandbox": "/run/netns/c1", "mtu": 1500}]
    addresses = [Address("10.0.0.2/32"), Address("fd00::2/128")]
    result = protocol.result_of(version, interfaces, addresses, [{"dst": "0.0.0.0/0"}], {})
    assert result["cniVersion"] == version
    assert [entry.get("version") for entry in result["ips"]] == (
        ["4", "6"] if version == "0.4.0" else [None, None]
    )
    assert all(("mtu" in one) == (version == "1.1.0") for one in result["interfaces"])
