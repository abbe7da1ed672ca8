# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts on the wire reach processes of the node only if programs translate their replies."""

from __future__ import annotations

import ipaddress

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._agent.config import Config
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    PROTOCOLS,
    Backend,
    Declaration,
    Service,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import Node

OWN, REMOTE = (ipaddress.IPv4Address(one) for one in ("192.0.2.1", "192.0.2.2"))
FEATURE = layout.FEATURE_HOST_BACKENDS


def external_backends(address: str, listed: bool, has_egress: bool) -> tuple[set[str], bool]:
    """Return the backends of a service for hosts on the wire, and whether the feature is on."""
    backends = tuple(Backend(one, 8080) for one in (OWN, REMOTE))
    one = Service("web", "site", ipaddress.ip_address(address), 80, PROTOCOLS["tcp"], backends, listed=listed)
    node = Node(addresses=frozenset([OWN]), has_egress=has_egress)
    image = Compiler(Declaration(services=[one]), node, {}).image
    (frontend,) = list(image.services.values())
    found = {str(ipaddress.ip_address(raw[:4])) for raw in image.backends[frontend.external]}
    return found, bool(image.features & FEATURE)


@pytest.mark.parametrize(
    ("address", "listed", "has_egress", "own"),
    (
        ("0.0.0.0", False, True, True),
        ("198.51.100.1", True, True, True),
        ("10.96.0.1", False, True, False),
        ("0.0.0.0", False, False, False),
    ),
)
def test_backends(address: str, listed: bool, has_egress: bool, own: bool) -> None:
    assert external_backends(address, listed, has_egress) == (
        {str(REMOTE), *([str(OWN)] if own else [])},
        own,
    )


@pytest.mark.parametrize(("kube_proxy", "hooks"), (("keep", ["ingress"]), ("replace", ["ingress", "egress"])))
def test_uplinks_get_the_program_that_translates_replies(kube_proxy: str, hooks: list[str]) -> None:
    config = Config("node", "datapath.o", uplinks=["eth0"], kube_proxy=kube_proxy)
    assert [(one.program, one.device, one.hook) for one in config.requests()] == [
        (f"host_{hook}", "eth0", hook) for hook in hooks
    ]
    assert {one.program for one in config.requests()} <= config.programs()
