# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NetworkPolicy objects are enforced on two nodes, also while the API and the agent are away."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kubernetes.cluster import images, podnet
from tests.kubernetes.cluster.cluster import AnyCluster, Cluster
from tests.kubernetes.cluster.node import Node
from tests.kubernetes.waiting import wait

pytestmark = pytest.mark.skipif(
    not os.environ.get("PODNET_CNI", "podnet").startswith("podnet"),
    reason="requires this collection's agent",
)
RECORDS = "/var/lib/podnet-datapath/agent/attachments"
Json = dict[str, Any]


def pod(name: str, namespace: str, node: Node, **labels: str) -> Json:
    container = {
        "name": "c",
        "image": images.AGNHOST,
        "imagePullPolicy": "Never",
        "args": ["netexec", "--http-port=8080", "--udp-port=8081"],
        "ports": [{"name": "http", "containerPort": 8080}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"nodeName": node.name, "terminationGracePeriodSeconds": 0, "containers": [container]},
    }


def policy(name: str, **spec: Any) -> Json:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "open"},
        "spec": {"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"], **spec},
    }


class Lab:
    """A server and clients: ``near`` on its node, ``far`` on the other one and in another namespace."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        first, second = cluster.nodes
        away = {"name": "away", "labels": {"team": "far"}}
        self.apply(
            *(
                {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}
                for meta in (away, {"name": "open"})
            ),
            pod("server", "open", first, app="server"),
            pod("near", "open", first, app="client"),
            pod("far", "away", second, app="client"),
        )
        self.nodes = {"server": first, "near": first, "far": second}
        for name, namespace in (("server", "open"), ("near", "open"), ("far", "away")):
            cluster.kubectl("-n", namespace, "wait", f"pod/{name}", "--for=condition=Ready", "--timeout=60s")
        found = json.loads(cluster.kubectl("-n", "open", "get", "pod", "server", "-o", "json"))
        self.server = [one["ip"] for one in found["status"]["podIPs"]]

    def apply(self, *items: Json) -> None:
        found = {"apiVersion": "v1", "kind": "List", "items": items}
        self.cluster.kubectl("apply", "-f", "-", given=json.dumps(found))

    def delete(self, *names: str) -> None:
        self.cluster.kubectl("-n", "open", "delete", "networkpolicy", "--ignore-not-found", *names)

    def enter(self, client: str, *command: str) -> list[str]:
        """Return a command in the network namespace of a Pod, which does not need the API."""
        node, namespace = self.nodes[client], "away" if client == "far" else "open"
        for file in node.path(RECORDS).glob("*.json"):
            record = json.loads(file.read_text())
            if record["pod"] == f"{namespace}/{client}":
                return node.enter("nsenter", f"--net={record['netns']}", *command)
        raise AssertionError(f"{node.name} has no record of {client}")

    def reached(self) -> dict[str, list[bool]]:
        """Return by client whether HTTP and ICMP of both families reach the server."""
        commands = []
        for address in self.server:
            host = f"[{address}]" if ":" in address else address
            commands.append(("curl", "-sS", "-m0.5", f"http://{host}:8080/hostname"))
        commands += [("ping", "-c1", "-W0.5", address) for address in self.server]
        started = {
            client: [
                subprocess.Popen(
                    self.enter(client, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                for words in commands
            ]
            for client in ("near", "far")
        }
        return {client: [not one.wait() for one in some] for client, some in started.items()}

    def fetch(self, client: str, url: str) -> bool:
        """Return whether a client gets a response."""
        found = subprocess.run(self.enter(client, "curl", "-m1", url), capture_output=True, check=False)
        return not found.returncode

    def expect(self, near: list[bool], far: list[bool]) -> None:
        wait(lambda: self.reached() == {"near": near, "far": far}, 15)


ALL, HTTP, NONE = [True] * 4, [True, True, False, False], [False] * 4


@pytest.fixture(scope="module")
def lab(kubernetes: AnyCluster) -> Iterator[Lab]:
    if not isinstance(kubernetes, Cluster):
        pytest.skip("enters the Pods' namespaces, and kills the agent, on this computer")
    made = Lab(kubernetes)
    yield made
    kubernetes.kubectl("delete", "namespace", "open", "away", "--wait=false")


def test_policies_select_by_namespace_and_port_and_open_when_deleted(lab: Lab) -> None:
    lab.expect(ALL, ALL)
    lab.apply(policy("closed"))
    lab.expect(NONE, NONE)
    node = lab.nodes["server"]
    assert node.run("curl", "-sS", "-m2", f"http://{lab.server[0]}:8080/hostname") == "server", "probes"
    by_namespace = {"namespaceSelector": {"matchLabels": {"team": "far"}}}
    lab.apply(policy("far", ingress=[{"from": [by_namespace], "ports": [{"port": "http"}]}]))
    lab.expect(NONE, HTTP)
    policy_of = ("podnet-datapath", "policy", "open/server", "--port", "tcp/8080", "--from")
    assert node.run(*policy_of, "away/far").count(": allowed by open/far") == 2
    assert node.run(*policy_of, "open/near").count(": denied, because no rule allows it in open/closed") == 2
    assert not lab.fetch("near", f"http://{lab.server[0]}:8080/hostname")
    drops = node.run("podnet-datapath", "drops", "--wait", "0.5")
    assert "open/server ingress" in drops and "peer Pod open/near, policies open/closed, open/far" in drops
    lab.cluster.kubectl("label", "namespace", "away", "team-")
    lab.expect(NONE, NONE)
    lab.cluster.kubectl("label", "namespace", "away", "team=far")
    lab.expect(NONE, HTTP)
    lab.apply(policy("near", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]))
    lab.expect(ALL, HTTP)
    lab.cluster.kubectl("-n", "open", "label", "pod", "near", "app=other", "--overwrite")
    lab.expect(NONE, HTTP)
    lab.cluster.kubectl("-n", "open", "label", "pod", "near", "app=client", "--overwrite")
    lab.delete("closed", "far", "near")
    lab.expect(ALL, ALL)


def test_egress_is_restricted(lab: Lab) -> None:
    blocks = [{"ipBlock": {"cidr": f"{one}/{128 if ':' in one else 32}"}} for one in lab.server]
    spec: Json = {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"]}
    lab.apply(policy("out", **spec, egress=[{"to": blocks, "ports": [{"port": 8080}]}]))
    lab.expect(HTTP, ALL)
    lab.apply(policy("out", **spec))
    lab.expect(NONE, ALL)
    lab.delete("out")
    lab.expect(ALL, ALL)


def test_egress_rules_see_the_pod_behind_a_service(lab: Lab) -> None:
    labels = {"app": "server"}
    spec = {
        "selector": labels,
        "ports": [{"port": 80, "targetPort": 8080}],
        "ipFamilyPolicy": "PreferDualStack",
    }
    meta = {"name": "server", "namespace": "open"}
    lab.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    found = json.loads(lab.cluster.kubectl("-n", "open", "get", "service", "server", "-o", "json"))
    hosts = [f"[{one}]" if ":" in one else one for one in found["spec"]["clusterIPs"]]

    def reached() -> list[bool]:
        return [lab.fetch("near", f"http://{host}/hostname") for host in hosts]

    wait(lambda: reached() == [True, True])
    client: Json = {"podSelector": {"matchLabels": {"app": "client"}}, "policyTypes": ["Egress"]}
    lab.apply(policy("out", **client, egress=[{"to": [{"podSelector": {"matchLabels": labels}}]}]))
    lab.expect(ALL, ALL)
    wait(lambda: reached() == [True, True])
    lab.apply(policy("out", **client, egress=[{"to": [{"podSelector": {"matchLabels": {"app": "none"}}}]}]))
    lab.expect(NONE, ALL)
    assert reached() == [False, False]
    lab.delete("out")
    lab.expect(ALL, ALL)


@contextlib.contextmanager
def flood(lab: Lab, client: str) -> Iterator[None]:
    """Send packets of both families during the block: none may reach the server."""
    sent = [
        subprocess.Popen(
            lab.enter(client, "ping", "-i0.01", "-W1", "-q", address),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for address in lab.server
    ]
    try:
        yield
    finally:
        lab.nodes[client].run("pkill", "-INT", "-x", "ping")
        results = [one.communicate(timeout=20)[0] for one in sent]
    for result in results:
        count = int(result.partition(" packets transmitted")[0].split()[-1])
        assert count > 50, result
        assert ", 0 received" in result, result


def test_rules_stay_while_the_api_and_the_agent_are_away(lab: Lab) -> None:
    lab.apply(policy("closed"))
    lab.expect(NONE, NONE)
    server, node = lab.cluster.server, lab.nodes["server"]
    with flood(lab, "far"), flood(lab, "near"):
        server.kill()
        node.stop("podnet-agent", "KILL/5")
        time.sleep(1)
        podnet.start_agent(node)
        time.sleep(1)
        server.restart()
        wait(lambda: "cannot be read" not in node.run("podnet-datapath", "status"), 60)
    lab.delete("closed")
    lab.expect(ALL, ALL)


def test_what_cannot_be_enforced_is_reported(lab: Lab) -> None:
    ports = [{"port": number} for number in range(1000, 1400, 2)]
    lab.apply(policy("many", ingress=[{"ports": ports}]))
    node = lab.nodes["server"]
    wait(lambda: "open/many" in node.run("podnet-datapath", "status"))
    select = "--field-selector=reason=NotEnforced"
    names = "jsonpath={.items[*].involvedObject.name}"
    wait(lambda: lab.cluster.kubectl("-n", "open", "get", "events", select, "-o", names) == "many")
    lab.expect(NONE, NONE)
    lab.delete("many")
    wait(lambda: "open/many" not in node.run("podnet-datapath", "status"))
    lab.expect(ALL, ALL)
