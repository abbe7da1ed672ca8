# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods start and end while the agent, the plugin and containerd are killed: nothing is missing or left over.

PODNET_PODS (16), PODNET_COUNT (2) and PODNET_SEED are the number of Pods, of rounds, and their seed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lablib.common import LabError

from ansible_collections.podnet.datapath.plugins.module_utils._programs.plan import split_pin_name
from tests.kubernetes.cluster import podnet
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.deployment import deployment
from tests.kubernetes.cluster.node import Node

PODS = int(os.environ.get("PODNET_PODS") or 16)
ROUNDS = int(os.environ.get("PODNET_COUNT") or 2)
SEED = int(os.environ.get("PODNET_SEED") or random.randrange(1 << 32))
PINS = "/sys/fs/bpf/podnet/links/pods_cni"
RECORDS = "/var/lib/podnet-datapath/agent/attachments"
RESERVED = "/var/lib/cni/networks/podnet"  # of host-local


def chaos_deployment(replicas: int, generation: int) -> str:
    """Return a Deployment whose Pods are replaced 16 at a time if its generation changes."""
    container = {
        "env": [{"name": "GENERATION", "value": str(generation)}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 16, "maxUnavailable": 16}}
    return deployment("chaos", replicas, ["netexec"], container, strategy=rolling)


def kill_agent(node: Node) -> None:
    node.stop("podnet-agent", "KILL/5")
    time.sleep(0.5)
    podnet.start_agent(node)


def kill_plugins(node: Node) -> None:
    for _attempt in range(20):
        node.run("sh", "-c", "pkill -KILL -x podnet || true")
        time.sleep(0.05)


def kill_containerd(node: Node) -> None:
    node.stop("containerd", "KILL/5")
    node.restart_containerd()


def fill_disk(node: Node) -> None:
    """Fill the file system of the records and of host-local for two seconds."""
    node.run("sh", "-c", "dd if=/dev/zero of=/var/lib/full bs=1M 2>/dev/null || true")
    time.sleep(2)
    node.run("rm", "-f", "/var/lib/full")


FAULTS: tuple[Callable[[Node], None], ...] = (kill_agent, kill_plugins, kill_containerd, fill_disk)


@contextlib.contextmanager
def faults(nodes: list[Node], chance: random.Random) -> Iterator[None]:
    """Cause random faults on random nodes during the block."""
    stop = threading.Event()
    errors: list[Exception] = []

    def run() -> None:
        while not stop.wait(chance.uniform(0, 2)):
            try:
                chance.choice(FAULTS)(chance.choice(nodes))
            except LabError as error:
                errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not errors, errors


def pods_of(cluster: Cluster, node: Node) -> list[dict[str, Any]]:
    """Return the Pods of a node that have a network namespace of their own."""
    selector = f"--field-selector=spec.nodeName={node.name}"
    found = json.loads(cluster.kubectl("get", "pods", "-A", selector, "-o", "json"))
    return [pod for pod in found["items"] if not pod["spec"].get("hostNetwork")]


def names_in(node: Node, folder: str) -> list[str]:
    """Return the names in a folder of a node, which need not exist."""
    return node.run("sh", "-c", f"ls {folder} 2>/dev/null || true").split()


def differences(cluster: Cluster, node: Node) -> dict[str, Any]:
    """Return what exists on a node besides its Pods, or is missing, by kind; empty if everything is right.

    Network namespaces are not compared: containerd leaves one if it is killed while it creates it.
    """
    pods = pods_of(cluster, node)
    names = {f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in pods}
    addresses = {entry["ip"] for pod in pods for entry in pod["status"].get("podIPs") or ()}
    info = json.loads(node.run("podnet-datapath", "info"))
    links = json.loads(node.run("ip", "-json", "-details", "link"))
    devices = {link["ifname"] for link in links if link.get("ifalias", "").startswith("podnet:")}
    known = {pod["device"] for pod in info["pods"]}
    reserved = {name for name in names_in(node, RESERVED) if name[0] in "0123456789abcdef"}
    found = {
        "Pods": names ^ {pod["name"] for pod in info["pods"]},
        "devices": devices ^ known,
        "addresses": {one.replace(":", "_") for one in addresses}
        ^ {one.replace(":", "_") for one in reserved},
        "records": len(names_in(node, RECORDS)) - len(pods),
        "pins": {split_pin_name(pin)[0] for pin in names_in(node, PINS)} ^ devices,
    }
    return {kind: value for kind, value in found.items() if value}


def wait_clean(cluster: Cluster) -> None:
    """Wait until nothing is missing or left over on any node."""
    deadline = time.monotonic() + 150
    while True:
        found = {node.name: differences(cluster, node) for node in cluster.nodes}
        if not any(found.values()):
            return
        assert time.monotonic() < deadline, (SEED, found, *(node.logs(40) for node in cluster.nodes))
        time.sleep(2)


def unreachable(cluster: Cluster) -> list[str]:
    """Return the addresses of Pods that the control plane cannot reach."""
    pods = [pod for node in cluster.nodes for pod in pods_of(cluster, node)]
    failed = []
    for address in (entry["ip"] for pod in pods for entry in pod["status"]["podIPs"]):
        try:
            cluster.control.run("ping", "-c1", "-W2", address)
        except LabError:
            failed.append(address)
    return failed


@pytest.mark.skipif(
    os.environ.get("PODNET_CNI", "podnet") != "podnet",
    reason="compares the records of this collection's agent",
)
def test_nothing_is_missing_or_left_over(kubernetes: Cluster) -> None:
    cluster = kubernetes
    chance = random.Random(SEED)
    wait_clean(cluster)
    for number in range(ROUNDS):
        with faults(cluster.nodes, chance):
            cluster.kubectl("apply", "-f", "-", given=chaos_deployment(PODS, number))
            time.sleep(chance.uniform(5, 10))
        cluster.kubectl("rollout", "status", "deployment/chaos", "--timeout=180s")
        wait_clean(cluster)
        assert unreachable(cluster) == [], f"seed {SEED}"
    cluster.kubectl("delete", "deployment", "chaos", "--wait")
    wait_clean(cluster)
