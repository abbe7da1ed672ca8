# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sysctl_zc in the namespaces of running Pods: discovery, changes, rollback, and stale connections."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Namespaces = Any  # conftest.Namespaces
RunModule = Callable[..., dict[str, Any]]

RMEM = "net.ipv4.tcp_rmem"


class Node:
    """A namespace as node and two Pods with a small window scale; sysctl_zc runs on the node."""

    def __init__(self, namespaces: Namespaces, run: RunModule, file: Path) -> None:
        self.namespaces, self.run, self.file = namespaces, run, file
        self.host, *self.pods = (namespaces(name) for name in ("node", "one", "two"))
        for netns in (self.host, *self.pods):
            namespaces.sysctl(
                netns, ipv4__tcp_rmem="4096 131072 6291456", ipv4__tcp_wmem="4096 16384 4194304"
            )

    def __call__(self, check: bool = False, fails: bool = False, **args: Any) -> dict[str, Any]:
        pods = {"select": "named", "names": self.pods, **args.pop("pods", {})}
        args = {"file": str(self.file), "window_scale": 12, "pods": pods, **args}
        return self.run("sysctl_zc", args, self.host, check=check, fails=fails)

    def rmem(self) -> list[str]:
        read = ["sysctl", "-n", RMEM]
        return [" ".join(self.namespaces.run(netns, *read).split()) for netns in (self.host, *self.pods)]

    def connection(self, netns: str) -> tuple[socket.socket, socket.socket]:
        with self.namespaces.inside(netns), socket.create_server(("127.0.0.1", 0)) as server:
            client = socket.create_connection(server.getsockname())
            return client, server.accept()[0]


def scale(end: socket.socket) -> int:
    """Return the window scale that this end announces, from tcp_info."""
    return end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[6] >> 4


@pytest.fixture
def node(namespaces: Namespaces, run_module: RunModule, tmp_path: Path) -> Node:
    return Node(namespaces, run_module, tmp_path / "zz-podnet.conf")


def test_running_pods_get_the_scale_and_old_connections_are_reported(node: Node) -> None:
    one, two = node.pods
    old = node.connection(one)
    before = node.rmem()
    planned = node(check=True)
    assert planned["changed"] and node.rmem() == before

    made = node()
    assert [made[k] for k in ("changed", "pods", "diff")] == [planned[k] for k in ("changed", "pods", "diff")]
    assert node.rmem() == ["4096 131072 134217728"] * 3
    assert [(pod["netns"], [c["name"] for c in pod["changes"]]) for pod in made["pods"]] == [
        (pod, ["net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"]) for pod in (one, two)
    ]
    (reported,) = made["connections"]
    assert (reported["netns"], reported["scale"], reported["count"]) == (one, scale(old[0]), 2)
    local = "{}:{}".format(*old[0].getsockname())
    assert any(example.startswith(f"{local} ") for example in reported["examples"])

    new = node.connection(one)
    assert [scale(end) for end in new] == [12, 12]
    for end in old:
        end.close()
    again = node()
    assert (again["changed"], again["diff"], again["connections"]) == (False, [], [])


def test_defaults_of_new_pods_are_reported(node: Node) -> None:
    made = node(pods={"sysctls": {"net.ipv4.tcp_sack": 0}})
    assert made["new_pod_defaults"]["net.ipv4.tcp_sack"] == "1"


def test_node_wide_sysctl_is_refused_for_pods(node: Node) -> None:
    before = node.rmem()
    message = node(pods={"sysctls": {"kernel.panic": 5, "net.ipv4.tcp_sack": 0}}, fails=True)["msg"]
    assert message == (
        "pods: sysctls: kernel.panic is global in this kernel, and sysctls does not set it: set it to 5 there"
    )
    assert node.rmem() == before and not node.file.exists()
    panic = Path("/proc/sys/kernel/panic").read_text().strip()
    assert node(sysctls={"kernel.panic": panic}, pods={"sysctls": {"kernel.panic": panic}})["changed"]


def test_refusal_in_a_pod_restores_node_and_pods(node: Node) -> None:
    before = node.rmem()
    message = node(pods={"sysctls": {"net.ipv4.tcp_congestion_control": "nosuch"}}, fails=True)["msg"]
    assert message.startswith(f"pods: {node.pods[0]}: sysctls: the kernel refuses net.ipv4.tcp_congestion")
    assert message.endswith("Other namespaces: Every sysctl has its former value.")
    assert node.rmem() == before and not node.file.exists()


def test_missing_pods_are_reported(node: Node) -> None:
    assert "pods: names: network namespace nosuch does not exist" in str(
        node(pods={"names": ["nosuch"]}, fails=True)["msg"]
    )


# In private mount and PID namespaces: a managed network namespace, one with loopback only, one that only a
# process holds, and one of another user namespace.
SCENE = """
set -e
mount -t tmpfs none /run
ip netns add pod && ip -n pod link add eth0 type veth
ip netns add service
mkdir -p /run/podnet/netns && touch /run/podnet/netns/pod
unshare --net sleep 60 & held=$!
unshare --user --map-root-user --net sleep 60 & rootless=$!
until [ "$(cat /proc/$held/comm)$(cat /proc/$rootless/comm)" = sleepsleep ]; do sleep 0.05; done
nsenter -n -t $held ip link add eth0 type veth
nsenter -n -t $rootless ip link add eth0 type veth
echo $held $rootless
exec "$0" -c "$1"
"""
PRINT = """
import json
from ansible_collections.podnet.datapath.plugins.module_utils._node import pod_netns
found = pod_netns.found()
print(json.dumps([pod_netns.choose(found, s, [], [])[0] for s in ("managed", "all")] +
    [pod_netns.choose(found, "all", [], [])[1]], default=lambda o: o.name))
"""


def test_pods_are_found_by_name_and_process() -> None:
    isolated = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    out = subprocess.run(
        [*isolated, "sh", "-c", SCENE.replace('"$0"', sys.executable).replace('"$1"', f"'{PRINT}'")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.splitlines()
    held, rootless = out[0].split()
    managed, every, skipped = json.loads(out[1])
    assert managed == ["pod"]
    assert every == ["pod", f"process {held} (sleep)"]
    assert skipped == {
        "service": "has no interface but the loopback",
        f"process {rootless} (sleep)": "belongs to another user namespace",
    }
