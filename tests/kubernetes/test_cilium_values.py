# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overrides and Helm values for random clusters: neither the chart nor an agent rejects any of them."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from lablib import common
from lablib.common import LabError

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import model, plan, values
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netlink
from tests.kubernetes.cilium_checks import Agent, Kernel
from tests.kubernetes.cluster import build, cgroups, cilium_build, root
from tests.kubernetes.cluster.cilium_build import render
from tests.kubernetes.cluster.cluster import checkout_name
from tests.kubernetes.cluster.machine import CGROUP2, Machine

CLUSTERS, AGENTS = 300, 4
SEED = os.environ.get("PODNET_SEED") or "1"
# The oldest release that the collection supports, and the newest.
VERSIONS = ("1.15.19", "1.20.2")
RELEASES = ((5, 10), (5, 15), (6, 1), (6, 6), (6, 8), (6, 12), (6, 18))
REQUESTS = {
    "host_routing": ("legacy", "bpf"),
    "device_mode": ("veth", "netkit", "netkit-l2"),
    "big_tcp": ("disabled", "ipv4", "ipv6", "enabled"),
    "bbr": ("disabled", "enabled"),
}


@dataclass(frozen=True)
class RandomCluster:
    """A cluster that runs: its release, Helm values, rendered configuration and the kernel of each node."""

    version: str
    values: Mapping[str, Any]
    config: Mapping[str, str]
    kernels: Mapping[str, Kernel]


def config_map(values: Mapping[str, Any], version: str, *arguments: str | Path) -> dict[str, str]:
    """Return the agents' configuration that the chart renders."""
    show = ("--show-only", "templates/cilium-configmap.yaml")
    text = render(values, build.KUBERNETES, *show, *arguments, version=version)
    found = [one for one in yaml.safe_load_all(text) if one and one["metadata"]["name"] == "cilium-config"]
    return {key: str(value) for key, value in found[0]["data"].items()}


def random_values(rng: random.Random) -> dict[str, Any]:
    """Return values of an existing installation, not always valid ones."""

    def maybe(probability: float) -> bool:
        return rng.random() < probability

    found: dict[str, Any] = {
        "ipv6": {"enabled": maybe(0.5)},
        "kubeProxyReplacement": maybe(0.8),
        "routingMode": rng.choice(("native", "native", "native", "tunnel")),
        "ipv4NativeRoutingCIDR": "10.0.0.0/8",
        "bpf": {"masquerade": maybe(0.4)},
        "hostFirewall": {"enabled": maybe(0.1)},
        "endpointRoutes": {"enabled": maybe(0.2)},
        "enableMasqueradeRouteSource": maybe(0.1),
    }
    if maybe(0.8):
        found["ipv6NativeRoutingCIDR"] = "fd00::/8"
    if maybe(0.7):
        found["bpf"]["hostLegacyRouting"] = maybe(0.6)
    if maybe(0.1):
        found["bpf"]["tproxy"] = True
    if maybe(0.3):
        found["bpf"]["datapathMode"] = rng.choice(("veth", "netkit", "netkit-l2", "auto"))
    for name in ("enableIPv4BIGTCP", "enableIPv6BIGTCP"):
        if maybe(0.3):
            found[name] = maybe(0.5)
    for name in ("enableIPv4Masquerade", "enableIPv6Masquerade"):
        if maybe(0.3):
            found[name] = maybe(0.5)
    if maybe(0.4):
        found["bandwidthManager"] = {
            "enabled": maybe(0.7),
            "bbr": maybe(0.5),
            "bbrHostNamespaceOnly": maybe(0.3),
        }
    if maybe(0.1):
        found["encryption"] = {"enabled": True, "type": rng.choice(("ipsec", "wireguard"))}
    if maybe(0.1):
        found["egressMasqueradeInterfaces"] = "eth0"
    if maybe(0.1):
        found["ipMasqAgent"] = {"enabled": True}
    if maybe(0.2):
        found["loadBalancer"] = {"mode": "dsr", "dsrDispatch": rng.choice(("opt", "ipip", "geneve"))}
    return found


def random_kernels(rng: random.Random) -> dict[str, Kernel]:
    """Return one to three nodes, mostly with equal kernels and NICs."""

    def kernel() -> Kernel:
        release = rng.choice(RELEASES)
        return Kernel(release, release >= (6, 7) and rng.random() < 0.8, rng.choice((65536, 185000, 524280)))

    common, count = kernel(), rng.randint(1, 3)
    return {f"node{number}": common if rng.random() < 0.8 else kernel() for number in range(1, count + 1)}


def random_cluster(rng: random.Random) -> RandomCluster:
    """Return a cluster whose values the chart renders and whose agents start."""
    while True:
        version, installed = rng.choice(VERSIONS), random_values(rng)
        kernels = random_kernels(rng)
        try:
            config = config_map(installed, version)
        except LabError:
            continue
        if not any(Agent(config, kernel, version).refusals() for kernel in kernels.values()):
            return RandomCluster(version, installed, config, kernels)


def node_of(kernel: Kernel) -> model.Node:
    """Return the kernel as cilium_info reports it."""
    helpers = {"bpf_redirect_neigh": (5, 10), "bpf_redirect_peer": (5, 10), "bpf_skb_set_tstamp": (5, 18)}
    return model.Node(
        kernel=".".join(map(str, kernel.release)),
        netkit=kernel.netkit,
        netkit_scrub=kernel.scrub,
        missing_helpers=[name for name, since in helpers.items() if kernel.release < since],
        ipv4_big_tcp=kernel.release >= (6, 3),
        ipv6_big_tcp=kernel.release >= (5, 19),
        gso_limit=kernel.gso_limit,
        bbr=True,
    )


def random_request(rng: random.Random) -> dict[str, str]:
    """Return requested settings, in half of the cases only ``auto``."""
    if rng.random() < 0.5:
        return dict.fromkeys(REQUESTS, "auto")
    return {name: rng.choice(("auto", "keep", *some)) for name, some in REQUESTS.items()}


# The agent writes it when it has accepted its configuration.
STARTED = "Starting hive"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Yield a machine with the agent's program, which reaches no API."""
    name = checkout_name("agent")
    group = f"podnet-kube-{name}"
    cgroups.remove(group)
    made = Machine("agent", tmp_path, f"podnet-{name}", group)
    cgroups.create(made.group)
    subprocess.run(["ip", "netns", "delete", made.netns], stderr=subprocess.DEVNULL, check=False)
    common.run(["ip", "netns", "add", made.netns])
    try:
        made.boot([cilium_build.programs(), root.layer()])
        yield made
    finally:
        cgroups.remove(group)
        common.run(["ip", "netns", "delete", made.netns])


def rejection(machine: Machine, config: Mapping[str, str]) -> str:
    """Return why the agent rejects a configuration; empty if it accepts it."""
    folder = "/etc/cilium"
    machine.run("mkdir", "-p", folder)
    local = {"lib-dir": f"/{cilium_build.SOURCE}", "cgroup-root": f"{CGROUP2}/{machine.group}"}
    local["k8s-kubeconfig-path"] = "/etc/kubeconfig"
    cluster = {"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "c"}}
    kubeconfig = {
        "current-context": "c",
        "clusters": [cluster],
        "contexts": [context],
        "users": [{"name": "c"}],
    }
    machine.write(local["k8s-kubeconfig-path"], json.dumps(kubeconfig))
    machine.run("find", folder, "-type", "f", "-delete")
    for key, value in {**config, **local}.items():
        machine.write(f"{folder}/{key}", value)
    command = machine.enter("K8S_NODE_NAME=node1", "cilium-agent", f"--config-dir={folder}")
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert agent.stdout
    output = []
    try:
        for line in agent.stdout:
            output.append(line)
            if STARTED in line:
                return ""
            if "level=fatal" in line:
                return line
        raise AssertionError("".join(output[-20:]))
    finally:
        agent.kill()
        agent.wait()


def test_agent_agrees_with_the_table(machine: Machine) -> None:
    """The agent itself, on the running kernel, accepts and rejects as the table does."""
    rng = random.Random(SEED)
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    kernel = Kernel((release[0], release[1]), netlink.has_link_kind("netkit"), 524280)
    counts: Counter[bool] = Counter()
    while min(counts[True], counts[False]) < AGENTS:
        try:
            config = config_map(random_values(rng), VERSIONS[-1])
        except LabError:
            continue
        refusals = Agent(config, kernel, VERSIONS[-1]).early_refusals()
        reason = rejection(machine, config)
        assert bool(reason) == bool(refusals), (refusals, reason, config)
        counts[not refusals] += 1


def test_no_agent_and_no_chart_rejects_the_values(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    counts: Counter[str] = Counter()
    for number in range(CLUSTERS):
        cluster, request = random_cluster(rng), random_request(rng)
        seen = json.dumps([SEED, number, cluster.version, cluster.values, repr(cluster.kernels), request])
        state = model.Cluster(cluster.config)
        overridden = []
        for name, kernel in cluster.kernels.items():
            agent = model.Agent(cluster.version, Agent(cluster.config, kernel, cluster.version).settings())
            found = plan.plan(model.Target(name, state, node_of(kernel), agent), request)
            if found.problems:
                assert set(request.values()) != {"auto"}, (seen, name, found.problems)
                counts["refused"] += 1
                continue
            override = Agent(state.configured(found.keys), kernel, cluster.version)
            assert not override.refusals(), (seen, name, found.keys)
            # What the plan waits for is what the agent will report.
            assert override.settings() == found.expected, (seen, name, found.keys)
            counts["planned"] += 1
            overridden.append(values.Overridden(name, state, found.keys))
        keys, problems = values.common_keys(overridden)
        if not keys or problems or len(overridden) < len(cluster.kernels):
            continue
        counts["rendered"] += 1
        file = tmp_path / "values.json"
        file.write_text(json.dumps(values.helm_values(keys)))
        rendered = config_map(cluster.values, cluster.version, "--values", file)
        for name, kernel in cluster.kernels.items():
            assert not Agent(rendered, kernel, cluster.version).refusals(), (seen, name, keys)
        assert not values.compare(rendered, cluster.config, keys), (seen, keys)
        after = [values.Overridden(one.name, model.Cluster(rendered), one.keys) for one in overridden]
        assert not values.differences(after), (seen, keys)
    assert counts["planned"] > CLUSTERS / 2 and counts["rendered"] > CLUSTERS / 5, counts
