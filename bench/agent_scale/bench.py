# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the agent of one node in a simulated cluster with a real API server.

Memory; CPU time of single changes; the time from the request that changes an object until packets show it;
then changes at a constant rate, and the same times meanwhile. Fails unless the maps are those of the API's
objects at the end. Prints Markdown tables.

usage: python3 -m bench.agent_scale.bench [--pods 10000] [--policies 500] [--services 1000] [--count 100]
                                          [--rate 100] [--seconds 600]
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from bench import programs
from bench.agent_scale.objects import Size, addresses, namespaces, node_of, pod, policies, services, slice_of
from tests.kubernetes.manifests import Json, endpoint_slice, namespace, pod_of, pod_status, policy, service
from tests.kubernetes.simulated import NODE, Client, Datagrams, Simulation, simulation
from tests.support.background import background
from tests.support.flood import PORT, udp_in

WRITERS = 4  # threads that change objects
IDLE = 0.1  # seconds; an agent that uses no CPU time meanwhile has finished a change
REMOTE_CLIENT = "10.0.250.1"
# Maps with what the API and the agent's Pods declare; the size of all others depends on nothing.
OBJECTS = {
    *("config", "node", "node_addresses", "pods", "endpoints4", "endpoints6", "policy", "rulesets"),
    *("cidrs4", "cidrs6", "services", "maglev", "backends"),
}
# What changes at a constant rate, of 100: Pods are added and removed, EndpointSlices and policies replaced.
SLICES, POLICIES = 9, 1
LIVING = 500  # added Pods that are not removed yet


class Agent:
    """Resources of the agent's process and maps."""

    def __init__(self, sim: Simulation) -> None:
        assert sim.agent.process
        self._pid, self._maps = sim.agent.process.pid, Path(sim.pins, "maps")

    def cpu(self) -> float:
        """Return the CPU time of all threads in milliseconds."""
        # CPUCLOCK_SCHED of a process, see clock_getcpuclockid(3).
        return time.clock_gettime_ns((~self._pid << 3) | 2) / 1e6

    def wait(self) -> None:
        """Wait until the agent is idle."""
        busy, cpu = True, self.cpu()
        while busy:
            time.sleep(IDLE)
            busy, cpu = self.cpu() - cpu > 1, self.cpu()

    def memory(self) -> str:
        """Return the memory of the process and of the maps, as the kernel reports both, in MiB."""
        status = _fields(Path(f"/proc/{self._pid}/status"))
        pss = _fields(Path(f"/proc/{self._pid}/smaps_rollup"))["Pss"] / 1024
        sizes = {path.name: _map_size(path) for path in self._maps.iterdir()}
        objects = sum(size for name, size in sizes.items() if name in OBJECTS)
        rss, most = status["VmRSS"] / 1024, status["VmHWM"] / 1024
        cells = (rss, pss, most, objects, most + objects, sum(sizes.values()) - objects)
        return " | ".join(f"{one:.0f}" for one in cells)


def _map_size(path: Path) -> float:
    with bpf.closing(bpf.obj_get(str(path))) as fd:
        return _fields(Path(f"/proc/self/fdinfo/{fd}"))["memlock"] / (1 << 20)


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file of ``name: value`` lines."""
    lines = (line.partition(":") for line in path.read_text().splitlines())
    return {
        name: int(value.split()[0])
        for name, _colon, value in lines
        if value.split()[:1] and value.split()[0].isdigit()
    }


class Times:
    """Milliseconds of one kind of change."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def row(self) -> str:
        return " | ".join(f"{one:.1f}" for some in (self.cpu, self.wall) if some for one in summary(some))


def summary(values: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile."""
    return statistics.median(values), sorted(values)[min(len(values) - 1, len(values) * 99 // 100)]


def create(sim: Simulation, items: Iterable[Callable[[], object]]) -> None:
    """Run requests in several threads; each has its own connection."""
    with ThreadPoolExecutor(WRITERS) as pool:
        for done in pool.map(lambda call: call(), items):
            del done


def fill(sim: Simulation, size: Size) -> None:
    """Create all objects except the Pods of the node."""
    create(sim, (lambda one=one: sim.api.create(one) for one in namespaces(size)))
    create(sim, (lambda one=one: sim.api.create(one) for one in policies(size)))
    create(
        sim,
        (lambda one=one: sim.api.create(one) for a, slices in services(size) for one in (a, *slices)),
    )
    remote = (number for number in range(size.pods) if node_of(number, size) != NODE)
    create(sim, (lambda n=n: sim.api.add_running(pod(n, size), addresses(n, size)) for n in remote))


class Probe:
    """Pods whose packets show when a change is enforced.

    ``client`` and the Pod of another node may send to the servers, a service has one of these as its backend.
    """

    AT = "probe"

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.requests: list[float] = []  # milliseconds of the requests alone
        sim.api.create(namespace(self.AT))
        self.policy = self._policy("client")
        sim.api.create(self.policy)
        self.servers = [self._local(f"server-{number}", role="server") for number in (0, 1)]
        self.client = self._local("client", role="client")
        self.remote = pod_of(self.AT, "remote", "node1", {"role": "client"})
        made = sim.api.create(service(self.AT, "probe", PORT, "UDP"))
        self.slice = [
            endpoint_slice(self.AT, "probe", 4, [one.addresses[0]], PORT, "UDP") for one in self.servers
        ]
        sim.api.create(self.slice[0])
        receivers = [udp_in(sim.ns, one.netns, one.addresses[0], PORT) for one in self.servers]
        remote = udp_in(sim.ns, sim.wire, REMOTE_CLIENT)
        local = udp_in(sim.ns, self.client.netns)
        self.direct = Datagrams(remote, receivers, self.servers[0].addresses[0])
        self.by_service = Datagrams(local, receivers, made["spec"]["clusterIP"])

    def _local(self, name: str, **labels: str) -> Any:
        return self.sim.add_local(pod_of(self.AT, name, NODE, labels))

    def _policy(self, role: str) -> Json:
        peers = [{"podSelector": {"matchLabels": {"role": role}}}]
        return policy(self.AT, "servers", {"role": "server"}, ingress=[{"from": peers}])

    def changes(self) -> Iterator[tuple[str, float]]:
        """Make each kind of change once; yield its kind and milliseconds until packets show it."""
        api = self.sim.api
        api.create(self.remote)
        status = {"status": pod_status([REMOTE_CLIENT])}
        yield "add a Pod", self._time(lambda: api.patch(self.remote, status, "/status"), self.direct, 0)
        yield "change a policy", self._time(lambda: api.replace(self._policy("other")), self.direct, -1)
        yield "change a policy", self._time(lambda: api.replace(self.policy), self.direct, 0)
        yield "remove a Pod", self._time(lambda: api.delete(self.remote), self.direct, -1)
        for number in (1, 0):
            replace = self.slice[number]
            yield (
                "change a service",
                self._time(lambda one=replace: api.replace(one), self.by_service, number),
            )

    def _time(self, change: Callable[[], object], datagrams: Datagrams, receiver: int) -> float:
        began = time.monotonic()
        change()
        self.requests.append((time.monotonic() - began) * 1000)
        return (datagrams.wait_for(receiver) - began) * 1000


def single_changes(probe: Probe, agent: Agent, count: int) -> dict[str, Times]:
    """Make changes one after the other."""
    found: dict[str, Times] = {}
    agent.wait()
    for _round in range(count):
        cpu = agent.cpu()
        for kind, wall in probe.changes():
            agent.wait()
            times = found.setdefault(kind, Times())
            times.wall.append(wall)
            now = agent.cpu()
            times.cpu.append(now - cpu)
            cpu = now
    return found


class Churn:
    """Changes of objects at a constant rate, in a process of their own, which does not delay the others."""

    def __init__(self, config: Path, size: Size, rate: float) -> None:
        self._config, self._size, self.rate = config, size, rate
        self._lock = threading.Lock()
        self._made, self._late = 0, 0.0
        self._next_pod = size.pods
        self._living: list[int] = []
        self._random = random.Random(1)

    @contextlib.contextmanager
    def running(self) -> Iterator[Callable[[], tuple[float, float]]]:
        """Make changes during the block.

        The function that it yields ends them; it returns the changes per second, and how late one was.
        """
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        process = context.Process(target=self._run, args=(there,), daemon=True)
        process.start()
        there.close()

        def end() -> tuple[float, float]:
            here.send(None)
            found: tuple[float, float] = here.recv()
            process.join()
            return found

        try:
            yield end
        finally:
            here.close()
            process.terminate()
            process.join()

    def _run(self, commands: Any) -> None:
        self._api = Client(self._config)
        self._began = time.monotonic()
        with background(*[self._change_until] * WRITERS):
            commands.recv()
        commands.send((self._made / (time.monotonic() - self._began), self._late))

    def _change_until(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self._lock:
                number, self._made = self._made, self._made + 1
                change = self._change(number)
            late = time.monotonic() - self._began - number / self.rate
            time.sleep(max(0.0, -late))
            self._late = max(self._late, late)
            change()

    def _change(self, number: int) -> Callable[[], object]:
        api, size, kind = self._api, self._size, number % 100
        if kind < POLICIES:
            at = f"n{self._random.randrange(size.namespaces)}"
            ports = [{"port": 8000 + number % 1000}]
            labels = {"app.kubernetes.io/name": "a1"}
            return lambda: api.replace(policy(at, "team", labels, ingress=[{"ports": ports}]))
        if kind < POLICIES + SLICES:
            return lambda: api.replace(slice_of(number % size.services, 4, number, size))
        if len(self._living) < LIVING or number % 2:
            one = self._next_remote()
            self._living.append(one)
            return lambda: api.add_running(pod(one, size), addresses(one, size))
        oldest = self._living.pop(0)
        return lambda: api.delete(pod(oldest, size))

    def _next_remote(self) -> int:
        """Return the next Pod of another node; numbers begin again before the addresses of a node end."""
        while True:
            one = self._next_pod
            self._next_pod = one + 1 if one + 1 < 2 * self._size.pods else self._size.pods
            if node_of(one, self._size) != NODE:
                return one


def sustained(sim: Simulation, probe: Probe, agent: Agent, churn: Churn, seconds: float) -> None:
    """Print the times of single changes during others, by minute."""
    print(f"\n{churn.rate:.0f} changes per second; milliseconds until packets show a change:\n")
    print("| minute | CPU | add a Pod, median | p99 | change a policy | p99 | change a service | p99 |")
    print("|---|" + "---:|" * 7)
    every: dict[str, list[float]] = {}
    probe.requests.clear()
    with churn.running() as end_changes:
        end = time.monotonic() + seconds
        minute = 0
        while time.monotonic() < end:
            minute += 1
            times: dict[str, list[float]] = {}
            until, cpu, began = min(end, time.monotonic() + 60), agent.cpu(), time.monotonic()
            while time.monotonic() < until:
                for kind, wall in probe.changes():
                    times.setdefault(kind, []).append(wall)
                time.sleep(0.2)
            share = (agent.cpu() - cpu) / (time.monotonic() - began) / 10
            kinds = ("add a Pod", "change a policy", "change a service")
            cells = " | ".join(f"{one:.0f}" for kind in kinds for one in summary(times[kind]))
            print(f"| {minute} | {share:.0f} % | {cells} |", flush=True)
            for kind, walls in times.items():
                every.setdefault(kind, []).extend(walls)
        rate, late = end_changes()
    took = sim.wait_until_equal(60)
    every["of these, the request"] = probe.requests
    print("\n| of all minutes | count | median | p99 |\n|---|---:|---:|---:|")
    for kind, walls in every.items():
        median, tail = summary(walls)
        print(f"| {kind} | {len(walls)} | {median:.0f} | {tail:.0f} |")
    print(
        f"\n{rate:.1f} changes per second, at most {late:.1f} s late;"
        f" the maps are those of the API {took:.1f} s after the last one"
    )


def measure(sim: Simulation, size: Size, options: argparse.Namespace) -> None:
    began = time.monotonic()
    fill(sim, size)
    print(f"objects: {time.monotonic() - began:.0f} s", flush=True)
    sim.agent.start()
    agent = Agent(sim)
    began = time.monotonic()
    while not sim.summary():
        time.sleep(0.1)
    print(f"synchronized after {time.monotonic() - began:.1f} s, {agent.cpu():.0f} ms of CPU\n")
    heading = (
        "| memory, MiB | RSS | PSS | maximum | maps of objects | sum of both | tables of connections |\n"
        + "|---|---:|---:|---:|---:|---:|---:|"
    )
    rows = [f"| all lists | {agent.memory()} |"]
    cpu = agent.cpu()
    local = [number for number in range(size.pods) if node_of(number, size) == NODE]
    for number in local:
        sim.add_local(pod(number, size))
    cpu = (agent.cpu() - cpu) / len(local)
    rows.append(f"| {len(local)} Pods on this node | {agent.memory()} |")
    probe = Probe(sim)
    sim.wait_until_equal(60)
    found = single_changes(probe, agent, options.count)
    print("| change | CPU ms, median | p99 | until packets show it, ms | p99 |\n|---|---:|---:|---:|---:|")
    for kind, times in found.items():
        print(f"| {kind} | {times.row()} |")
    request = " | ".join(f"{one:.1f}" for one in summary(probe.requests))
    print(f"| of these, the request | | | {request} |")
    print(f"| ADD on this node, with its objects | {cpu:.1f} | | | |", flush=True)
    rows.append(f"| single changes | {agent.memory()} |")
    if options.seconds:
        sustained(sim, probe, agent, Churn(sim.config, size, options.rate), options.seconds)
        rows.append(f"| {options.seconds:.0f} s of changes | {agent.memory()} |")
    else:
        sim.wait_until_equal(60)
    print("\n" + "\n".join([heading, *rows]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, default in (("pods", 10_000), ("policies", 500), ("services", 1_000), ("count", 100)):
        parser.add_argument(f"--{option}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    size = Size(options.pods, options.policies, options.services)
    with tempfile.TemporaryDirectory(prefix="podnet-scale-") as work, contextlib.ExitStack() as stack:
        datapath, bpffs = programs.build(Path(work), stack)
        sim = stack.enter_context(simulation(Path(work), datapath, f"{bpffs}/pins"))
        try:
            measure(sim, size, options)
        except BaseException:
            print(sim.agent.log()[-5000:])
            raise


if __name__ == "__main__":
    main()
