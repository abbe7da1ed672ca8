# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guest side of services.py: transactions between Pods, with services and policies declared.

Runs as init, so that no other process executes instructions. Each result is a line of JSON on the console.
"""

from __future__ import annotations

import ipaddress
import json
import os
import statistics
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import apply
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach, sockets
from bench.icount.guest import print_result, run_as_init
from bench.icount.node import AGREEING, CONTROL, DATA, FAR, NEAR, OBJECT, Node, measure, run

CGROUPS = "/sys/fs/cgroup"
BACKENDS = 10  # of the services that are not used


def address_of_service(path: str) -> str:
    return {"cross": "10.96.255.1", "local": "10.96.255.2"}[path]


def services(count: int, targets: dict[str, str]) -> list[dict[str, Any]]:
    """Return services of which netperf uses the first ones."""
    found: list[tuple[str, int, str, list[str]]] = [
        (address_of_service(path), port, protocol, [target])
        for path, target in targets.items()
        for port, protocol in ((CONTROL, "tcp"), (DATA, "tcp"), (DATA, "udp"))
    ]
    first = ipaddress.ip_address("10.96.0.1")
    found += [
        (str(first + n), 80, "tcp", [f"10.81.{n >> 8}.{n + index & 255}" for index in range(BACKENDS)])
        for n in range(count - len(found))
    ]
    return [
        {
            "name": f"s{n}",
            "address": address,
            "port": port,
            "protocol": protocol,
            "backends": [{"address": one, "port": DATA if protocol == "udp" else port} for one in backends],
        }
        for n, (address, port, protocol, backends) in enumerate(found)
    ]


def policies(rules: int, peers: list[str]) -> list[dict[str, Any]]:
    """Return policies of both directions for all Pods; the last rules allow the peers."""
    cidrs = [f"198.18.{n >> 8}.{n & 255}/32" for n in range(rules - len(peers))]
    cidrs += [f"{one}/32" for one in peers]
    ports = [{"protocol": protocol, "port": 1024, "end_port": 65535} for protocol in ("tcp", "udp")]
    return [
        {
            "name": direction,
            "pods": {"labels": {"app": "bench"}},
            direction: [{peer: [{"cidr": one}], "ports": ports} for one in cidrs],
        }
        for direction, peer in (("ingress", "from"), ("egress", "to"))
    ]


def declare(nodes: tuple[Node, Node], case: dict[str, Any]) -> None:
    """Declare the Pods of both nodes with services and policies."""
    near, far = nodes
    targets = {"cross": far.address(1), "local": near.address(2)}
    peers = [near.address(1), near.address(2), far.address(1)]
    for node in nodes:
        options: dict[str, Any] = {
            "node": node.name,
            "endpoints": [
                {
                    "addresses": [node.address(index)],
                    "device": f"h{name}",
                    "name": name,
                    "labels": {"app": "bench"},
                }
                for index, name in enumerate(node.pods, 1)
            ],
        }
        if case.get("services"):
            options["services"] = services(case["services"], targets)
        if case.get("rules"):
            options["policies"] = policies(case["rules"], peers)
        with node.inside():
            apply.configure(apply.Desired(node.pins, "site", options, allow_unmatched=True))


def attach_sockets(node: Node, attached: bool) -> None:
    """Attach the programs of sockets for all processes, as both nodes share the cgroups, or detach them."""
    requests = sockets.select("required" if attached else "disabled", CGROUPS).requests
    with node.inside():
        attach.present(attach.Desired(node.pins, requests, "sockets"), OBJECT, {})


def main() -> None:
    plan = json.loads(Path("plan.json").read_text())
    run("insmod", "meta.ko")
    run("mount", "-t", "cgroup2", "none", CGROUPS)
    Path("/run/netns").mkdir(exist_ok=True)
    run("ip", "netns", "attach", NEAR, "1")
    run("ip", "netns", "add", FAR)
    run("ip", "link", "add", "wire1", "type", "veth", "peer", "name", "wire2", "netns", FAR)
    near, far = Node(1, NEAR, 2), Node(2, FAR, 1)
    print_result("start", kernel=os.uname().release)
    for node in (near, far):
        node.prepare()
        node.make(plan["driver"], True)
    attached = False
    for case in plan["cases"]:
        if case.get("sockets", False) != attached:
            attached = not attached
            attach_sockets(near, attached)
        declare((near, far), case)
        for path in plan["paths"]:
            direct = far.address(1) if path == "cross" else near.address(2)
            server = far.pods[0] if path == "cross" else near.pods[1]
            address = address_of_service(path) if case.get("by_service") else direct
            for test in plan["tests"]:
                samples = measure(near.pods[0], server, address, test)
                print_result(
                    "result",
                    case=case["name"],
                    path=path,
                    test=test,
                    median=statistics.median(samples[-AGREEING:]),
                    samples=samples,
                )
    print_result("end")


if __name__ == "__main__":
    run_as_init(main)
