# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits of connection tracking, by more connections than a node under emulation opens in time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.connection_checks import connect_often, is_silent, open_in
from tests.support.policy_lab import UDP, Lab, address_of

PORTS = 4536  # 61000 to 65535
CT_QUOTA = 16384  # ct.h


@pytest.fixture
def lab(namespaces: Any, bpffs: str, datapath_object: str) -> Iterator[Lab]:
    made = Lab(namespaces, bpffs, datapath_object)
    yield made
    made.close()


def test_closed_connections_free_their_ports(lab: Lab) -> None:
    """More connections to one destination than there are ports (cilium#8740, #21346, #33074)."""
    lab.ns.sysctl(lab.names["node1"], ipv4__ip_local_port_range="1024 60999")
    lab.declare(masqueraded=["front"])
    assert connect_often(lab, PORTS + 2000) == PORTS + 2000


def test_a_pod_displaces_only_its_own_connections(lab: Lab) -> None:
    """Under policy, ``other`` opens more connections than its quota; those of ``front`` stay."""
    lab.declare(
        [
            {"name": "front", "pods": {"names": ["front"]}, "ingress": []},
            {"name": "other", "pods": {"names": ["other"]}, "ingress": []},
        ]
    )
    target = (address_of("world", 4), 53)
    with contextlib.ExitStack() as open_:
        clients = [open_.enter_context(open_in(lab, "front", UDP)) for dummy in range(50)]
        own = open_.enter_context(open_in(lab, "other", UDP))
        for client in (*clients, own):
            client.connect(target)
            client.send(b"?")
            assert client.recv(9) == b"world"
        flood = open_.enter_context(open_in(lab, "other", UDP))
        for port in range(1, CT_QUOTA * 2):
            flood.sendto(b"", (address_of("world", 4), 10000 + port))
        for client in clients:
            client.send(b"?")
            assert client.recv(9) == b"world"
        # an answered connection of the flooding Pod is worth more than its unanswered ones
        own.send(b"?")
        assert own.recv(9) == b"world"
        assert is_silent(flood)
