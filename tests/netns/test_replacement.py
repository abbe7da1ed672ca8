# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs replaced under traffic: PODNET_SWAPS times (`make test-swaps`), a few times otherwise.

The verifier takes most of a second, so only the first replacements load a new object; the others alternate
between two loaded versions.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import libbpf
from tests.support.policy_lab import ALLOWED_WITHIN, TCP, Check, Lab, address_of

SWAPS = int(os.environ.get("PODNET_SWAPS", "100"))
LOADED = 4  # replacements that load a new object


@pytest.fixture
def lab(namespaces: Any, bpffs: str, datapath_object: str) -> Iterator[Lab]:
    made = Lab(namespaces, bpffs, datapath_object)
    yield made
    made.close()


@contextlib.contextmanager
def flood(lab: Lab, target: str) -> Iterator[None]:
    """Ping 1,000 times a second during the block, and assert that no packet is lost."""
    words = ("ping", "-q", "-n", "-i", "0.001", "-W", str(ALLOWED_WITHIN), target)
    inside = ("nsenter", f"--net=/run/netns/{lab.names['front']}")
    with subprocess.Popen([*inside, *words], stdout=subprocess.PIPE, text=True) as ping:
        try:
            yield
        finally:
            ping.send_signal(signal.SIGINT)
            output = ping.communicate()[0]
    match = re.search(r"(\d+) packets transmitted, (\d+) received", output)
    assert match, output
    sent, received = int(match[1]), int(match[2])
    # the reply to the last request may be outstanding when ping stops
    assert sent > SWAPS and sent - received <= 1, output


def test_program_replacement_keeps_packets_and_connections(lab: Lab) -> None:
    services = [
        {
            "name": f"s{version}",
            "address": address_of("vip", version),
            "port": 8000,
            "backends": [{"address": address_of(name, version), "port": 80} for name in ("web", "remote")],
        }
        for version in (4, 6)
    ]
    policies = [{"name": "front", "pods": {"names": ["front"]}, "egress": [{"to": [{"labels": {}}]}]}]
    lab.declare(policies, services)
    with contextlib.ExitStack() as open_:
        connections: list[tuple[socket.socket, bytes]] = []
        for version in (4, 6):
            for dummy in range(8):
                check = Check("front", "vip", TCP, 8000, version, True)
                client = open_.enter_context(lab.start(check))
                client.settimeout(ALLOWED_WITHIN)
                connections.append((client, client.recv(64)))
        assert {name for dummy, name in connections} == {b"web", b"remote"}
        for target in (address_of("remote", 4), address_of("web", 6)):
            open_.enter_context(flood(lab, target))
        versions = [
            open_.enter_context(libbpf.BpfObject(lab.object, {"reason_max": number})) for number in (1, 2)
        ]
        for swap in range(SWAPS):
            if swap < LOADED:
                changes = lab.attach("node1", reason_max=swap % 2 + 1)
            else:
                changes = lab.install("node1", versions[swap % 2])
            assert "replace program pod_egress" in changes
            assert not [change for change in changes if " map " in change]
            for client, name in connections:
                client.sendall(b"?")
                assert client.recv(64) == name
