# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods and policies of a Kubernetes API apply to the Pods of a node.

PODNET_SECONDS (10) is the duration of the flood, PODNET_SEED the seed of the changes.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import apply
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import (
    INGRESS,
    Pod,
    PodSelector,
    Policy,
    Rule,
)
from ansible_collections.podnet.datapath.plugins.module_utils._pods import api
from ansible_collections.podnet.datapath.plugins.module_utils._pods.single import CreatedPod, SinglePods
from tests.netns.bpf_node import Node
from tests.netns.pod_bench import Bench, command, pings
from tests.support.flood import PORT, Flood, udp_in

HOST = "10.77.1.1"
SECONDS = float(os.environ.get("PODNET_SECONDS") or 10)
SEED = int(os.environ.get("PODNET_SEED") or random.randrange(1 << 32))


def selector(**labels: str) -> PodSelector:
    return PodSelector(frozenset({"@namespace": "ns", **labels}.items()))


def isolate(name: str, *peers: PodSelector, **labels: str) -> Policy:
    """Return a policy that allows ingress only from ``peers``."""
    rules = (Rule(INGRESS, peers=peers),) if peers else ()
    return Policy(f"ns/{name}", "kubernetes", selector(**labels), rules, (False, None))


class ClusterNode:
    """A node whose Pods have labels of an API."""

    def __init__(self, node: Node) -> None:
        self.bench = Bench(node, "cni")
        self.spec = self.bench.spec(in_cluster=True, name="here")
        self.pods = SinglePods(self.spec, command)
        self.api: dict[str, Pod] = {}
        self.names: dict[str, str] = {}

    @property
    def node(self) -> Node:
        return self.bench.node

    def restart(self) -> None:
        """Replace the process that writes the entries."""
        self.pods.close()
        self.pods = SinglePods(self.spec, command)

    def declared(self, name: str, **labels: str) -> Pod:
        number = self.names[name]
        addresses = (ipaddress.ip_address(f"10.77.0.{number}"), ipaddress.ip_address(f"fd77::{number}"))
        everything = {"@namespace": "ns", **labels}
        return Pod(f"ns/{name}", "kubernetes", addresses, everything, "here", uid=f"uid-{name}")

    def create(self, name: str, number: int = 0) -> str:
        """Create a Pod, by default with the next number, and return its namespace."""
        self.names[name] = str(number or len(self.names) + 10)
        netns: str = self.node.ns(name)
        spec = self.bench.pod(name, int(self.names[name]), netns=f"/run/netns/{netns}")
        spec = replace(spec, display_name=f"ns/{name}", uid=f"uid-{name}")
        with self.node.ns.inside(self.node.name):
            (created,) = self.pods.create([spec], {})
        assert isinstance(created, CreatedPod), created
        return netns

    def remove(self, name: str) -> None:
        with self.node.ns.inside(self.node.name):
            self.pods.remove([f"cni-{name}"])

    def update(self, changes: Mapping[str, Pod | None]) -> None:
        with self.node.ns.inside(self.node.name):
            self.pods.update_pods({f"ns/{name}": pod for name, pod in changes.items()})

    def set(self, pods: Mapping[str, Pod], *policies: Policy) -> list[str]:
        with self.node.ns.inside(self.node.name):
            return self.pods.set_cluster({f"ns/{name}": pod for name, pod in pods.items()}, policies, ())

    def differences(self) -> bool:
        """Return whether another process would change the maps."""
        options = {**self.stored, "node": "here"}
        desired = apply.Desired(self.node.pins, "cni", options, allow_unmatched=True)
        with self.node.ns.inside(self.node.name):
            return apply.configure(desired, check=True).changed

    @property
    def stored(self) -> dict[str, object]:
        return dict(apply.Store(self.node.pins).read()["cni"].options)


@pytest.fixture
def cluster(node: Node) -> Iterator[ClusterNode]:
    made = ClusterNode(node)
    with contextlib.closing(made.pods):
        yield made


def test_pods_deny_traffic_until_the_api_knows_them(cluster: ClusterNode) -> None:
    ns = cluster.node.ns
    client, server = cluster.create("client"), cluster.create("server")
    assert pings(ns, cluster.node.name, "10.77.0.11")
    assert not pings(ns, client, "10.77.0.11") and not pings(ns, server, HOST)
    cluster.set({})
    assert not pings(ns, client, "10.77.0.11")
    known = {name: cluster.declared(name) for name in ("client", "server")}
    cluster.set({**known, "client": replace(known["client"], uid="another")})
    assert not pings(ns, client, "10.77.0.11")
    cluster.update({"client": known["client"]})
    assert pings(ns, client, "10.77.0.11") and pings(ns, client, "fd77::11") and pings(ns, server, HOST)
    cluster.update({"client": None})
    assert not pings(ns, client, "10.77.0.11") and pings(ns, cluster.node.name, "10.77.0.10")
    assert not cluster.differences()


def test_policies_apply_to_labels_of_the_api(cluster: ClusterNode) -> None:
    ns = cluster.node.ns
    client, server = cluster.create("client"), cluster.create("server")
    known = {"client": cluster.declared("client", app="web"), "server": cluster.declared("server", app="db")}
    allowed = isolate("db", selector(app="web"), app="db")
    assert cluster.set(known, allowed) == []
    assert pings(ns, client, "10.77.0.11") and not pings(ns, server, "203.0.113.1")
    cluster.update({"client": cluster.declared("client", app="other")})
    assert not pings(ns, client, "10.77.0.11") and pings(ns, server, "10.77.0.10")
    cluster.update({"client": cluster.declared("client", app="web")})
    assert pings(ns, client, "10.77.0.11")
    cluster.set(known, isolate("db", app="db"))
    assert not pings(ns, client, "10.77.0.11") and pings(ns, cluster.node.name, "10.77.0.11")
    egress = Policy("ns/out", "kubernetes", selector(app="web"), (), (None, False))
    cluster.set(known, allowed, egress)
    assert not pings(ns, client, "10.77.0.11")
    assert not cluster.differences()
    cluster.restart()
    cluster.set(known, allowed)
    assert pings(ns, client, "10.77.0.11")


def test_other_processes_compute_the_same_maps(cluster: ClusterNode) -> None:
    ns = cluster.node.ns
    client = cluster.create("client")
    cluster.create("server")
    known = {"client": cluster.declared("client", app="web"), "server": cluster.declared("server", app="db")}
    cluster.set({"server": known["server"]}, isolate("db", selector(app="web"), app="db"))
    cluster.update({"client": known["client"]})
    cluster.node.attach(object=cluster.node.object)
    inventory = api.NodeSpec(driver="veth", object=cluster.node.object, pin_path=cluster.node.pins)
    netns = ns("inventory")
    pod = api.PodSpec("inventory", ["10.77.0.99/32"], netns=f"/run/netns/{netns}")
    with ns.inside(cluster.node.name):
        api.ensure(inventory, [pod], True, command)
    assert pings(ns, client, "10.77.0.11") and not pings(ns, netns, "10.77.0.11")
    cluster.update({"client": None})
    assert not pings(ns, client, "10.77.0.11")


def test_no_change_opens_a_window(cluster: ClusterNode) -> None:
    """Datagrams of a Pod that neither the policies before nor those after a change allow never arrive."""
    chance = random.Random(SEED)
    names = ("good", "bad", "server")
    good, bad, server = (cluster.create(name) for name in names)
    known = {
        "good": cluster.declared("good", app="good"),
        "bad": cluster.declared("bad", app="bad"),
        "server": cluster.declared("server", app="server"),
    }
    allowed = isolate("server", selector(app="good"), app="server")
    variants = [
        [allowed],
        [allowed, isolate("all")],
        [allowed, isolate("more", selector(app="other"), app="server"), isolate("bad", app="bad")],
    ]
    cluster.set(known, *variants[0])
    ns = cluster.node.ns
    receiver = udp_in(ns, server, "10.77.0.12", PORT)
    with Flood([udp_in(ns, one) for one in (good, bad)], receiver) as flood:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            kind = chance.choice(["policies", "remote", "local", "restart", "other"])
            number = chance.randrange(20, 60)
            if kind == "policies":
                cluster.set(known, *chance.choice(variants))
            elif kind == "restart":
                cluster.restart()
            elif kind == "other":
                known["bad"] = cluster.declared("bad", app="bad", version=str(number))
                cluster.update({"bad": known["bad"]})
            elif kind == "remote":
                cluster.names[f"p{number}"] = str(number)
                one = cluster.declared(f"p{number}", app=chance.choice(["good", "bad", "other"]))
                cluster.update({f"p{number}": one})
                cluster.update({f"p{number}": None})
            else:
                cluster.create("extra", 99)
                cluster.remove("extra")
    assert flood.received["10.77.0.10"] and not flood.received["10.77.0.11"], (SEED, flood.received)
