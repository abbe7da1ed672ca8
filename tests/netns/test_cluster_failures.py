# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors while a cluster's objects are stored or applied: nothing is reported as enforced that is not."""

from __future__ import annotations

import errno
import ipaddress
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.cluster_store import ClusterStore
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.live import LiveEntries
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    Backend,
    Pod,
    PodSelector,
    Policy,
    Service,
)
from tests.netns.bpf_node import Node
from tests.netns.test_cluster_changes import World, without_numbers

ADDRESS = ipaddress.ip_address("10.0.0.1")
POD = Pod("ns/p0", "kubernetes", (ADDRESS,), {"app": "web"}, "n", uid="u0")
POLICY = Policy("ns/deny", "kubernetes", PodSelector(), (), (False, False), optional=True)
SERVICE = Service("ns/s:80", "kubernetes", ipaddress.ip_address("10.96.0.1"), 80, 6, (Backend(ADDRESS, 80),))
DESIRED = ({"ns/p0": POD}, [POLICY], [SERVICE])


@pytest.fixture
def world(node: Node) -> Iterator[World]:
    node.attach()
    with node.ns.inside(node.name):
        made = World(node.pins)
        yield made
        made.entries.close()


def is_complete(world: World) -> bool:
    """Return whether the objects are stored, and the maps are those of a new process."""
    found = world.store.cluster.read()
    return bool(
        found
        and {*found.pods} == {"ns/p0"}
        and {*found.policies} == {"ns/deny"}
        and {*found.services} == {"ns/s:80"}
        and without_numbers(world.image()) == without_numbers(world.desired())
        and world.image().services
    )


STEPS = (
    (ClusterStore, "replace"),
    (ClusterStore, "append"),
    (Compiler, "__init__"),
    (Compiler, "set_services"),
    (LiveEntries, "_update_pods"),
)
ERRORS = (OSError(errno.ENOSPC, "No space left on device"), KeyError("bug"))


@pytest.mark.parametrize("known", [False, True])
def test_what_fails_is_repeated(world: World, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    failed = 0
    for (where, method), error in itertools.product(STEPS, ERRORS):

        def fail(*_arguments: Any, error: Exception = error) -> None:
            raise error

        world.store.cluster.remove()
        if known:
            world.entries.set_cluster({}, [], [])
        with monkeypatch.context() as patch:
            patch.setattr(where, method, fail)
            try:
                world.entries.set_cluster(*DESIRED)
                assert is_complete(world), method
            except type(error):
                failed += 1
        world.entries.set_cluster(*DESIRED)
        assert is_complete(world), method
    assert failed >= 6
