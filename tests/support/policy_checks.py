# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is checked of policies and services, by real sockets, on Pods of any kind.

``CHECKS`` are the cases of policy_cases.yml (on a node policy_cases.json) and the functions below.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach
from tests.support.policy_lab import (
    ALLOWED_WITHIN,
    FORBIDDEN_FOR,
    TCP,
    UDP,
    Check,
    Lab,
    address_of,
    checks_of,
)

CHECKS: dict[str, Callable[[Lab], None]] = {}


def check(function: Callable[[Lab], None]) -> Callable[[Lab], None]:
    CHECKS[function.__name__] = function
    return function


def check_versions(function: Callable[[Lab, int], None]) -> Callable[[Lab, int], None]:
    for version in (4, 6):
        CHECKS[f"{function.__name__} v{version}"] = functools.partial(function, version=version)
    return function


def services_of(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The case's services, one for each family."""
    return [
        {
            "name": f"s{index}v{version}",
            "address": address_of("vip", version),
            "port": one["port"],
            "protocol": one.get("protocol", "tcp"),
            "backends": [
                {"address": address_of(name, version), "port": one.get("to", 80)} for name in one["backends"]
            ],
        }
        for index, one in enumerate(case.get("services", ()))
        for version in (4, 6)
    ]


def run_case(lab: Lab, case: dict[str, Any]) -> None:
    lab.declare(case["policies"], services_of(case))
    checks = [
        check
        for word in ("passes", "blocked")
        for text in case.get(word, ())
        for check in checks_of(text, word == "passes")
    ]
    assert checks
    lab.attempt(checks)
    # an answer that comes is one of who was asked
    behind = {name for one in case.get("services", ()) for name in one["backends"]}
    wrong = [
        str(check)
        for check in checks
        if bool(check.answer) != check.passes
        or (check.answer and check.answer not in (behind if check.target == "vip" else {check.target}))
    ]
    assert not wrong, "\n".join(wrong)


@check_versions
def weights_share_new_connections(lab: Lab, version: int) -> None:
    backends = [
        {"address": address_of(name, version), "port": 80, "weight": weight}
        for name, weight in (("web", 3), ("db", 1), ("other", 0))
    ]
    lab.declare(
        [], [{"name": "s", "address": address_of("vip", version), "port": 8000, "backends": backends}]
    )
    found: Counter[str] = Counter()
    for dummy in range(5):
        checks = [Check("front", "vip", TCP, 8000, version, True) for dummy in range(40)]
        lab.attempt(checks)
        found.update(check.answer or check.refusal for check in checks)
    assert set(found) == {"web", "db"}, found
    assert 20 <= found["db"] <= 80, found  # 50 of 200; beyond that once in a million


@check_versions
def a_backend_that_is_taken_out_drains(lab: Lab, version: int) -> None:
    """Connections it has go on; new ones go elsewhere; connections of others stay where they are."""

    def declare(*names: str) -> None:
        backends = [{"address": address_of(name, version), "port": 80} for name in names]
        lab.declare(
            [], [{"name": "s", "address": address_of("vip", version), "port": 8000, "backends": backends}]
        )

    declare("web", "db")
    with contextlib.ExitStack() as open_:
        clients = []
        for dummy in range(20):
            client = open_.enter_context(lab.start(Check("front", "vip", TCP, 8000, version, True)))
            client.settimeout(ALLOWED_WITHIN)
            clients.append((client, client.recv(64)))
        assert {name for dummy, name in clients} == {b"web", b"db"}
        declare("db")
        for client, name in clients:
            client.sendall(b"still there?")
            assert client.recv(64) == name
        later = [Check("front", "vip", TCP, 8000, version, True) for dummy in range(20)]
        lab.attempt(later)
        assert {check.answer for check in later} == {"db"}


@check_versions
def a_new_policy_ends_what_it_forbids(lab: Lab, version: int) -> None:
    lab.declare()
    with lab.start(Check("front", "web", TCP, 80, version, True)) as client:
        client.settimeout(ALLOWED_WITHIN)
        assert client.recv(64) == b"web"
        lab.declare([{"name": "deny", "pods": {"names": ["web"]}, "ingress": []}])
        client.sendall(b"?")
        client.settimeout(FORBIDDEN_FOR)
        with contextlib.suppress(TimeoutError):
            raise AssertionError(f"forbidden, and yet came {client.recv(64)!r}")
        lab.declare()
        client.settimeout(ALLOWED_WITHIN)
        assert client.recv(64) == b"web"


@check
def errors_about_what_is_allowed_come_back(lab: Lab) -> None:
    """Nobody listens there: the target's ICMP error reaches who asked, through policy and service."""
    ports = [{"ports": [{"protocol": "udp", "port": 9999}]}]
    policies = [
        {"name": "front", "pods": {"names": ["front"]}, "egress": ports},
        {"name": "web", "pods": {"names": ["web"]}, "ingress": ports, "egress": []},
    ]
    services = [
        {
            "name": f"s{version}",
            "address": address_of("vip", version),
            "port": 9998,
            "protocol": "udp",
            "backends": [{"address": address_of("web", version), "port": 9999}],
        }
        for version in (4, 6)
    ]
    lab.declare(policies, services)
    checks = [
        Check("front", target, UDP, port, version, True)
        for target, port in (("web", 9999), ("remote", 9999), ("world", 9999), ("vip", 9998))
        for version in (4, 6)
    ]
    lab.attempt(checks)
    assert {check.refusal for check in checks} == {"ECONNREFUSED"}, "\n".join(map(str, checks))


@check_versions
def a_masqueraded_pod_leaves_under_the_nodes_address(lab: Lab, version: int) -> None:
    lab.declare(masqueraded=["front"])
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    for source, seen in (("front", "node1"), ("web", "web")):
        with lab.ns.inside(lab.names["world"]):
            server = socket.socket(family, UDP)
        with lab.ns.inside(lab.names[source]):
            client = socket.socket(family, UDP)
        with server, client:
            server.bind((address_of("world", version), 0))
            server.settimeout(ALLOWED_WITHIN)
            client.settimeout(ALLOWED_WITHIN)
            client.bind((address_of(source, version), 0))
            client.connect(server.getsockname()[:2])
            client.send(b"?")
            dummy, asked_by = server.recvfrom(64)
            assert asked_by[0] == address_of(seen, version)
            if source == "front":
                assert 61000 <= asked_by[1] <= 65535
            server.sendto(b"!", asked_by)
            assert client.recv(64) == b"!"
    # Pods of other nodes see the Pod itself
    to_pod = Check("front", "remote", TCP, 80, version, True)
    # and who asks a Pod itself is answered by it
    from_outside = Check("world", "front", TCP, 80, version, True)
    lab.attempt([to_pod, from_outside])
    for one in (to_pod, from_outside):
        assert one.answer == one.target, str(one)


@check
def a_pod_sends_from_its_own_addresses_only(lab: Lab) -> None:
    lab.declare()
    for version in (4, 6):
        stolen = address_of("db", version)
        width = "/32" if version == 4 else "/128 nodad"  # or it cannot be used at once
        lab.ns.ip(lab.names["front"], f"addr add {stolen}{width} dev lo")
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with lab.ns.inside(lab.names["front"]):
            client = socket.socket(family, UDP)
        with client:
            client.bind((stolen, 0))
            client.sendto(b"?", (address_of("world", version), 80))
        lab.ns.ip(lab.names["front"], f"addr del {stolen}{width.partition(' ')[0]} dev lo")
        own = Check("front", "world", UDP, 80, version, True)
        lab.attempt([own])
        assert own.answer == "world", str(own)
    told = lab.info()["front"]["packets"]["egress"]
    assert told.get("DROP_INVALID_SOURCE_IP", 0) >= 2, told


@check
def drops_are_told(lab: Lab) -> None:
    """The command shows each drop with time, Pod, who, whom and why, and counts it."""
    with tempfile.TemporaryDirectory() as folder:
        command = f"{folder}/podnet-datapath"
        attach.install_command(command)
        assert os.access(command, os.X_OK)
        _drops_are_told(lab, command)


def _drops_are_told(lab: Lab, command: str) -> None:
    run = ("python3", command, "--pin-path", lab.pins["node1"])
    lab.declare([{"name": "deny", "pods": {"names": ["web"]}, "ingress": []}])
    lab.ns.run(lab.names["node1"], *run, "drops", "--wait", "0.2")  # what earlier tests left
    before = lab.info()["web"]["packets"]["ingress"].get("DROP_POLICY_INGRESS", 0)
    lab.attempt([Check("other", "web", UDP, 80, version, False) for version in (4, 6)])
    told = lab.ns.run(lab.names["node1"], *run, "drops", "--wait", "0.2")
    assert "drop (policy ingress)" in told
    for version in (4, 6):
        source, target = address_of("other", version), address_of("web", version)
        assert any(
            source in line and f"{target}" in line and " udp, " in line for line in told.splitlines()
        ), told
    assert lab.info()["web"]["packets"]["ingress"]["DROP_POLICY_INGRESS"] == before + 2
    text = lab.ns.run(lab.names["node1"], *run, "prometheus")
    assert f'pod="web",owner="site",direction="ingress",reason="DROP_POLICY_INGRESS"}} {before + 2}' in text


def read_cases() -> list[dict[str, Any]]:
    """Return policy_cases.yml, or policy_cases.json in a guest, which has no YAML parser."""
    table = Path(__file__).with_name("policy_cases.yml")
    cases: list[dict[str, Any]]
    if table.exists():
        import yaml

        cases = yaml.safe_load(table.read_text())
    else:
        cases = json.loads(Path("policy_cases.json").read_text())
    return cases


CHECKS.update({case["name"]: functools.partial(run_case, case=case) for case in read_cases()})
