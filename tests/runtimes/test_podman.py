# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""podman 4 with its CNI backend."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lablib.common import LabError

from tests.kubernetes.cluster.node import Node
from tests.runtimes import roots
from tests.runtimes.node import booted, fetch, install, leftovers

# crun refuses hybrid cgroups, and without systemd there is no journal.
SETTINGS = """\
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "cni"
[containers]
log_driver = "k8s-file"
"""
# Containers need a tmpfs or a disk: an overlay on an overlay is not possible.
STORAGE = '[storage]\ndriver = "vfs"\nrunroot = "/run/containers"\ngraphroot = "/var/lib/containers"\n'
IMAGE = """
    mkdir -p /root/image/bin
    cp /usr/bin/busybox /root/image/bin
    tar -C /root/image -c . | podman import - test
"""
RUN = ("podman", "run", "--network", "podnet")


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """Yield a node with podman, an image and the CNI plugin."""
    with booted("podman", [roots.layer("bookworm")]) as made:
        assert " 4." in made.run("podman", "--version")
        made.write("/etc/containers/containers.conf", SETTINGS)
        made.write("/etc/containers/storage.conf", STORAGE)
        install(made)
        made.run("sh", "-ec", IMAGE)
        yield made


def start(node: Node, name: str, *options: str) -> list[str]:
    """Start a web server and return its addresses."""
    server = ("/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
    node.run(*RUN, "--detach", "--name", name, *options, "test", *server)
    (network,) = json.loads(node.run("podman", "inspect", name))[0]["NetworkSettings"]["Networks"].values()
    return [network["IPAddress"], network["GlobalIPv6Address"]]


def hostname(node: Node, container: str) -> str:
    """Return the name in a container's /etc/hostname."""
    return node.run("podman", "exec", container, "/bin/busybox", "cat", "/etc/hostname")


def test_containers_reach_each_other_and_the_node(node: Node) -> None:
    addresses = start(node, "server")
    assert addresses[0].startswith("10.244.1.") and addresses[1].startswith("fd44:0:0:1::"), addresses
    for address in (*addresses, *node.addresses):
        node.run(*RUN, "--rm", "--cap-add=NET_RAW", "test", "/bin/busybox", "ping", "-c1", "-W5", address)
    for address in addresses:
        assert fetch(node, address, 80, "hostname") == hostname(node, "server")
    node.run("podman", "restart", "--time=0", "server")
    node.run("podman", "rm", "--force", "--time=0", "server")
    assert leftovers(node) == []


def test_published_ports_reach_the_container(node: Node) -> None:
    start(node, "published", "--publish", "18080:80")
    for address in ("127.0.0.1", node.addresses[0]):
        assert fetch(node, address, 18080, "hostname") == hostname(node, "published")
    node.run("podman", "rm", "--force", "--time=0", "published")
    with pytest.raises(LabError):
        node.run("curl", "-sSm2", "http://127.0.0.1:18080/hostname")
    assert leftovers(node) == []


def test_a_container_whose_process_was_killed_leaves_nothing(node: Node) -> None:
    start(node, "killed")
    pid = node.run("podman", "inspect", "--format", "{{.State.Pid}}", "killed").strip()
    node.run("kill", "-KILL", pid)
    node.run("podman", "wait", "killed")
    node.run("podman", "rm", "--force", "killed")
    assert leftovers(node) == []
