# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster on this computer: a control plane and nodes, each in namespaces of its own.

A bridge in the network namespace of the control plane connects the machines. No route leads out of it.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lablib import common

from tests.kubernetes.cluster import build, cache, cgroups, cilium, cni, images, podnet, root
from tests.kubernetes.cluster.control_plane import PROXY, ApiServer, kubelet_user, start_controllers
from tests.kubernetes.cluster.host import Host
from tests.kubernetes.cluster.machine import Machine
from tests.kubernetes.cluster.node import AnyNode, Node
from tests.support.checkout import CHECKOUT

ADDRESSES = "172.30.0.1", "fd30::1"
PREFIXES = 24, 64
NODES = 2
PROXY_MODES = "nftables", "iptables"
CNIS = {
    "cilium": cni.Cni(cilium.install, cilium.layers, proxy=False),
    "podnet": cni.Cni(podnet.install),
    "podnet-services": cni.Cni(podnet.install_with_services, proxy=False),
    "ptp": cni.Cni(cni.install_ptp),
}


class AnyCluster(ABC):
    """A cluster by its name, whose control plane is a machine on this computer.

    A new object for a running cluster uses it. The cluster runs until ``down``, also when this process ends.
    """

    # Where an emulated node needs more time, timeouts are multiplied by this factor.
    patience = 1
    # The mode of kube-proxy, empty if the nodes do not run it.
    proxy = PROXY_MODES[0]

    def __init__(self, name: str, version: str, driver: str) -> None:
        self.name, self.version, self.driver = name, version, driver
        self.folder = cache.folder() / "clusters" / name
        self.group = f"podnet-kube-{name}"
        self.control = Machine("control", self.folder, f"podnet-{name}-control", self.group)
        self.server = ApiServer(self.control, ADDRESSES[0])

    @property
    @abstractmethod
    def nodes(self) -> Sequence[AnyNode]:
        """The nodes."""

    @property
    def machines(self) -> list[Host]:
        """The control plane and all nodes."""
        return [self.control, *self.nodes]

    def _layers(self) -> list[Path]:
        """Return the layers of the machines' roots, the top one first."""
        common.require_root_and_commands()
        base, programs = root.layer(), build.programs(self.version)
        return [images.layer(programs, base), programs, base]

    def _start_control(self, layers: list[Path]) -> None:
        self.control.boot(layers)
        self.server.start(tuple(node.name for node in self.nodes))
        self.server.wait()
        start_controllers(self.server, 50 * self.patience)
        common.write_atomic(self.kubeconfig, self.server.kubeconfig(), 0o600)
        common.write_atomic(
            self.folder / "kubectl", f'#!/bin/sh\nexec {shlex.join(self._kubectl())} "$@"\n', 0o755
        )
        for node in self.nodes:
            self.kubectl("create", "-f", "-", given=json.dumps(node.manifest()))

    def _start_kubelets(self) -> None:
        """Start CoreDNS, kubelets and kube-proxies, and wait until all are ready."""
        self.kubectl("apply", "-f", Path(__file__).with_name("coredns.yml"))
        for node in self.nodes:
            self._start_kubelet(node)
        self._wait_ready()

    def _start_kubelet(self, node: AnyNode) -> None:
        node.start_kubelet(self.server.kubeconfig(kubelet_user(node.name)))
        if self.proxy:
            node.start_proxy(self.proxy, self.server.kubeconfig(PROXY))

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; the namespace of the control plane reaches its server."""
        return self.folder / "kubeconfig"

    def _kubectl(self) -> list[str]:
        enter = ["nsenter", f"--net=/run/netns/{self.control.netns}"]
        program = build.programs(self.version) / build.BIN / "kubectl"
        return [*enter, str(program), "--kubeconfig", str(self.kubeconfig)]

    def kubectl(self, *arguments: str | Path, given: str = "") -> str:
        """Run kubectl as the administrator; return its output, or raise ``LabError``."""
        return common.run([self.folder / "kubectl", *arguments], given=given)

    def wait_for(self, *arguments: str, seconds: int = 60) -> None:
        """Run a command of kubectl that waits, with a timeout."""
        self.kubectl(*arguments, f"--timeout={seconds * self.patience}s")

    def _wait_ready(self) -> None:
        """Wait until all nodes and CoreDNS are ready."""
        try:
            self.wait_for("wait", "nodes", "--all", "--for=condition=Ready", seconds=180)
            self.wait_for("-n", "kube-system", "rollout", "status", "deployment/coredns", seconds=180)
        except common.LabError as error:
            events = self.kubectl("events", "-A", "--types=Warning")
            logs = "\n".join(machine.logs() for machine in self.machines)
            raise common.LabError(f"{logs}\n{events}\n{error}") from error

    def _remove(self, machines: Iterable[Machine]) -> None:
        """Remove everything that the cluster left on this computer; none is no error."""
        cgroups.remove(self.group)
        for machine in machines:
            if Path("/run/netns", machine.netns).exists():
                common.run(["ip", "netns", "delete", machine.netns])
        if self.folder.exists():
            common.remove_tree(self.folder)

    @staticmethod
    def _ip(netns: str, lines: list[str]) -> None:
        """Run lines of ip(8) in a network namespace."""
        common.run(["ip", "-n", netns, "-batch", "-"], given="\n".join(lines) + "\n")


class Cluster(AnyCluster):
    """A cluster whose nodes are machines; clusters with different names run at the same time."""

    def __init__(self, name: str, version: str = build.KUBERNETES, nodes: int = NODES) -> None:
        super().__init__(name, version, "veth")
        self._nodes = [
            Node(number, self.folder, f"podnet-{name}-node{number}", self.group)
            for number in range(1, nodes + 1)
        ]

    @property
    def nodes(self) -> list[Node]:
        return self._nodes

    @property
    def _machines(self) -> list[Machine]:
        return [self.control, *self.nodes]

    def up(self, network: str, more: Sequence[Path] = (), proxy: str = PROXY_MODES[0]) -> None:
        """Start a new cluster with a CNI, after removing an existing one of the same name.

        ``more`` are layers for the machines' roots in addition to those of every cluster. ``proxy`` is the
        mode of kube-proxy, if clusters with this CNI have it.
        """
        if network not in CNIS:
            raise common.LabError(f"CNI={network} is unknown; set one of {', '.join(sorted(CNIS))}")
        if proxy not in PROXY_MODES:
            raise common.LabError(f"PROXY={proxy} is unknown; set one of {', '.join(PROXY_MODES)}")
        plugin = CNIS[network]
        self.proxy = proxy if plugin.proxy else ""
        layers = [*more, *plugin.layers(), *self._layers()]
        self.down()
        with common.step(f"cluster {self.name}", 30):
            self._connect()
            with ThreadPoolExecutor() as pool:
                control = pool.submit(self._start_control, layers)
                nodes = [pool.submit(self._start_node, node, layers) for node in self.nodes]
                control.result()
                for started in nodes:
                    started.result()
            plugin.install(self)
            self._start_kubelets()

    def _connect(self) -> None:
        """Create groups, network namespaces and the link between the machines."""
        self.folder.mkdir(parents=True)
        for machine in self._machines:
            cgroups.create(machine.group)
        common.run(["ip", "netns", "add", self.control.netns])
        wire = [
            "link set lo up",
            "link add wire type bridge",
            *add_addresses("wire", ADDRESSES),
            "link set wire up",
        ]
        routes = (line for node in self.nodes for line in routes_to_pods(node))
        self._ip(self.control.netns, [*wire, *routes])
        for node in self.nodes:
            self._connect_node(node)

    def _connect_node(self, node: Node) -> None:
        """Create the network namespace of a node with its uplink."""
        common.run(["ip", "netns", "add", node.netns])
        # The same after a reboot, as of a NIC: neighbor tables keep an address for several seconds.
        mac = f"02:00:00:00:00:{node.number:02x}"
        uplink = f"link add {node.name} type veth peer name eth0 address {mac} netns {node.netns}"
        self._ip(self.control.netns, [uplink, f"link set {node.name} master wire up"])
        default = (f"route add default via {address}" for address in ADDRESSES)
        lines = ["link set lo up", *add_addresses("eth0", node.addresses), "link set eth0 up", *default]
        self._ip(node.netns, lines)
        forwarding = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        common.run(["nsenter", f"--net=/run/netns/{node.netns}", "sysctl", "-qw", *forwarding])

    def _start_node(self, node: Node, layers: list[Path]) -> None:
        node.boot(layers)
        node.start_containerd()

    def reboot(self, node: Node, start_agent: Callable[[Node], None]) -> None:
        """Boot a node again after a power failure: its files remain, its devices and programs do not."""
        layers = self._layers()
        node.halt()
        self._ip(self.control.netns, [f"link delete {node.name}"])
        common.run(["ip", "netns", "delete", node.netns])
        self._connect_node(node)
        node.boot(layers)
        node.restart_containerd()
        start_agent(node)
        self._start_kubelet(node)

    def down(self) -> None:
        """Remove the cluster with everything that it left on this computer; none is no error."""
        self._remove(self._machines)


def routes_to_pods(node: AnyNode) -> list[str]:
    """Return the lines of ip(8) that add the routes to a node's Pods.

    kube-apiserver connects to Pods, and replies to them.
    """
    return [f"route add {cidr} via {address}" for cidr, address in node.routes()]


def add_addresses(device: str, addresses: tuple[str, str]) -> list[str]:
    """Return the lines of ip(8) that add addresses to a device."""
    pairs = zip(addresses, PREFIXES, strict=True)
    return [f"address add {address}/{length} dev {device} nodad" for address, length in pairs]


def checkout_name(kind: str) -> str:
    """Return the name of a cluster of this checkout's tests: a run removes what a killed one left."""
    return f"{kind}-{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:6]}"
