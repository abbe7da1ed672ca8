# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Malformed requests to the running agent through the CNI plugin: code, message, and nothing left over."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cni.plugin import LIMIT, Build, Outcome, build_release, run, started
from tests.netns.bpf_node import Node
from tests.netns.test_agent import RANGES, Cni
from tests.support.namespaces import command

PLUGINS = "/usr/lib/cni"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build_release(tmp_path_factory.mktemp("plugin"))


@pytest.fixture(scope="module")
def cni(module_node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cni]:
    """Yield one agent for all tests of this file."""
    made = Cni(module_node, tmp_path_factory.mktemp("agent"))
    yield made
    made.agent.stop()


@pytest.fixture(autouse=True)
def _detached(plugin: Build, cni: Cni) -> Iterator[None]:
    """Detach the container after each test, so that a failure does not cause others."""
    yield
    call(plugin, cni, "DEL", cni.config, {})


ABSENT = object()


def check(outcome: Outcome, code: int, message: str) -> None:
    """Assert that the outcome is an error with ``code`` and a message of readable length."""
    assert (outcome.status, outcome.err) == (1, b""), outcome
    error = json.loads(outcome.out)
    assert len(error["msg"]) <= 1100
    assert error["code"] == code, error
    assert message in error["msg"]


@pytest.fixture
def special(cni: Cni, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return paths that are no namespaces of a container."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        yield {
            "fifo": str(tmp_path / "fifo"),
            "socket": str(tmp_path / "socket"),
            "node": f"/run/netns/{cni.node.name}",
        }


def without(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not ABSENT}


def call(
    plugin: Build, cni: Cni, command: str, config: dict[str, Any] | bytes, variables: dict[str, Any]
) -> Any:
    given = {"CONTAINERID": "c0", "NETNS": cni.container("c"), "IFNAME": "eth0", "PATH": PLUGINS, **variables}
    env = {f"CNI_{name}": value for name, value in without(given).items()}
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    return run(plugin, cni.agent.socket, command, data, env)


def host_port(**mapping: Any) -> dict[str, Any]:
    return {"runtimeConfig": {"portMappings": [without({"hostPort": 80, "containerPort": 80, **mapping})]}}


def bandwidth(rate: Any) -> dict[str, Any]:
    return {"runtimeConfig": {"bandwidth": {"egressRate": rate, "egressBurst": 1}}}


CONFIGURATIONS: dict[str, tuple[int, str, Any]] = {
    "empty": (6, "not valid JSON", b""),
    "space": (6, "not valid JSON", b" \n"),
    "text": (6, "not valid JSON", b"cniVersion: 1.0.0\n"),
    "truncated": (6, "not valid JSON", b'{"cniVersion":"1.0.0","name":"te'),
    "two objects": (6, "not valid JSON", b"{}{}"),
    "array": (6, "not a JSON object", b"[]"),
    "null": (6, "not a JSON object", b"null"),
    "string": (6, "not a JSON object", b'"{}"'),
    "not UTF-8": (6, "not valid JSON", b'{"name":"\xff"}'),
    "NULs": (6, "not valid JSON", b"\0\0\0\0"),
    "UTF-16": (6, "not valid JSON", '{"cniVersion":"1.0.0"}'.encode("utf-16")),
    "nested": (6, "not valid JSON", b"[" * 500_000),
    "nested objects": (6, "not valid JSON", b'{"a":' * 100_000),
    "long number": (6, "not valid JSON", b'{"a":' + b"9" * 100_000 + b"}"),
    "no cniVersion": (1, "cniVersion", {"cniVersion": ABSENT}),
    "old cniVersion": (1, "cniVersion: '0.3.1' is not supported", {"cniVersion": "0.3.1"}),
    "new cniVersion": (1, "cniVersion", {"cniVersion": "2.0.0"}),
    "number as cniVersion": (1, "cniVersion", {"cniVersion": 1.0}),
    "list as cniVersion": (1, "cniVersion", {"cniVersion": ["1.0.0"]}),
    "long cniVersion": (1, "cniVersion", {"cniVersion": "1" * 1_000_000}),
    "escapes in cniVersion": (1, "cniVersion", {"cniVersion": "\u0001" * 100_000}),
    "lone surrogate in cniVersion": (1, "cniVersion", {"cniVersion": "\ud800"}),
    "no name": (7, "name", {"name": ABSENT}),
    "empty name": (7, "name", {"name": ""}),
    "path as name": (7, "name", {"name": "../../etc"}),
    "number as name": (7, "name", {"name": 7}),
    "newline in name": (7, "name", {"name": "test\n"}),
    "long name": (7, "name", {"name": "x" * 1_000_000}),
    "no ipam": (7, "ipam: missing", {"ipam": ABSENT}),
    "empty ipam": (7, "ipam: missing", {"ipam": {}}),
    "list as ipam": (7, "ipam: must be an object", {"ipam": []}),
    "string as ipam": (7, "ipam: must be an object", {"ipam": "host-local"}),
    "ipam without type": (7, "ipam.type", {"ipam": {"ranges": RANGES}}),
    "path as ipam.type": (7, "ipam.type", {"ipam": {"type": "../../../bin/sh"}}),
    "number as ipam.type": (7, "ipam.type", {"ipam": {"type": 1}}),
    "unknown ipam.type": (7, "ipam.type: there is no plugin", {"ipam": {"type": "nonexistent"}}),
    "prevResult": (7, "first plugin", {"prevResult": {"ips": []}}),
    "list as prevResult": (7, "prevResult", {"prevResult": []}),
    "list as runtimeConfig": (7, "runtimeConfig", {"runtimeConfig": []}),
    "number as bandwidth": (7, "bandwidth", {"runtimeConfig": {"bandwidth": 1}}),
    "negative rate": (7, "egressRate", bandwidth(-1)),
    "text as rate": (7, "egressRate", bandwidth("10M")),
    "boolean rate": (7, "egressRate", bandwidth(True)),
    "infinite rate": (7, "egressRate", bandwidth(float("inf"))),
    "rate that is no number": (7, "egressRate", bandwidth(float("nan"))),
    "fractional rate": (7, "egressRate", bandwidth(0.5)),
    "overflowing rate": (
        7,
        "egressRate",
        b'{"cniVersion":"1.0.0","name":"x","runtimeConfig":{"bandwidth":{"egressRate":1e999}}}',
    ),
    "excessive rate": (100, "rate: ", bandwidth(1e300)),
    "object as portMappings": (7, "portMappings", {"runtimeConfig": {"portMappings": {}}}),
    "number in portMappings": (7, "portMappings", {"runtimeConfig": {"portMappings": [80]}}),
    "no hostPort": (7, "portMappings[0]: hostPort: None is not a port", host_port(hostPort=ABSENT)),
    "hostPort 0": (7, "hostPort: 0 is not a port", host_port(hostPort=0)),
    "hostPort 70000": (7, "hostPort: 70000 is not a port", host_port(hostPort=70000)),
    "text as hostPort": (7, "hostPort: '80' is not a port", host_port(hostPort="80")),
    "containerPort -1": (7, "containerPort: -1 is not a port", host_port(containerPort=-1)),
    "boolean containerPort": (7, "containerPort: True is not a port", host_port(containerPort=True)),
    "unknown protocol": (7, "protocol: 'icmp' is not one of tcp, udp, sctp", host_port(protocol="icmp")),
    "number as protocol": (7, "protocol: 6 is not one of", host_port(protocol=6)),
    "SCTP to another port": (7, "as SCTP requires", host_port(protocol="sctp", containerPort=81)),
    "name as hostIP": (7, "hostIP: 'localhost' is not an IPv4 or IPv6", host_port(hostIP="localhost")),
    "network as hostIP": (7, "hostIP: '10.0.0.0/8' is not an IPv4", host_port(hostIP="10.0.0.0/8")),
    "number as hostIP": (7, "hostIP: 1 is not an IPv4", host_port(hostIP=1)),
    "long hostIP": (7, "hostIP", host_port(hostIP="1" * 500_000)),
}


LONG = "x" * 16_000
VARIABLES: dict[str, tuple[int, str, str, dict[str, Any]]] = {
    "no container": (4, "CNI_CONTAINERID", "ADD", {"CONTAINERID": ABSENT}),
    "empty container": (4, "CNI_CONTAINERID", "ADD", {"CONTAINERID": ""}),
    "path as container": (4, "CNI_CONTAINERID", "ADD", {"CONTAINERID": "../../etc"}),
    "space in container": (4, "CNI_CONTAINERID", "ADD", {"CONTAINERID": "c 0"}),
    "newline in container": (4, "CNI_CONTAINERID", "ADD", {"CONTAINERID": "c0\n"}),
    "long container": (4, "CNI_CONTAINERID", "ADD", {"CONTAINERID": LONG}),
    "container not UTF-8": (
        4,
        "CNI_CONTAINERID: c\\xff is not valid UTF-8",
        "ADD",
        {"CONTAINERID": b"c\xff"},
    ),
    "no interface": (4, "CNI_IFNAME", "ADD", {"IFNAME": ABSENT}),
    "empty interface": (4, "CNI_IFNAME", "ADD", {"IFNAME": ""}),
    "dot as interface": (4, "CNI_IFNAME", "ADD", {"IFNAME": "."}),
    "dots as interface": (4, "CNI_IFNAME", "ADD", {"IFNAME": ".."}),
    "loopback": (4, "CNI_IFNAME", "ADD", {"IFNAME": "lo"}),
    "slash in interface": (4, "CNI_IFNAME", "ADD", {"IFNAME": "a/b"}),
    "colon in interface": (4, "CNI_IFNAME", "ADD", {"IFNAME": "a:b"}),
    "format in interface": (4, "CNI_IFNAME", "ADD", {"IFNAME": "eth%d"}),
    "tab in interface": (4, "CNI_IFNAME", "ADD", {"IFNAME": "a\tb"}),
    "long interface": (4, "CNI_IFNAME", "ADD", {"IFNAME": "x" * 16}),
    "interface not UTF-8": (4, "CNI_IFNAME", "ADD", {"IFNAME": b"e\xff"}),
    "no namespace": (4, "CNI_NETNS", "ADD", {"NETNS": ABSENT}),
    "empty namespace": (4, "CNI_NETNS", "ADD", {"NETNS": ""}),
    "relative namespace": (4, "CNI_NETNS", "ADD", {"NETNS": "run/netns/x"}),
    "missing namespace": (3, "CNI_NETNS", "ADD", {"NETNS": "/run/netns/missing"}),
    "file as namespace": (3, "CNI_NETNS", "ADD", {"NETNS": "/etc/passwd"}),
    "directory as namespace": (3, "CNI_NETNS", "ADD", {"NETNS": "/"}),
    "device as namespace": (3, "CNI_NETNS", "ADD", {"NETNS": "/dev/null"}),
    "FIFO as namespace": (3, "CNI_NETNS", "ADD", {"NETNS": "{fifo}"}),
    "socket as namespace": (3, "CNI_NETNS", "ADD", {"NETNS": "{socket}"}),
    "mount namespace": (3, "CNI_NETNS", "ADD", {"NETNS": "/proc/self/ns/mnt"}),
    "long namespace": (3, "CNI_NETNS", "ADD", {"NETNS": "/" + LONG}),
    "namespace not UTF-8": (4, "CNI_NETNS", "ADD", {"NETNS": b"/\xff"}),
    "node's namespace": (4, "CNI_NETNS", "ADD", {"NETNS": "{node}"}),
    "arguments without =": (4, "CNI_ARGS", "ADD", {"ARGS": "IgnoreUnknown"}),
    "long arguments without =": (4, "CNI_ARGS", "ADD", {"ARGS": LONG}),
    "CHECK without container": (4, "CNI_CONTAINERID", "CHECK", {"CONTAINERID": ABSENT}),
    "CHECK without namespace": (4, "CNI_NETNS", "CHECK", {"NETNS": ABSENT}),
    "DEL without container": (4, "CNI_CONTAINERID", "DEL", {"CONTAINERID": ABSENT}),
    "DEL without interface": (4, "CNI_IFNAME", "DEL", {"IFNAME": ABSENT}),
    "DEL with a relative namespace": (4, "CNI_NETNS", "DEL", {"NETNS": "x"}),
}


def gc(valid: Any) -> dict[str, Any]:
    return {"cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}


# Code None is success.
COMMANDS: dict[str, tuple[int | None, str, str, dict[str, Any]]] = {
    "CHECK of an unknown container": (3, "c0 has no interface eth0", "CHECK", {}),
    "CHECK without prevResult's addresses": (3, "c0 has no interface", "CHECK", {"prevResult": {"ips": [1]}}),
    "DEL of an unknown container": (None, "", "DEL", {}),
    "DEL with prevResult": (None, "", "DEL", {"prevResult": {"ips": [1], "interfaces": "x"}}),
    "DEL without ipam": (None, "", "DEL", {"ipam": ABSENT}),
    "DEL without an IPAM plugin": (7, "ipam.type", "DEL", {"ipam": {"type": "nonexistent"}}),
    "DEL without a name": (7, "name", "DEL", {"name": ABSENT}),
    "GC in 1.0.0": (4, "GC requires cniVersion 1.1.0", "GC", {}),
    "GC without attachments": (7, "valid-attachments", "GC", gc(ABSENT)),
    "GC with null": (7, "valid-attachments", "GC", gc(None)),
    "GC with an object": (7, "valid-attachments", "GC", gc({})),
    "GC with text": (7, "valid-attachments", "GC", gc(["c0"])),
    "GC without interface": (7, "valid-attachments", "GC", gc([{"containerID": "c0"}])),
    "GC with numbers": (7, "valid-attachments", "GC", gc([{"containerID": 1, "ifname": 2}])),
    "GC with unknown attachments": (None, "", "GC", gc([{"containerID": "x", "ifname": "y"}])),
    "GC of nothing": (None, "", "GC", gc([])),
    "STATUS in 1.0.0": (4, "STATUS requires cniVersion 1.1.0", "STATUS", {}),
    "STATUS": (None, "", "STATUS", {"cniVersion": "1.1.0"}),
    "STATUS without an IPAM plugin": (
        50,
        "ipam.type",
        "STATUS",
        {"cniVersion": "1.1.0", "ipam": {"type": "nonexistent"}},
    ),
}

# Ranges that fail in host-local, which has code 999 for all errors, or after it
RANGES_THAT_FAIL: dict[str, tuple[int, str, Any]] = {
    "no ranges": (999, "IPAM plugin host-local", []),
    "empty range": (999, "IPAM plugin host-local", [[]]),
    "no subnet": (999, "IPAM plugin host-local", [[{}]]),
    "invalid subnet": (999, "IPAM plugin host-local", [[{"subnet": "10.0.0.0/33"}]]),
    "subnet without addresses": (999, "IPAM plugin host-local", [[{"subnet": "10.0.0.0/32"}]]),
    "overlapping ranges": (
        999,
        "IPAM plugin host-local",
        [[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.0.0/25"}]],
    ),
    "loopback": (100, "addresses", [[{"subnet": "127.0.0.0/8"}]]),
    "multicast": (100, "addresses", [[{"subnet": "224.0.0.0/4"}]]),
    "text": (999, "IPAM plugin host-local", "10.0.0.0/24"),
}


@pytest.mark.parametrize(("code", "message", "changes"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_malformed_configuration(plugin: Build, cni: Cni, code: int, message: str, changes: Any) -> None:
    config = changes if isinstance(changes, bytes) else without({**cni.config, **changes})
    check(call(plugin, cni, "ADD", config, {}), code, message)
    assert cni.leftovers() == []


@pytest.mark.parametrize(("code", "message", "command", "changes"), VARIABLES.values(), ids=VARIABLES)
def test_malformed_variables(
    plugin: Build, cni: Cni, special: dict[str, str], code: int, message: str, command: str, changes: Any
) -> None:
    changes = {
        name: value.format(**special) if isinstance(value, str) and value.startswith("{") else value
        for name, value in changes.items()
    }
    outcome = call(plugin, cni, command, cni.config, changes)
    check(outcome, code, message)
    assert cni.leftovers() == []


@pytest.mark.parametrize(("code", "message", "command", "changes"), COMMANDS.values(), ids=COMMANDS)
def test_commands(
    plugin: Build, cni: Cni, code: int | None, message: str, command: str, changes: dict[str, Any]
) -> None:
    outcome = call(plugin, cni, command, without({**cni.config, **changes}), {})
    if code is None:
        assert (outcome.status, outcome.out, outcome.err) == (0, b"", b"")
    else:
        check(outcome, code, message)
    assert cni.leftovers() == []


@pytest.mark.parametrize(("code", "message", "ranges"), RANGES_THAT_FAIL.values(), ids=RANGES_THAT_FAIL)
def test_ranges_that_fail(
    plugin: Build, cni: Cni, tmp_path: Path, code: int, message: str, ranges: Any
) -> None:
    config = {**cni.config, "ipam": {"type": "host-local", "dataDir": str(tmp_path), "ranges": ranges}}
    outcome = call(plugin, cni, "ADD", config, {})
    check(outcome, code, message)
    assert cni.leftovers() == []
    assert not [path for path in tmp_path.glob("test/*") if path.name[0].isdigit()]


# IPAM plugins that fail

RESULT = '{"ips":[{"address":"10.77.0.2/24"}]}'
IPAM: dict[str, tuple[int, str, str]] = {
    "no output": (5, "it returned no address", ""),
    "text": (5, "its output is not a JSON object", "echo text"),
    "array": (5, "its output is not a JSON object", "echo []"),
    "truncated": (5, "its output is not a JSON object", "echo '{\"ips\":[{'"),
    "not UTF-8": (5, "its output is not a JSON object", 'printf \'{"a":"\\377"}\''),
    "nested": (5, "its output is not a JSON object", "head -c 500000 /dev/zero | tr '\\0' '['"),
    "long output": (5, "its output is not a JSON object", 'printf \'{"a":"\'; head -c 4000000 /dev/zero'),
    "no addresses": (5, "it returned no address", "echo '{\"ips\":[]}'"),
    "number as addresses": (5, "it returned an invalid address", "echo '{\"ips\":1}'"),
    "text as addresses": (5, "it returned an invalid address", 'echo \'{"ips":"10.0.0.1"}\''),
    "numbers as addresses": (5, "it returned an invalid address", "echo '{\"ips\":[1]}'"),
    "empty address": (5, "it returned an invalid address", "echo '{\"ips\":[{}]}'"),
    "invalid address": (5, "it returned an invalid address", 'echo \'{"ips":[{"address":"10.0.0/8"}]}\''),
    "list as address": (5, "it returned an invalid address", 'echo \'{"ips":[{"address":[]}]}\''),
    "unspecified address": (100, "unicast", 'echo \'{"ips":[{"address":"0.0.0.0/0"}]}\''),
    "list as dns": (5, "dns", f"echo '{RESULT[:-1]},\"dns\":[1]}}'"),
    "failure": (100, "exited with status 3", "exit 3"),
    "message on standard error": (100, "out of space", "echo out of space >&2; exit 1"),
    "error": (11, "try later", 'echo \'{"code":11,"msg":"try later"}\'; exit 1'),
    "text as code": (100, "busy", 'echo \'{"code":"x","msg":"busy"}\'; exit 1'),
    "long message": (
        7,
        "xxxx",
        "printf '{\"code\":7,\"msg\":\"'; head -c 900000 /dev/zero | tr '\\0' x; echo '\"}'; exit 1",
    ),
    "killed": (100, "exited with status -9", "kill -9 $$"),
}


@pytest.mark.parametrize(("code", "message", "script"), IPAM.values(), ids=IPAM)
def test_failing_ipam(plugin: Build, cni: Cni, tmp_path: Path, code: int, message: str, script: str) -> None:
    """Its DEL is called, and also the failure of DEL leaves no record."""
    program = tmp_path / "ipam"
    program.write_text(f"#!/bin/sh\necho $CNI_COMMAND >>{tmp_path}/calls\n{script}\n")
    program.chmod(0o755)
    outcome = call(plugin, cni, "ADD", {**cni.config, "ipam": {"type": "ipam"}}, {"PATH": str(tmp_path)})
    check(outcome, code, message)
    assert (tmp_path / "calls").read_text().split() == ["VERSION", "ADD", "DEL"]
    assert cni.leftovers() == []


def test_ipam_that_is_no_program(plugin: Build, cni: Cni, tmp_path: Path) -> None:
    program = tmp_path / "ipam"
    program.write_text("no program")
    config = {**cni.config, "ipam": {"type": "ipam"}}
    check(call(plugin, cni, "ADD", config, {"PATH": str(tmp_path)}), 7, "there is no plugin")
    program.chmod(0o755)
    check(call(plugin, cni, "ADD", config, {"PATH": str(tmp_path)}), 5, "Exec format error")
    assert cni.leftovers() == []


# Previous results of an existing container

PREVIOUS: dict[str, Any] = {
    "empty": {},
    "null": {"ips": None},
    "number": {"ips": 1},
    "text": {"ips": "x"},
    "object": {"ips": {"address": "x"}},
    "numbers": {"ips": [1]},
    "list as address": {"ips": [{"address": []}]},
    "other address": {"ips": [{"address": "10.0.0.1/32"}]},
}


def test_invalid_previous_results(plugin: Build, cni: Cni) -> None:
    assert call(plugin, cni, "ADD", cni.config, {}).status == 0
    for previous in PREVIOUS.values():
        outcome = call(plugin, cni, "CHECK", {**cni.config, "prevResult": previous}, {})
        assert outcome.status == 1, previous
        assert json.loads(outcome.out)["code"] in (7, 101), (previous, outcome)
    delete(plugin, cni)
    assert cni.leftovers() == []


# Clients of the socket


def encoded(command: str, config: dict[str, Any], **variables: str) -> bytes:
    """Return a request as the plugin sends it."""
    given = {"CNI_COMMAND": command, **{f"CNI_{name}": value for name, value in variables.items()}}
    head = b"".join(f"{name}={value}\0".encode() for name, value in given.items())
    return head + b"\0" + json.dumps(config).encode()


@pytest.fixture
def add_request(cni: Cni) -> bytes:
    netns = cni.container("c")
    return encoded("ADD", cni.config, CONTAINERID="c0", NETNS=netns, IFNAME="eth0", PATH=PLUGINS)


REQUESTS: dict[str, tuple[int, bytes]] = {
    "empty": (5, b""),
    "no variables": (4, b"\0{}"),
    "no end of the variables": (5, b"CNI_COMMAND=ADD\0"),
    "unterminated variable": (5, b"CNI_COMMAND=ADD"),
    "variable without value": (5, b"CNI_COMMAND\0\0{}"),
    "foreign variable": (5, b"LD_PRELOAD=x\0\0{}"),
    "unknown command": (4, b"CNI_COMMAND=EXEC\0\0{}"),
    "method as command": (4, b"CNI_COMMAND=undo\0\0{}"),
    "two commands": (4, b"CNI_COMMAND=ADD\0CNI_COMMAND=x\0\0{}"),
}


@pytest.mark.parametrize(("code", "raw"), REQUESTS.values(), ids=REQUESTS)
def test_malformed_request(cni: Cni, code: int, raw: bytes) -> None:
    status, _newline, output = cni.agent.send(raw).partition(b"\n")
    assert (status, json.loads(output)["code"]) == (b"1", code)
    assert cni.leftovers() == []


def test_truncated_requests_change_nothing(cni: Cni, add_request: bytes) -> None:
    """A plugin that is killed while it sends looks like one that ends its request."""
    for length in range(0, len(add_request), 7):
        assert cni.agent.send(add_request[:length]).startswith(b"1\n"), add_request[:length]
    assert cni.leftovers() == []


def test_oversized_request(plugin: Build, cni: Cni) -> None:
    """The agent closes the connection; it does not buffer what exceeds the limit."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(cni.agent.socket))
        with pytest.raises(OSError):
            for _time in range(64):
                client.sendall(b"x" * LIMIT)
    config = {**cni.config, "name": "x" * (LIMIT - 1000)}
    check(call(plugin, cni, "ADD", config, {}), 7, "name")


def test_clients_that_vanish(plugin: Build, cni: Cni, add_request: bytes) -> None:
    """The agent completes an ADD before the DEL that follows, or does not begin it."""
    for length in (0, 10, *[len(add_request)] * 10):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(cni.agent.socket))
            client.sendall(add_request[:length])
        delete(plugin, cni)
        assert cni.leftovers() == []


def delete(plugin: Build, cni: Cni) -> None:
    """Call DEL, also while an ADD is running, for which it waits."""
    outcome = call(plugin, cni, "DEL", cni.config, {})
    assert (outcome.status, outcome.out) == (0, b""), outcome


def test_killed_plugin(plugin: Build, cni: Cni) -> None:
    """At random moments of an ADD: whether it is completed or not, DEL removes everything."""
    rng = random.Random(1)
    given = {"CONTAINERID": "c0", "NETNS": cni.container("c"), "IFNAME": "eth0", "PATH": PLUGINS}
    env = {f"CNI_{name}": value for name, value in given.items()}
    for _time in range(15):
        with started(plugin, cni.agent.socket, "ADD", env) as process:
            process.stdin.write(json.dumps(cni.config).encode())
            process.stdin.close()
            time.sleep(rng.uniform(0, 0.03))
        delete(plugin, cni)
        assert cni.leftovers() == []


def test_idle_clients(plugin: Build, cni: Cni) -> None:
    """More clients than the agent serves at a time send nothing. It closes them after 10 s."""
    clients = [socket.socket(socket.AF_UNIX) for _number in range(400)]
    for client in clients:
        client.connect(str(cni.agent.socket))
    outcome = call(plugin, cni, "ADD", cni.config, {})
    assert outcome.status == 0, outcome
    for client in clients[:100]:
        assert client.recv(1 << 16).startswith(b"1\n")
    for client in clients:
        client.close()
    delete(plugin, cni)
    assert cni.leftovers() == []


@pytest.mark.parametrize("given", [{}, {"NETNS": ""}, {"NETNS": ABSENT}])
def test_deleted_namespace(plugin: Build, cni: Cni, given: dict[str, Any]) -> None:
    """DEL of a container whose namespace no longer exists."""
    path = cni.container(f"deleted-{len(cni.containers)}")
    assert call(plugin, cni, "ADD", cni.config, {"NETNS": path}).status == 0
    command("ip", "netns", "delete", Path(path).name)
    assert call(plugin, cni, "DEL", cni.config, {"NETNS": path, **given}).status == 0
    assert cni.leftovers() == []
