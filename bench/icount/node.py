# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest side of the instruction count: two nodes and their Pods as network namespaces of one kernel.

Runs as init, so that no other process executes instructions. Each result is a line of JSON on the console.
The guest's clock counts instructions: one is a nanosecond.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
import traceback
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import apply
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns as _netns
from ansible_collections.podnet.datapath.plugins.module_utils._pods import apply as _meta_device
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach
from ansible_collections.podnet.datapath.plugins.module_utils._programs.resolve import Request
from bench.icount.guest import print_result, run_as_init
from tests.support.agent import Agent

OBJECT = str(Path("datapath.o").resolve())
# An IPAM plugin that derives the address from the end of the container ID.
IPAM = Path("fixed").resolve()
NETWORK = {"cniVersion": "1.0.0", "name": "icount", "type": "podnet", "ipam": {"type": IPAM.name}}

NEAR, FAR = "near", "far"  # the namespaces of the nodes; NEAR is the guest's initial namespace
WIRE_MTU = 8264
# Work per sample: transactions, or bytes; and options of netperf.
WORK: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "rr": ("TCP_RR", 2000, ()),
    "crr": ("TCP_CRR", 500, ()),
    "udp_rr": ("UDP_RR", 2000, ("-n", "-N")),  # connected sockets
    "udp_rr_unconnected": ("UDP_RR", 2000, ()),
    "stream": ("TCP_STREAM", 64 << 20, ()),
}
CONTROL, DATA = 12865, 5001  # ports of netperf's connections
# Sampling ends when the last samples agree; the first ones warm up caches and TCP windows.
AGREEING, AGREEMENT, MOST = 3, 0.002, 12

DRIVERS = {"host": "", "veth": "veth", "veth_bpf": "veth", "netkit": "netkit", "meta": "meta"}
AGENT = "meta_agent"  # the rung meta with Pods that the agent makes
DRIVERS[AGENT] = "meta"
SIZES = ("gso_max_size", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size")


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout


class Node:
    """A node in a namespace, with the Pods of a rung."""

    def __init__(self, number: int, name: str, pods: int) -> None:
        self.number, self.name = number, name
        self.pods = [f"pod{number}{index}" for index in range(1, pods + 1)]

    def address(self, index: int) -> str:
        """Return the address of a Pod, which the IPAM plugin of the agent's Pods also assigns."""
        return f"10.80.{self.number}.{10 + index}"

    def inside(self) -> AbstractContextManager[None]:
        return inside(self.name)

    @property
    def pins(self) -> str:
        return f"/sys/fs/bpf/node{self.number}"

    def prepare(self) -> None:
        """Configure the wire and forwarding."""
        with self.inside():
            run("ip", "link", "set", "lo", "up")
            run("ip", "link", "set", f"wire{self.number}", "mtu", str(WIRE_MTU), "up")
            run("ip", "address", "add", f"172.31.0.{self.number}/30", "dev", f"wire{self.number}")
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def _apply(self, driver: str, pods: list[dict[str, Any]], routes: list[dict[str, str]]) -> None:
        options: dict[str, Any] = {
            "pods": pods,
            "driver": driver,
            "owner": f"node{self.number}",
            "mtu": WIRE_MTU,
            "mode": "l3",
            "policy": "drop",
            "programs": {},
            "host_routes": routes,
            **dict.fromkeys(SIZES),
        }
        _meta_device.run(options, False, lambda: "")

    def make(self, driver: str, bpf: bool) -> None:
        """Create the Pods by the collection's modules, with its programs if ``bpf``."""
        addresses = {name: self.address(index) for index, name in enumerate(self.pods, 1)}
        pods = [
            {
                "name": name,
                "netns": name,
                "interface": "eth0",
                "host_interface": f"h{name}",
                "addresses": [f"{address}/32"],
                "driver": driver,
                "mtu": WIRE_MTU,
            }
            for name, address in addresses.items()
        ]
        other, wire = 3 - self.number, f"wire{self.number}"
        with self.inside():
            self._apply(
                driver, pods, [{"to": f"10.80.{other}.0/24", "via": f"172.31.0.{other}", "dev": wire}]
            )
            if not bpf:
                return
            entries = [Request("host_ingress", wire, "ingress")]
            for name in self.pods:
                entries += [
                    Request("pod_egress", f"h{name}", "from_pod"),
                    Request("pod_ingress", f"h{name}", "to_pod"),
                ]
            Path(self.pins).mkdir(exist_ok=True)
            attach.present(attach.Desired(self.pins, entries), OBJECT, {})
            endpoints = [{"addresses": [a], "device": f"h{name}"} for name, a in addresses.items()]
            apply.configure(apply.Desired(self.pins, "site", {"endpoints": endpoints}))

    def make_by_agent(self, driver: str) -> None:
        """Create the Pods by requests of a runtime to the agent, which ends before anything is measured."""
        other, wire = 3 - self.number, f"wire{self.number}"
        config = {
            "node": self.name,
            "driver": driver,
            "object": OBJECT,
            "pin_path": self.pins,
            "mtu": WIRE_MTU,
        }
        with self.inside():
            run("ip", "route", "add", f"10.80.{other}.0/24", "via", f"172.31.0.{other}", "dev", wire)
            attach.present(attach.Desired(self.pins, [Request("host_ingress", wire, "ingress")]), OBJECT, {})
        agent = Agent(self.name, Path(tempfile.mkdtemp()), config)
        agent.start()
        try:
            for index, pod in enumerate(self.pods, 1):
                run("ip", "netns", "add", pod)
                container = f"{pod}-{self.number}.{10 + index}"
                variables = {"CONTAINERID": container, "NETNS": f"/run/netns/{pod}", "IFNAME": "eth0"}
                reply = agent.call("ADD", NETWORK, PATH=str(IPAM.parent), **variables)
                if reply.status:
                    raise RuntimeError(f"ADD of {pod}: {reply.body}\n{agent.log()}")
        finally:
            agent.stop()

    def remove(self) -> None:
        with self.inside():
            self._apply("veth", [], [])
            run("ip", "route", "flush", "root", "10.80.0.0/16")
            if os.path.isdir(self.pins):
                attach.absent(self.pins)
        for pod in self.pods:  # those of the agent
            if Path("/run/netns", pod).exists():
                run("ip", "netns", "delete", pod)


def inside(netns: str) -> AbstractContextManager[None]:
    """Move the thread and its children to a namespace during the block."""
    return _netns.entered(_netns.path_of(netns))


def measure(client: str, server: str, address: str, test: str) -> list[float]:
    """Return samples of transactions or Mbit per second of the guest's clock until the last ones agree."""
    name, amount, more = WORK[test]
    with inside(server):
        serving = subprocess.Popen(
            ["netserver", "-D", "-4"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
    try:
        time.sleep(0.5)
        samples: list[float] = []
        while len(samples) < MOST:
            with inside(client):
                netperf = ("netperf", "-4", "-P", "0", "-H", address, "-t", name, "-l", str(-amount))
                options = ("--", "-o", "THROUGHPUT", "-P", f",{DATA}", *more)
                samples.append(float(run(*netperf, *options).splitlines()[-1]))
            last = samples[-AGREEING:]
            if len(last) == AGREEING and max(last) - min(last) <= AGREEMENT * min(last):
                break
        return samples
    finally:
        serving.kill()
        serving.wait()


def main() -> None:
    plan = json.loads(Path("plan.json").read_text())
    run("insmod", "meta.ko")
    Path("/run/netns").mkdir(exist_ok=True)
    run("ip", "netns", "attach", NEAR, "1")
    run("ip", "netns", "add", FAR)
    run("ip", "link", "add", "wire1", "type", "veth", "peer", "name", "wire2", "netns", FAR)
    near, far = Node(1, NEAR, 2), Node(2, FAR, 1)
    for node in (near, far):
        node.prepare()
    print_result("start", kernel=os.uname().release)
    for rung in plan["rungs"]:
        driver = DRIVERS[rung]
        try:
            if driver:
                for node in (near, far):
                    if rung == AGENT:
                        node.make_by_agent(driver)
                    else:
                        node.make(driver, rung != "veth")
            for path in ("cross", "local"):
                if not driver and path == "local":
                    continue
                client = near.pods[0] if driver else NEAR
                server = (far.pods[0] if driver else FAR) if path == "cross" else near.pods[1]
                address = "172.31.0.2"
                if driver:
                    address = far.address(1) if path == "cross" else near.address(2)
                for test in plan["tests"]:
                    samples = measure(client, server, address, test)
                    median = statistics.median(samples[-AGREEING:])
                    print_result("result", rung=rung, path=path, test=test, median=median, samples=samples)
        except Exception as error:  # continue with the next rung
            print_result("failed", rung=rung, error=str(error), trace=traceback.format_exc())
        finally:
            for node in (near, far):
                node.remove()
    print_result("end")


if __name__ == "__main__":
    run_as_init(main)
