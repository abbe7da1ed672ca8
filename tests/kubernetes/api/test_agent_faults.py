# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent of a node with a real API server, while either of them or their connection fails.

Meanwhile Pods that no policy allows send datagrams all the time: none may arrive. Afterwards the maps are
those that the lists of the API result in. PODNET_STEPS (3) is the number of writes at which the agent is
killed, for each kind of change, or all.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kubernetes.api_proxy import ApiProxy
from tests.kubernetes.manifests import Json, endpoint_slice, namespace, pod_of, policy, service
from tests.kubernetes.simulated import NODE, Simulation, simulation
from tests.kubernetes.waiting import wait
from tests.support.checkout import PROGRAMS
from tests.support.flood import PORT, Flood, udp_in
from tests.support.namespaces import command
from tests.support.process_faults import ProcessFaults

EVERY_STEP = os.environ.get("PODNET_STEPS") == "all"
STEPS = 3 if EVERY_STEP else int(os.environ.get("PODNET_STEPS") or 3)
MANY = 1 << 30
SEED = int(os.environ.get("PODNET_SEED") or random.randrange(1 << 32))
REMOTE = {"good": "10.0.0.1", "bad": "10.0.0.2"}  # Pods of another node
YEAR = 366 * 24 * 3600


def allow(*roles: str) -> Json:
    """Return the policy of the server, which allows Pods with one of these roles."""
    selector = {"matchExpressions": [{"key": "role", "operator": "In", "values": list(roles)}]}
    return policy("x", "server", {"role": "server"}, ingress=[{"from": [{"podSelector": selector}]}])


class World:
    """A server whose policy allows ``good`` and not ``bad``, one of each on this node and on another."""

    def __init__(self, folder: Path, sim: Simulation) -> None:
        self.sim = sim
        self.faults = ProcessFaults(folder)
        self.proxy = ApiProxy(folder, sim.config)
        sim.set_agent(self.proxy.config, self.faults.environment)
        sim.agent.start()
        sim.api.create(namespace("x"))
        sim.api.create(allow("good"))
        self.server = sim.add_local(pod_of("x", "server", NODE, {"role": "server"}))
        self.local = [sim.add_local(pod_of("x", f"{role}-0", NODE, {"role": role})) for role in REMOTE]
        self.remote = {role: pod_of("x", f"{role}-1", "node1", {"role": role}) for role in REMOTE}
        for role, item in self.remote.items():
            sim.api.add_running(item, [REMOTE[role]])
        sim.api.create(service("x", "web"))
        self.slice = endpoint_slice("x", "web", 4, [self.server.addresses[0], REMOTE["good"]])
        sim.api.create(self.slice)
        sim.wait_until_equal(20)
        self.numbers = itertools.count(10)

    def close(self) -> None:
        self.proxy.close()
        self.faults.close()

    @contextlib.contextmanager
    def flood(self) -> Iterator[None]:
        """Send datagrams of all clients during the block: those of ``bad`` never arrive, the others do."""
        ns = self.sim.ns
        senders = [udp_in(ns, one.netns) for one in self.local]
        senders += [udp_in(ns, self.sim.wire, address) for address in REMOTE.values()]
        with Flood(senders, udp_in(ns, self.server.netns, self.server.addresses[0], PORT)) as flood:
            time.sleep(0.5)
            yield
            time.sleep(0.5)
        good, bad = ([one.addresses[0], REMOTE[role]] for one, role in zip(self.local, REMOTE))
        assert all(flood.received[one] > 100 for one in good), (SEED, flood.received)
        assert not any(flood.received[one] for one in bad), (SEED, flood.received)

    # Changes. No one allows ``bad``, and none denies ``good``.

    def change_pod(self) -> None:
        """Add a Pod of a new identity, change it, and remove one."""
        number = next(self.numbers)
        item = pod_of("x", f"p{number}", "node1", {"role": "other", "number": str(number)})
        self.sim.api.add_running(item, [f"10.0.1.{number}"])
        labels = {"metadata": {"labels": {"role": "another"}}}
        self.sim.api.patch(item, labels)
        if number % 2:
            self.sim.api.delete(item)

    def change_identity(self) -> None:
        """Change the labels of two Pods, of which policies distinguish one from then on."""
        number = next(self.numbers)
        version = {"version": str(number)}
        self.sim.api.create(policy("x", f"version-{number}", version, ingress=[{}]))
        pods = [self.local[1].item, self.remote["bad"]]
        for item, labels in zip(pods[:: 1 if number % 2 else -1], (version, {"version": "none"})):
            self.sim.api.patch(item, {"metadata": {"labels": labels}})

    def change_policy(self) -> None:
        number = next(self.numbers)
        self.sim.api.replace(allow("good", f"role-{number}"))
        self.sim.api.create(policy("x", f"more-{number}", {"role": f"role-{number}"}))

    def change_service(self) -> None:
        number = next(self.numbers)
        self.sim.api.replace(
            endpoint_slice("x", "web", 4, [self.server.addresses[0], f"10.0.1.{number}"]),
        )

    @property
    def changes(self) -> dict[str, Callable[[], None]]:
        return {
            "pod": self.change_pod,
            "identity": self.change_identity,
            "policy": self.change_policy,
            "service": self.change_service,
        }

    def change_all(self) -> None:
        for change in self.changes.values():
            change()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("simulated")
    bpffs = folder / "bpf"
    bpffs.mkdir()
    command("make", "-s", "-C", str(PROGRAMS), f"OUT={folder}")
    command("mount", "-t", "bpf", "bpf", str(bpffs))
    try:
        with simulation(folder, str(folder / "datapath.o"), f"{bpffs}/pins") as sim:
            made = World(folder, sim)
            yield made
            made.close()
    finally:
        command("umount", str(bpffs))


def test_the_api_server_is_killed_and_restarted(world: World) -> None:
    with world.flood():
        world.change_all()
        world.sim.server.kill()
        time.sleep(2)
        world.sim.server.restart()
        world.change_all()
        world.sim.wait_until_equal(60)


def test_connections_end_in_the_middle_of_events(world: World) -> None:
    with world.flood():
        for _round in range(3):
            world.proxy.cut(4)
            world.change_all()
            wait(lambda: not world.proxy.remaining_cuts, 60)
            world.sim.wait_until_equal(60)


def test_what_changes_while_the_api_is_unreachable_applies_afterwards(world: World) -> None:
    """The API server is restarted, and does not know the versions of the agent any more: it sends lists."""
    with world.flood():
        with world.proxy.unreachable():
            world.change_all()
            extra = pod_of("x", "extra", "node1", {"role": "good"})
            world.sim.api.add_running(extra, ["10.0.0.3"])
            world.sim.api.delete(extra)
            world.sim.server.kill()
            world.sim.server.restart()
        world.sim.wait_until_equal(60)


@pytest.mark.parametrize("seconds", [3600, -3600, 10 * YEAR, -10 * YEAR])
def test_the_clock_of_the_agent_jumps(world: World, seconds: int) -> None:
    """After a jump of years, the certificate of the API server is invalid, until the clock is right again."""
    with world.flood():
        world.faults.set_clock(seconds)
        world.change_all()
        if abs(seconds) < YEAR:
            world.sim.wait_until_equal(60)
        world.proxy.cut(1)
        world.change_all()
        time.sleep(3)
        world.faults.set_clock(0)
        world.sim.wait_until_equal(60)


@pytest.mark.parametrize("kind", ["pod", "identity", "policy", "service"])
def test_the_agent_is_killed_at_each_step(world: World, kind: str) -> None:
    change, faults, killed = world.changes[kind], world.faults, 0
    began = time.time()
    faults.kill_at(MANY)
    change()
    wait_for_end(world, began)
    last = MANY - faults.steps
    steps = range(1, last + 1)
    with world.flood():
        for step in steps if EVERY_STEP else sorted(random.Random(SEED).sample(steps, min(last, STEPS))):
            began = time.time()
            faults.kill_at(step)
            change()
            if wait_for_end(world, began):
                killed += 1
                faults.kill_at(0)
                world.sim.agent.stop(signal.SIGKILL)
                world.sim.agent.start()
            world.sim.wait_until_equal(60)
    faults.kill_at(0)
    # Changes that the agent combines have fewer steps.
    assert killed > last // 2 if EVERY_STEP else killed, (SEED, last, killed)


def wait_for_end(world: World, began: float) -> bool:
    """Wait until the agent has made a change or was killed; return whether it was killed."""
    # A watch whose connections ended waits for up to 30 seconds.
    process, deadline = world.sim.agent.process, time.monotonic() + 60
    assert process
    while process.poll() is None and (world.sim.summary()["changed"] < began or world.sim.differences()):
        assert time.monotonic() < deadline, (world.sim.differences(), world.sim.agent.log()[-2000:])
        time.sleep(0.05)
    time.sleep(0.3)  # It may combine only some of the changes.
    return process.poll() is not None
