# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure ADD and DEL of the CNI plugin beside the reference plugins ptp and bridge, in one run.

Every plugin runs as a process, as a container runtime runs it: one request after the other, then 8 at a time.
IPAM is host-local, and for ADD without IPAM a program that returns a fixed address. Prints a Markdown table.
Needs Debian's containernetworking-plugins.

usage: python3 -m bench.cni.bench [--count 48]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach
from bench import programs
from tests.support.agent import PLUGINS, Agent
from tests.support.checkout import CHECKOUT
from tests.support.namespaces import Namespaces, enter

HERE = Path(__file__).parent
PLUGIN = CHECKOUT / "roles/cni/files/plugin"
RANGES = [[{"subnet": "10.81.0.0/16"}], [{"subnet": "fd81::/64"}]]
PARALLEL = 8


class Bench:
    """A node with programs and an agent, and containers for the plugins."""

    def __init__(self, work: Path, stack: contextlib.ExitStack) -> None:
        self.work = work
        datapath, bpffs = programs.build(work, stack)
        subprocess.run(["make", "-s", "-C", PLUGIN, f"OUT={work}"], check=True)
        subprocess.run(["gcc", "-O2", "-static", "-o", work / "fixed", HERE / "fixed.c"], check=True)
        self.ns = Namespaces()
        stack.callback(self.ns.delete)
        self.node = self.ns("node")
        self.ns.sysctl(self.node, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        pin_path = f"{bpffs}/{self.node}"
        with self.ns.inside(self.node):
            attach.present(attach.Desired(pin_path), datapath, {})
        settings = {"node": "n", "driver": "veth", "object": datapath, "pin_path": pin_path}
        self.agent = Agent(self.node, work, settings)
        self.agent.start()
        stack.callback(self.agent.stop)
        self._numbers = itertools.count(1)

    def config(self, plugin: str, ipam: str) -> dict[str, Any]:
        settings: dict[str, Any] = {"type": ipam}
        if ipam == "host-local":
            settings |= {"dataDir": str(self.work / f"ipam-{plugin}"), "ranges": RANGES}
        more = {"bridge": f"br-{os.getpid() % 1000}", "isGateway": True} if plugin == "bridge" else {}
        return {"cniVersion": "1.0.0", "name": "bench", "type": plugin, "ipam": settings, **more}

    def containers(self, count: int) -> list[tuple[str, str]]:
        """Return container IDs and the paths of their new namespaces."""
        found = []
        for number in itertools.islice(self._numbers, count):
            found.append((f"bench-{number >> 8}.{number & 255}", f"/run/netns/{self.ns(f'b{number}')}"))
        return found

    def call(self, command: str, config: dict[str, Any], container: tuple[str, str]) -> float:
        """Run a plugin in the node's namespace; return the milliseconds that it took."""
        folder = str(self.work) if config["type"] == "podnet" else PLUGINS
        variables = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container[0],
            "CNI_NETNS": container[1],
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{self.work}:{PLUGINS}",
            "PODNET_AGENT_SOCKET": str(self.agent.socket),
        }
        given, output = (self.work / f"{container[0]}.{name}" for name in ("in", "out"))
        given.write_text(json.dumps(config))
        program = f"{folder}/{config['type']}"
        files = [
            (os.POSIX_SPAWN_OPEN, 0, given, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        # subprocess takes more CPU time than the plugin, while it blocks the other threads.
        began = time.perf_counter()
        pid = os.posix_spawn(program, [program], variables, file_actions=files)
        status = os.waitpid(pid, 0)[1]
        took = (time.perf_counter() - began) * 1000
        if status:
            raise SystemExit(f"{config['type']} {command}: {output.read_text()}")
        return took


@contextlib.contextmanager
def prepared() -> Iterator[Bench]:
    """Yield a bench, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="podnet-cni-") as work, contextlib.ExitStack() as stack:
        yield Bench(Path(work), stack)


def measure(bench: Bench, plugin: str, ipam: str, count: int) -> tuple[float, float, float]:
    """Return the median milliseconds of ADD, of ADD at 8 at a time, and of DEL."""
    config = bench.config(plugin, ipam)
    containers = bench.containers(count)

    def add(container: tuple[str, str]) -> float:
        return bench.call("ADD", config, container)

    def delete(container: tuple[str, str]) -> float:
        return bench.call("DEL", config, container)

    def at_home(function: Callable[[tuple[str, str]], float], container: tuple[str, str]) -> float:
        enter(f"/run/netns/{bench.node}")
        return function(container)

    with ThreadPoolExecutor(1) as one:
        serial = list(one.map(lambda c: at_home(add, c), containers))
        removed = list(one.map(lambda c: at_home(delete, c), containers))
    with ThreadPoolExecutor(PARALLEL) as many:
        parallel = list(many.map(lambda c: at_home(add, c), containers))
        list(many.map(lambda c: at_home(delete, c), containers))
    return statistics.median(serial), statistics.median(parallel), statistics.median(removed)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=48)
    options = parser.parse_args()
    if not Path(PLUGINS, "ptp").exists():
        raise SystemExit(f"{PLUGINS}/ptp is missing: install containernetworking-plugins")
    cases = [("podnet", "fixed"), ("podnet", "host-local"), ("ptp", "host-local"), ("bridge", "host-local")]
    with prepared() as bench:
        print("| plugin | IPAM | ADD, ms | ADD, 8 at a time, ms | DEL, ms |\n|---|---|---|---|---|")
        for plugin, ipam in cases:
            numbers = measure(bench, plugin, ipam, options.count)
            print(f"| {plugin} | {ipam} | {' | '.join(f'{one:.1f}' for one in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
