# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node with the real agent and a real API server, whose objects tests write: no kubelet, no controllers.

The node is a network namespace; ``WIRE`` is another one, which has the addresses of all Pods of other nodes.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.podnet.datapath.plugins.module_utils._cluster.state import (
    KINDS,
    REDUCE,
    ClusterState,
)
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.cluster import Cluster, by_name
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.image import differences
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.maps import Maps
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.merge import merge_records
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import read_node
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.snapshot import decode_image
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Store, all_slots
from ansible_collections.podnet.datapath.plugins.module_utils._ops import kubernetes, watch
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach
from ansible_collections.podnet.datapath.plugins.module_utils._programs.resolve import Request
from tests.kubernetes.apiserver import started
from tests.kubernetes.cluster.control_plane import ApiServer
from tests.kubernetes.manifests import Json, pod_status
from tests.support.agent import Agent
from tests.support.flood import PORT
from tests.support.namespaces import Namespaces

NODE = "node0"
REMOTE = "10.0.0.0/16", "fd00::/16"  # addresses of Pods of other nodes; the agent's Pods have LOCAL
LOCAL = "10.78.0.0/24", "fd78::/64"
PATHS = {
    "Node": "/api/v1/nodes",
    "Namespace": "/api/v1/namespaces",
    "Pod": "/api/v1/namespaces/{}/pods",
    "Service": "/api/v1/namespaces/{}/services",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
    "EndpointSlice": "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices",
}


class Client:
    """Requests to an API server by one connection for each thread; ``Api`` opens one for each request."""

    def __init__(self, config: Path) -> None:
        self._access = kubernetes.access(str(config))
        self._local = threading.local()

    def request(
        self, method: str, path: str, body: Json | None = None, kind: str = "application/json"
    ) -> Json:
        given = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind, **self._access.headers}
        try:
            status, text = self._send(method, path, given, headers)
        except (OSError, http.client.HTTPException):  # The server closes idle connections.
            self._local.connection = None
            status, text = self._send(method, path, given, headers)
        found: Json = json.loads(text or b"{}")
        assert status < 300, (method, path, found)
        return found

    def _send(
        self, method: str, path: str, body: str | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            url = urllib.parse.urlsplit(self._access.server)
            connection = self._local.connection = http.client.HTTPSConnection(
                url.hostname or "", url.port, context=self._access.context, timeout=60
            )
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read()

    def create(self, item: Json) -> Json:
        group, _slash, _kind = path_of(item).partition("/namespaces")
        version = group.removeprefix("/apis/").removeprefix("/api/").removesuffix("/nodes")
        return self.request("POST", path_of(item), {"apiVersion": version, **item})

    def replace(self, item: Json) -> Json:
        """Replace the fields of an object that ``item`` has."""
        return self.patch(item, item)

    def patch(self, item: Json, body: Json, resource: str = "") -> Json:
        return self.request("PATCH", path_of(item, True) + resource, body, "application/merge-patch+json")

    def add_running(self, item: Json, addresses: Sequence[str]) -> None:
        """Create a Pod that has addresses."""
        self.create(item)
        self.patch(item, {"status": pod_status(addresses)}, "/status")

    def delete(self, item: Json) -> None:
        self.request("DELETE", path_of(item, True) + "?gracePeriodSeconds=0")

    def list(self, path: str) -> list[Json]:
        return list(self.request("GET", path)["items"])


def path_of(item: Json, with_name: bool = False) -> str:
    meta = item["metadata"]
    path = PATHS[item["kind"]].format(meta.get("namespace"))
    return f"{path}/{meta['name']}" if with_name else path


@dataclass(frozen=True)
class LocalPod:
    """A Pod of the node: its object, network namespace and addresses."""

    item: Json
    netns: str
    addresses: list[str]


class Simulation:
    """The node, its agent, and the objects of the API."""

    def __init__(
        self, folder: Path, namespaces: Namespaces, server: ApiServer, pins: str, object_: str
    ) -> None:
        self.ns, self.server, self.pins = namespaces, server, pins
        self.netns, self.wire = namespaces.made[:2]
        self._folder, self._object = folder, object_
        self.config = folder / "kubeconfig"
        self.config.write_text(server.kubeconfig())
        self.api = Client(self.config)
        self.set_agent(self.config)
        self.network = {
            "cniVersion": "1.0.0",
            "name": "simulated",
            "type": "podnet",
            "ipam": {
                "type": "host-local",
                "dataDir": str(folder / "ipam"),
                "ranges": [[{"subnet": network}] for network in LOCAL],
            },
        }

    def close(self) -> None:
        """Stop the agent."""
        self.agent.stop()

    def set_agent(self, config: Path, environment: Mapping[str, str] | None = None) -> None:
        """Define the agent's access to the API, and additional variables of its process."""
        settings = {
            "node": NODE,
            "driver": "veth",
            "object": self._object,
            "pin_path": self.pins,
            "uplinks": ["wire0"],
            "kubeconfig": str(config),
            "kube_proxy": "replace",
            "routes": "none",
        }
        self.agent = Agent(self.netns, self._folder, settings, environment)

    def add_node(self) -> None:
        addresses = [{"type": "InternalIP", "address": "172.31.0.1"}]
        spec = {"podCIDR": LOCAL[0], "podCIDRs": list(LOCAL)}
        node = {"kind": "Node", "metadata": {"name": NODE}, "spec": spec}
        self.api.create(node)
        self.api.patch(node, {"status": {"addresses": addresses}}, "/status")

    def add_local(self, item: Json) -> LocalPod:
        """Create a Pod of this node as kubelet and a runtime do."""
        meta = self.api.create(item)["metadata"]
        netns = self.ns(meta["name"])
        arguments = {"NAMESPACE": meta["namespace"], "NAME": meta["name"], "UID": meta["uid"]}
        reply = self.agent.call(
            "ADD",
            self.network,
            CONTAINERID=netns,
            NETNS=f"/run/netns/{netns}",
            IFNAME="eth0",
            ARGS="IgnoreUnknown=1;"
            + ";".join(f"K8S_POD_{name}={value}" for name, value in arguments.items()),
        )
        assert reply.status == 0, (reply.body, self.agent.log())
        addresses = [one["address"].partition("/")[0] for one in reply.body["ips"]]
        self.api.patch(item, {"status": pod_status(addresses)}, "/status")
        return LocalPod(item, netns, addresses)

    def summary(self) -> Json:
        """Return the summary of the agent, empty before it knows all objects."""
        path = Path(f"{self.agent.socket}.cluster")
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def differences(self) -> Mapping[str, int]:
        """Return how many entries of the maps differ from those that the lists of the API result in."""
        state = ClusterState(NODE)
        for kind, path in KINDS.items():
            own = {"own_node": NODE} if kind == "pods" else {}
            found = {watch.key_of(one): REDUCE[kind](one, **own) for one in self.api.list(path)}
            state.apply(kind, {key: one for key, one in found.items() if one is not None})
        url = urllib.parse.urlsplit(self.server.url)
        state.api = {(ipaddress.ip_address(str(url.hostname)), url.port or 443)}
        state.take()
        cluster = Cluster(state.pods, by_name(state.policies), by_name(state.services))
        records = Store(self.pins).read()
        with contextlib.ExitStack() as files:
            snapshot = Maps.pinned(self.pins, files).read()
        active = decode_image(snapshot, snapshot.buffer)
        desired = Compiler(merge_records(records, cluster), read_node(self.pins), all_slots(records), active)
        desired.image.features |= snapshot.features
        return differences(active, desired.image)

    def wait_until_equal(self, seconds: float) -> float:
        """Return the seconds after which the maps are those of the API's lists. Raises ``AssertionError``."""
        began = time.monotonic()
        while found := self.differences():
            assert time.monotonic() - began < seconds, (found, self.agent.log()[-3000:])
            time.sleep(0.2)
        return time.monotonic() - began


@contextlib.contextmanager
def simulation(folder: Path, object_: str, pins: str) -> Iterator[Simulation]:
    """Yield a node with programs and an API server; the calling thread is in the node's namespace.

    The agent does not run yet.
    """
    with contextlib.ExitStack() as stack:
        namespaces = Namespaces()
        stack.callback(namespaces.delete)
        node, wire = namespaces("node"), namespaces("wire")
        namespaces.ip(
            node,
            f"link add wire0 type veth peer name wire0 netns {wire}",
            "address add 172.31.0.1/24 dev wire0",
            "address add fd31::1/64 dev wire0 nodad",
            "link set wire0 up",
        )
        namespaces.ip(
            wire,
            "address add 172.31.0.2/24 dev wire0",
            "address add fd31::2/64 dev wire0 nodad",
            "link set wire0 up",
            *(f"route add local {network} dev lo" for network in REMOTE),
            f"route add {LOCAL[0]} via 172.31.0.1",
            f"route add {LOCAL[1]} via fd31::1",
        )
        namespaces.ip(node, f"route add {REMOTE[0]} via 172.31.0.2", f"route add {REMOTE[1]} via fd31::2")
        namespaces.sysctl(node, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        stack.enter_context(namespaces.inside(node))
        attach.present(attach.Desired(pins, [Request("host_ingress", "wire0", "ingress")]), object_, {})
        stack.callback(attach.absent, pins)
        server = stack.enter_context(started(folder, node, "simulated"))
        made = Simulation(folder, namespaces, server, pins, object_)
        made.add_node()
        stack.callback(made.close)
        yield made


class Datagrams:
    """Datagrams from an address to another one, and at which of several sockets they arrive."""

    def __init__(self, sender: socket.socket, receivers: list[socket.socket], to: str) -> None:
        self._sender, self._receivers, self._to = sender, receivers, to
        for one in receivers:
            one.setblocking(False)

    def arrival(self) -> int:
        """Send a datagram; return the number of the socket that one arrives at in a millisecond, else -1."""
        with contextlib.suppress(OSError):  # an ICMP error, or no buffer
            self._sender.sendto(b"x", (self._to, PORT))
        time.sleep(0.001)
        found = -1
        for number, one in enumerate(self._receivers):
            with contextlib.suppress(BlockingIOError):
                while one.recv(16):
                    found = number
        return found

    def wait_for(self, receiver: int, quiet: int = 30, seconds: float = 60) -> float:
        """Return when datagrams begin to arrive at a socket; -1: when ``quiet`` ones in a row do not."""
        end, count, last = time.monotonic() + seconds, 0, time.monotonic()
        while True:
            found = self.arrival()
            if receiver >= 0 and found == receiver:
                return time.monotonic()
            count, last = (count + 1, last) if found < 0 else (0, time.monotonic())
            if receiver < 0 and count == quiet:
                return last
            assert time.monotonic() < end, f"no change within {seconds} s"
