# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods start and end while parts of their nodes fail: nothing is missing or left over.

The agent, the plugin and containerd are killed, disks fill up, nodes lose their power, and the API does not
answer for a minute. PODNET_PODS (16), PODNET_COUNT (2) and PODNET_SEED are the number of Pods, of rounds, and
their seed; `make test-chaos` runs 20 rounds of 100 Pods.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lablib.common import LabError

from ansible_collections.podnet.datapath.plugins.module_utils._programs.plan import split_pin_name
from tests.kubernetes.cluster import podnet
from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.deployment import deployment
from tests.kubernetes.cluster.node import Node
from tests.support.background import background

PODS = int(os.environ.get("PODNET_PODS") or 16)
ROUNDS = int(os.environ.get("PODNET_COUNT") or 2)
SEED = int(os.environ.get("PODNET_SEED") or random.randrange(1 << 32))
PINS = "/sys/fs/bpf/podnet/links/pods_cni"
RECORDS = "/var/lib/podnet-datapath/agent/attachments"
RESERVED = "/var/lib/cni/networks/podnet"  # of host-local
OUTAGE = 60  # seconds


def chaos_deployment(replicas: int, generation: int) -> str:
    """Return a Deployment whose Pods are replaced 16 at a time if its generation changes."""
    container = {
        "env": [{"name": "GENERATION", "value": str(generation)}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 16, "maxUnavailable": 16}}
    return deployment("chaos", replicas, ["netexec"], container, strategy=rolling)


def kill_agent(_cluster: Cluster, node: Node) -> None:
    node.stop("podnet-agent", "KILL/5")
    time.sleep(0.5)
    podnet.start_agent(node)


def kill_plugins(_cluster: Cluster, node: Node) -> None:
    for _attempt in range(20):
        node.run("sh", "-c", "pkill -KILL -x podnet || true")
        time.sleep(0.05)


def kill_containerd(_cluster: Cluster, node: Node) -> None:
    node.stop("containerd", "KILL/5")
    node.restart_containerd()


def fill_disk(_cluster: Cluster, node: Node) -> None:
    """Fill the file system of the records and of host-local for two seconds."""
    node.run("sh", "-c", "dd if=/dev/zero of=/var/lib/full bs=1M 2>/dev/null || true")
    time.sleep(2)
    node.run("rm", "-f", "/var/lib/full")


def reboot(cluster: Cluster, node: Node) -> None:
    cluster.reboot(node, podnet.start_agent)


def stop_api(cluster: Cluster, _node: Node) -> None:
    """Let the API accept connections without an answer."""
    cluster.control.run("pkill", "-STOP", "-x", "kube-apiserver")
    time.sleep(OUTAGE)
    cluster.control.run("pkill", "-CONT", "-x", "kube-apiserver")


Fault = Callable[[Cluster, Node], None]
FAULTS: tuple[Fault, ...] = (kill_agent, kill_plugins, kill_containerd, fill_disk)
# The first faults of rounds, repeatedly
LONG_FAULTS: tuple[Fault | None, ...] = (None, reboot, stop_api)


@contextlib.contextmanager
def faults(cluster: Cluster, chance: random.Random, first: Fault | None) -> Iterator[None]:
    """Cause random faults on random nodes during the block, after the one given."""

    def run(stop: threading.Event) -> None:
        fault = first or chance.choice(FAULTS)
        while True:
            fault(cluster, chance.choice(cluster.nodes))
            fault = chance.choice(FAULTS)
            if stop.wait(chance.uniform(0, 2)):
                return

    with background(run):
        yield


def pods_of(cluster: Cluster, node: Node) -> list[dict[str, Any]]:
    """Return the Pods of a node that have a network namespace of their own, without those that ended."""
    selector = f"--field-selector=spec.nodeName={node.name}"
    found = json.loads(cluster.kubectl("get", "pods", "-A", selector, "-o", "json"))
    ended = ("Failed", "Succeeded")
    return [
        pod
        for pod in found["items"]
        if not pod["spec"].get("hostNetwork") and pod["status"]["phase"] not in ended
    ]


def names_in(node: Node, folder: str) -> list[str]:
    """Return the names in a folder of a node, which need not exist."""
    return node.run("sh", "-c", f"ls {folder} 2>/dev/null || true").split()


def records_of(node: Node) -> list[dict[str, Any]]:
    """Return the agent's records on a node."""
    found = []
    for path in node.path(RECORDS).glob("*.json"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # deleted or replaced meanwhile
            found.append(json.loads(path.read_text()))
    return found


def entries_of(node: Node) -> set[str]:
    """Return the addresses of the node's own Pods in the maps."""
    found = set()
    for version, size in (("4", 4), ("6", 16)):
        dump = ("bpftool", "-j", "map", "dump", "pinned", f"/sys/fs/bpf/podnet/maps/endpoints{version}")
        for entry in json.loads(node.run(*dump)):
            key, value = (bytes(int(byte, 16) for byte in entry[part]) for part in ("key", "value"))
            if int.from_bytes(value[:4], sys.byteorder):  # ifindex
                found.add(str(ipaddress.ip_address(key[:size])))
    return found


def attached_namespaces(node: Node) -> set[str]:
    """Return the network namespaces that have an interface of a CNI plugin."""
    loop = "for name in $(ls /run/netns); do ip -n $name link show eth0 && echo netns=$name; done 2>/dev/null"
    lines = node.run("sh", "-c", f"{loop}; true").splitlines()
    return {line.partition("=")[2] for line in lines if line.startswith("netns=")}


def differences(cluster: Cluster, node: Node) -> dict[str, Any]:
    """Return what exists on a node besides its Pods, or is missing, by kind; empty if everything is right.

    Network namespaces without an interface are not compared: containerd leaves one if it is killed while it
    creates it.
    """
    pods = pods_of(cluster, node)
    names = {f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in pods}
    addresses = {entry["ip"] for pod in pods for entry in pod["status"].get("podIPs") or ()}
    info = json.loads(node.run("podnet-datapath", "info"))
    links = json.loads(node.run("ip", "-json", "-details", "link"))
    devices = {link["ifname"] for link in links if link.get("ifalias", "").startswith("podnet:")}
    known = {pod["device"] for pod in info["pods"]}
    reserved = {name for name in names_in(node, RESERVED) if name[0] in "0123456789abcdef"}
    records = records_of(node)
    found = {
        "Pods": names ^ {pod["name"] for pod in info["pods"]},
        "devices": devices ^ known,
        "addresses": {one.replace(":", "_") for one in addresses}
        ^ {one.replace(":", "_") for one in reserved},
        "entries": addresses ^ entries_of(node),
        "records": len(names_in(node, RECORDS)) - len(pods),
        "namespaces": {Path(one["netns"]).name for one in records} ^ attached_namespaces(node),
        "pins": {split_pin_name(pin)[0] for pin in names_in(node, PINS)} ^ devices,
    }
    return {kind: value for kind, value in found.items() if value}


def wait_clean(cluster: Cluster) -> None:
    """Wait until nothing is missing or left over on any node."""
    deadline = time.monotonic() + 300
    while True:
        found = {node.name: differences(cluster, node) for node in cluster.nodes}
        if not any(found.values()):
            return
        assert time.monotonic() < deadline, (SEED, found, *(node.logs(40) for node in cluster.nodes))
        time.sleep(2)


def wait_ready(cluster: Cluster) -> None:
    """Wait until all Pods of the Deployment are ready."""
    try:
        cluster.kubectl("rollout", "status", "deployment/chaos", "--timeout=600s")
    except LabError as error:
        pods = cluster.kubectl("get", "pods", "-o", "wide")
        waiting = [line for line in pods.splitlines() if " 1/1 " not in line]
        events = cluster.kubectl("events", "-A", "--types=Warning").splitlines()[-40:]
        logs = (node.logs(60) for node in cluster.nodes)
        raise AssertionError("\n".join([f"seed {SEED}: {error}", *waiting, *events, *logs])) from error


def unreachable(cluster: Cluster) -> list[str]:
    """Return the addresses of Pods that the control plane cannot reach."""
    pods = [pod for node in cluster.nodes for pod in pods_of(cluster, node)]
    addresses = [entry["ip"] for pod in pods for entry in pod["status"]["podIPs"]]
    loop = 'for address; do ping -qc1 -W2 "$address" >/dev/null || echo "$address"; done'
    return cluster.control.run("sh", "-c", loop, "ping", *addresses).split()


@pytest.mark.skipif(
    os.environ.get("PODNET_CNI", "podnet") != "podnet",
    reason="compares the records of this collection's agent",
)
def test_nothing_is_missing_or_left_over(kubernetes: Cluster) -> None:
    cluster = kubernetes
    chance = random.Random(SEED)
    wait_clean(cluster)
    for number in range(ROUNDS):
        print(f"round {number} of seed {SEED}", flush=True)
        # Before the API may stop to answer
        cluster.kubectl("apply", "-f", "-", given=chaos_deployment(PODS, number))
        with faults(cluster, chance, LONG_FAULTS[number % len(LONG_FAULTS)]):
            time.sleep(chance.uniform(5, 10))
        wait_ready(cluster)
        wait_clean(cluster)
        assert unreachable(cluster) == [], f"seed {SEED}"
    cluster.kubectl("delete", "deployment", "chaos", "--wait")
    wait_clean(cluster)
