# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare connections by a Service with direct ones, beside kube-proxy in each of its modes.

The cluster has 1,000 Services of one Pod. netperf measures one connection directly and one by a Service in
turns, and the median of their ratios is printed in a Markdown table.

usage: python3 -m bench.kubernetes.services [--services 1000] [--rounds 15] [--seconds 2]
"""

from __future__ import annotations

import argparse
import json
import statistics

from tests.kubernetes.cluster.cluster import PROXY_MODES, Cluster, checkout_name
from tests.kubernetes.cluster.deployment import deployment
from tests.kubernetes.cluster.node import Node

TESTS = "TCP_RR", "TCP_CRR", "UDP_RR"
CONTROL, DATA = 12865, 5001  # ports of netperf's connections
CLIENT, NEAR, FAR = "client", "near", "far"  # Pods; the client and the near one are on the first node
PATHS = {"within a node": NEAR, "across the wire": FAR}
# Prints the namespace and the IPv4 address of each Pod.
NAMESPACES = 'for name in $(ls /run/netns); do echo "$name $(ip -n "$name" -4 -o address show eth0)"; done'


class Pods:
    """A client and two servers, with their network namespaces and addresses."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        first, second = cluster.nodes
        self.nodes: dict[str, Node] = {CLIENT: first, NEAR: first, FAR: second}
        for name, node in self.nodes.items():
            pod = {"nodeSelector": {"kubernetes.io/hostname": node.name}}
            cluster.kubectl("apply", "-f", "-", given=deployment(name, 1, ["pause"], pod=pod))
        for name in self.nodes:
            cluster.wait_for("rollout", "status", f"deployment/{name}", seconds=120)
        self.addresses = {name: self._address(name) for name in self.nodes}
        self.namespaces = {name: self._namespace(name) for name in self.nodes}
        for name in PATHS.values():
            self._run(name, "netserver", "-4")

    def _address(self, name: str) -> str:
        path = "jsonpath={.items[0].status.podIP}"
        return self.cluster.kubectl("get", "pods", f"--selector=app={name}", "-o", path)

    def _namespace(self, name: str) -> str:
        lines = self.nodes[name].run("sh", "-c", NAMESPACES).splitlines()
        (found,) = (line.split()[0] for line in lines if f" {self.addresses[name]}/" in line)
        return found

    def _run(self, name: str, *words: str) -> str:
        """Run a program of the node in a Pod's network namespace; return its output."""
        return self.nodes[name].run("nsenter", f"--net=/run/netns/{self.namespaces[name]}", *words)

    def declare(self, name: str, count: int) -> str:
        """Create Services of a Pod; return the address of the last one when the client reaches it."""
        ports = [
            {"name": f"{protocol.lower()}-{port}", "protocol": protocol, "port": port}
            for protocol, port in (("TCP", CONTROL), ("TCP", DATA), ("UDP", DATA))
        ]
        items = [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": f"{name}-{number}"},
                "spec": {"selector": {"app": name}, "ports": ports},
            }
            for number in range(count)
        ]
        self.cluster.kubectl(
            "create", "-f", "-", given=json.dumps({"kind": "List", "apiVersion": "v1", "items": items})
        )
        path = "jsonpath={.spec.clusterIP}"
        address = self.cluster.kubectl("get", "service", items[-1]["metadata"]["name"], "-o", path)
        probe = f"for try in $(seq 300); do nc -z -w1 {address} {CONTROL} && exit; sleep 1; done; exit 1"
        self._run(CLIENT, "sh", "-c", probe)
        return address

    def rate(self, address: str, test: str, seconds: int) -> float:
        """Return the transactions per second of a test from the client to an address."""
        netperf = ("netperf", "-4", "-P0", "-H", address, "-t", test, "-l", str(seconds))
        return float(self._run(CLIENT, *netperf, "--", "-o", "THROUGHPUT", "-P", f",{DATA}").split()[-1])


def measure(mode: str, services: int, rounds: int, seconds: int) -> dict[tuple[str, str], float]:
    """Return the median ratio of a connection by a Service to a direct one, by path and test."""
    cluster = Cluster(checkout_name("bench"))
    try:
        cluster.up("podnet", proxy=mode)
        pods = Pods(cluster)
        by_service = {name: pods.declare(name, services // len(PATHS)) for name in PATHS.values()}
        found = {}
        for path, name in PATHS.items():
            for test in TESTS:
                targets = [by_service[name], pods.addresses[name]]
                ratios = []
                for number in range(rounds):
                    # Each one is the first in half of the rounds.
                    order = targets if number % 2 else targets[::-1]
                    rates = {address: pods.rate(address, test, seconds) for address in order}
                    ratios.append(rates[targets[0]] / rates[targets[1]])
                found[path, test] = statistics.median(ratios)
        return found
    finally:
        cluster.down()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    found = {mode: measure(mode, options.services, options.rounds, options.seconds) for mode in PROXY_MODES}
    columns = [(path, test) for path in PATHS for test in TESTS]
    print("| kube-proxy | " + " | ".join(f"{test} {path}" for path, test in columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for mode, ratios in found.items():
        print(f"| {mode} | " + " | ".join(f"{ratios[column]:.3f}" for column in columns) + " |")


if __name__ == "__main__":
    main()
