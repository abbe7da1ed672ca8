# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the datapath of one node in a simulated cluster: CPU and wall-clock time of changes, and memory.

The objects are passed to ``LiveEntries`` as the agent does; the maps are those of the running kernel. CPU
time includes the kernel's part. Prints a Markdown table.

usage: python3 -m bench.agent_scale.bench [--pods 10000] [--policies 500] [--services 1000] [--count 500]
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.live import LiveEntries
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import Pod
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import read_interfaces
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach
from bench import programs
from bench.agent_scale.objects import Size, pod, policies, services
from tests.support.namespaces import Namespaces

NODE = "node0"


class Times:
    """CPU and wall-clock milliseconds of calls."""

    def __init__(self) -> None:
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def call(self, function: Callable[[], Any]) -> None:
        cpu, wall = time.process_time(), time.monotonic()
        function()
        self.cpu.append((time.process_time() - cpu) * 1000)
        self.wall.append((time.monotonic() - wall) * 1000)

    @property
    def row(self) -> str:
        cells = []
        for found in (self.cpu, self.wall):
            ordered = sorted(found)
            tail = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
            cells += [f"{statistics.median(found):.2f}", f"{tail:.2f}"]
        return " | ".join(cells)


def memory(field: str = "VmRSS") -> float:
    """Return a line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


@contextlib.contextmanager
def node(work: str) -> Iterator[tuple[Namespaces, str, str]]:
    """Return namespaces, the name of the node's one and the path of its pins, with programs loaded."""
    with contextlib.ExitStack() as stack:
        datapath, bpffs = programs.build(Path(work), stack)
        namespaces = Namespaces()
        stack.callback(namespaces.delete)
        name = namespaces("scale")
        with namespaces.inside(name):
            attach.present(attach.Desired(f"{bpffs}/pins"), datapath, {})
            stack.callback(attach.absent, f"{bpffs}/pins")
            yield namespaces, name, f"{bpffs}/pins"


def endpoint(one: Pod, number: int) -> dict[str, Any]:
    return {
        "name": f"e{number}",
        "device": f"s{number}",
        "addresses": [str(address) for address in one.addresses],
        "display_name": one.name,
        "uid": one.uid,
    }


def of_new_identity(number: int, size: Size) -> Pod:
    """Return a Pod whose namespace is of another team, which policies distinguish."""
    one = pod(number, size)
    namespace, shift = int(one.labels["@namespace"][1:]), number // size.namespaces % 9
    team = f"t{(namespace + 1 + shift) % 10}"
    labels = {**one.labels, "@namespace:team": team, "app.kubernetes.io/part-of": "p1"}
    return replace(one, labels=labels)


def measure(size: Size, count: int) -> Iterator[tuple[str, Times]]:
    pods = {one.name: one for one in (pod(number, size) for number in range(size.pods))}
    declared, fronts = list(policies(size)), list(services(size))
    local = [one for one in pods.values() if one.node == NODE]
    print(f"objects: {memory():.0f} MiB, {len(local)} Pods on this node")
    with tempfile.TemporaryDirectory(prefix="podnet-scale-") as work, node(work) as (namespaces, name, pins):
        links = [f"link add s{n} type veth peer name s{n + 1}" for n in range(0, len(local) + 2, 2)]
        namespaces.ip(name, *links)
        interfaces = read_interfaces()
        entries = LiveEntries(pins, "cni", {"node": NODE, "in_cluster": True})
        endpoints = [endpoint(one, number) for number, one in enumerate(local)]
        entries.add(endpoints[:-1], interfaces)
        first = Times()
        first.call(lambda: entries.set_cluster(pods, declared, fronts))
        yield "first lists", first
        print(f"agent: {memory():.0f} MiB")
        numbers = range(size.pods, size.pods + count)
        remote = [one for one in (pod(number, size) for number in numbers) if one.node != NODE]
        yield from changes(entries, "add a Pod of a known identity", remote)
        removed = Times()
        for one in remote:
            removed.call(lambda one=one: entries.update_pods({one.name: None}))
        yield "remove it", removed
        new = [of_new_identity(number, size) for number in numbers]
        yield from changes(entries, "add a Pod of a new identity", new)
        removed = Times()
        for one in new:
            removed.call(lambda one=one: entries.update_pods({one.name: None}))
        yield "remove it", removed
        added, deleted = Times(), Times()
        for _round in range(min(count, 100)):
            added.call(lambda: entries.add(endpoints[-1:], interfaces))
            deleted.call(lambda: entries.remove([endpoints[-1]["name"]]))
        yield "ADD on this node", added
        yield "DEL on this node", deleted
        policy, service = Times(), Times()
        for number in range(10):
            changed = declared[:]
            changed[number] = replace(declared[number], rules=declared[number + 1].rules)
            policy.call(lambda changed=changed: entries.set_cluster(pods, changed, fronts))
        yield "change a policy", policy
        for number in range(10):
            fewer = fronts[:]
            fewer[number] = replace(fewer[number], backends=fewer[number].backends[1:])
            service.call(lambda fewer=fewer: entries.set_cluster(pods, changed, fewer))
        yield "change a service", service
        print(f"agent: {memory():.0f} MiB, maximum {memory('VmHWM'):.0f} MiB")
        entries.close()


def changes(entries: LiveEntries, title: str, pods: list[Pod]) -> Iterator[tuple[str, Times]]:
    times = Times()
    for one in pods:
        times.call(lambda one=one: entries.update_pods({one.name: one}))
    yield title, times


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for option, default in (("pods", 10_000), ("policies", 500), ("services", 1_000), ("count", 500)):
        parser.add_argument(f"--{option}", type=int, default=default)
    options = parser.parse_args()
    size = Size(options.pods, options.policies, options.services)
    print(
        "| change | CPU ms, median | CPU ms, p99 | wall-clock ms, median | p99 |\n|---|---:|---:|---:|---:|"
    )
    for title, times in measure(size, options.count):
        print(f"| {title} | {times.row} |", flush=True)


if __name__ == "__main__":
    main()
