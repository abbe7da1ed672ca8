# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machines of a cluster are separate from this computer, and nothing of them remains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.cluster import build, cgroups, root
from tests.kubernetes.cluster.cluster import Cluster, checkout_name
from tests.kubernetes.cluster.machine import Machine
from tests.support.checkout import CHECKOUT, LAB


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    group = f"podnet-kube-{checkout_name('machine')}"
    cgroups.remove(group)
    made = Machine("alone", tmp_path, "", group)
    cgroups.create(made.group)
    made.boot([root.layer()])
    yield made
    cgroups.remove(group)


def test_machine_has_its_own_root_and_processes(machine: Machine) -> None:
    assert machine.run("ls", ".") == machine.run("ls", "/")
    assert not machine.path(str(CHECKOUT)).exists()
    assert machine.run("hostname") == "alone\n"
    assert machine.run("pgrep", "-o", ".") == "1\n"
    panic = Path("/proc/sys/kernel/panic")
    before = panic.read_text()
    machine.run("sysctl", "-qw", f"kernel.panic={int(before) + 1}")
    assert panic.read_text() == before


def test_daemon_is_stopped_and_started(machine: Machine) -> None:
    for _round in range(2):
        machine.start("ticker", "TICK=tock", "sh", "-c", "echo $TICK; exec sleep infinity")
        assert machine.run("pgrep", "-F", "/run/ticker.pid") == machine.run("cat", "/run/ticker.pid")
        machine.stop("ticker")
        assert machine.run("pgrep", "-c", "-x", "sleep") == "1\n", "only the init's"
    assert machine.path("/var/log/ticker.log").read_text() == "tock\ntock\n"


def test_killed_start_of_a_cluster_leaves_nothing() -> None:
    cluster = Cluster(checkout_name("killed"))
    build.programs()
    command = [sys.executable, "-m", "tests.kubernetes.cluster", "up", "--name", cluster.name]
    path = {"PYTHONPATH": f"{os.environ['PYTHONPATH']}:{LAB.parent}"}
    try:
        start = subprocess.Popen(command, cwd=CHECKOUT, env={**os.environ, **path}, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not cluster.kubeconfig.exists():
            assert start.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        start.send_signal(signal.SIGKILL)
        start.wait()
        assert len(cgroups.processes(cluster.group)) > len(cluster.machines)
    finally:
        cluster.down()
    cluster.down()
    assert not cgroups.processes(cluster.group) and not cluster.folder.exists()
    namespaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert cluster.name not in namespaces
    groups = [path for path in Path("/sys/fs/cgroup").glob("**/") if path.name == cluster.group]
    assert not groups
