# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures: the programs, loaded once, and the network namespace that they run in. Requires root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.bpf import coverage
from tests.bpf.programs import SOURCES, TOPOLOGY, Datapath
from tests.bpf.state import State


@pytest.fixture(scope="session")
def covered() -> set[str]:
    """All reasons that tests saw counted."""
    return set()


@pytest.fixture(scope="session")
def netns() -> Iterator[str]:
    """A network namespace with Pods' devices, two uplinks and all types of routes."""
    if os.geteuid() != 0:
        pytest.fail("tests/bpf load BPF programs: run them as root (sudo make test-bpf)")
    name = f"t{os.getpid()}-bpf"
    subprocess.run(["ip", "netns", "add", name], check=True)
    inside = ["nsenter", f"--net=/run/netns/{name}"]
    switches = [
        *("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"),
        *("net.ipv4.conf.closed.forwarding=0", "net.ipv6.conf.closed.forwarding=0"),
    ]
    try:
        subprocess.run([*inside, "ip", "-batch", "-"], input=TOPOLOGY, text=True, check=True)
        subprocess.run([*inside, "sysctl", "-qw", *switches], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture(scope="session")
def datapath(tmp_path_factory: pytest.TempPathFactory, netns: str, covered: set[str]) -> Iterator[Datapath]:
    """The loaded programs. With PODNET_COVERAGE, a directory, write a coverage report there."""
    folder = tmp_path_factory.mktemp("object")
    functions = {}
    if wanted := os.environ.get("PODNET_COVERAGE"):
        folder = Path(wanted)
        folder.mkdir(parents=True, exist_ok=True)
        path, functions = coverage.build(SOURCES, folder)
    else:
        subprocess.run(["make", "-s", "-C", str(SOURCES), f"OUT={folder}"], check=True)
        path = folder / "datapath.o"
    loaded = Datapath(str(path), netns, covered)
    yield loaded
    if functions:
        counters = bpf.array_read(loaded.object.maps[coverage.MAP])
        (folder / "report.txt").write_text(coverage.report(path, functions, counters))
    loaded.object.close()


@pytest.fixture
def full_datapath(datapath: Datapath) -> Iterator[Datapath]:
    """The programs with a full conntrack map."""
    layout = bpf.map_info(datapath.object.maps["connections"]).layout
    with bpf.closing(bpf.map_create(bpf.BPF_MAP_TYPE_HASH, layout.key_size, layout.value_size, 1)) as full:
        bpf.map_update(full, {bytes(layout.key_size): bytes(layout.value_size)})
        loaded = Datapath(datapath.object.path, datapath.netns, datapath.covered, {"connections": full})
        yield loaded
        loaded.object.close()


@pytest.fixture
def netkit_datapath(datapath: Datapath) -> Iterator[Datapath]:
    """The programs, with pod1 on netkit."""
    with datapath.inside():
        pod1 = datapath.ifindex("pod1")
    datapath.endpoint(11, pod1, flags=layout.POD_NETKIT)
    yield datapath
    datapath.endpoint(11, pod1)


@pytest.fixture
def state(datapath: Datapath) -> Iterator[State]:
    """Map entries of two Pods with identities."""
    made = State(datapath)
    made.pods()
    yield made
    made.clear()


@pytest.fixture
def one_cpu() -> Iterator[None]:
    """Pin the test to one CPU: the flow cache is per CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)
