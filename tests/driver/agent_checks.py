# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the agent on a node, with the drivers that only a node has.

usage: agent_checks meta.ko datapath.o fixed KIND...

``fixed`` is an IPAM plugin that derives the addresses from the container ID. A network namespace stands in
for the host, so the node itself does not change. A check's name begins with the kind.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._agent.attachments import name_of
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns
from ansible_collections.podnet.datapath.plugins.module_utils._pods import api
from ansible_collections.podnet.datapath.plugins.module_utils._pods.parse import host_interface_of
from ansible_collections.podnet.datapath.plugins.module_utils._pods.single import SinglePods
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach
from tests.support import node_checks
from tests.support.agent import Agent
from tests.support.namespaces import Namespaces

PINS = "/sys/fs/bpf/agent-checks"
ADDRESSES = {"c-0.1": ("10.80.0.1", "fd80::1"), "c-0.2": ("10.80.0.2", "fd80::2")}

CHECKS = node_checks.Checks()


class Host:
    """A host with programs and a running agent for one driver."""

    def __init__(self, driver: str, object_path: str, ipam: Path, folder: Path) -> None:
        self.driver, self.object = driver, object_path
        self.ns = Namespaces()
        self.name = self.ns("host")
        self.ns.sysctl(self.name, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        self.containers = {name: self.ns(name) for name in ADDRESSES}
        self.desired = attach.Desired(PINS)
        with self.ns.inside(self.name):
            attach.present(self.desired, object_path, {})
        self.config: dict[str, Any] = {
            "cniVersion": "1.0.0",
            "name": "checks",
            "type": "podnet",
            "ipam": {"type": "fixed"},
        }
        self.path = str(ipam.parent)
        self.agent = Agent(
            self.name,
            folder,
            {"node": "n", "driver": driver, "object": object_path, "pin_path": PINS, "mtu": 9000},
        )
        self.agent.start()

    def close(self) -> None:
        self.agent.stop()
        with self.ns.inside(self.name):
            attach.absent(PINS)
        self.ns.delete()

    def call(self, command: str, name: str, **more: Any) -> dict[str, Any]:
        """Send a request and return its result, which must be a success."""
        reply = self.agent.call(
            command,
            {**self.config, **more},
            PATH=self.path,
            CONTAINERID=name,
            NETNS=f"/run/netns/{self.containers[name]}",
            IFNAME="eth0",
        )
        assert reply.status == 0, reply.body
        return reply.body

    def link(self, name: str) -> dict[str, Any]:
        """Return the host end of a container's device as ip(8) shows it."""
        device = host_interface_of(name_of(name, "eth0"))
        found = json.loads(self.ns.run(self.name, "ip", "-json", "-details", "link", "show", device))
        return dict(found[0])

    def pings(self, source: str, target: str) -> bool:
        words = ("ping", "-c1", "-W2", target)
        return " 0% packet loss" in self.ns.run(self.containers[source], *words, check=False)


@CHECKS
def containers_reach_each_other_past_the_upper_stack(host: Host) -> None:
    results = {name: host.call("ADD", name) for name in ADDRESSES}
    counters = host.ns.run(host.name, "nstat", "-asz", "IpForwDatagrams", "Ip6OutForwDatagrams")
    for source in ADDRESSES:
        for target in set(ADDRESSES) - {source}:
            for address in ADDRESSES[target]:
                assert host.pings(source, address), (source, address)
    after = host.ns.run(host.name, "nstat", "-asz", "IpForwDatagrams", "Ip6OutForwDatagrams")
    assert after == counters, (counters, after)
    for name, result in results.items():
        assert host.link(name)["linkinfo"]["info_kind"] == host.driver
        host.call("CHECK", name, prevResult=result)


@CHECKS
def the_agent_is_not_on_the_path(host: Host) -> None:
    for restart in (partial(host.agent.stop), partial(host.agent.stop, 9)):
        restart()
        assert host.pings("c-0.1", ADDRESSES["c-0.2"][0])
        host.agent.start()


@CHECKS
def the_device_is_that_of_the_module_pods(host: Host) -> None:
    """The module finds no device, attachment or map entry to change."""
    path = f"/run/netns/{host.containers['c-0.1']}"
    with netns.entered(path):
        cookie = netns.own_cookie()
    pod = api.PodSpec(
        name_of("c-0.1", "eth0"),
        [f"{ADDRESSES['c-0.1'][0]}/32", f"{ADDRESSES['c-0.1'][1]}/128"],
        netns=path,
        netns_cookie=cookie,
    )
    node = api.NodeSpec(
        name="n", owner="cni", driver=host.driver, object=host.object, pin_path=PINS, mtu=9000
    )
    with host.ns.inside(host.name):
        planned = api.ensure(node, [pod], False, lambda _words: (1, "", ""), check=True)
    assert not planned.values["changes"] and not planned.values["differences"], planned.values


@CHECKS
def reconciliation_finds_only_incomplete_pods(host: Host) -> None:
    """A complete Pod must not be repaired, because that ends its connections."""
    spec = api.NodeSpec(name="n", owner="cni", driver=host.driver, object=host.object, pin_path=PINS)
    names = [name_of(name, "eth0") for name in ADDRESSES]
    host.agent.stop()
    with host.ns.inside(host.name):
        pods = SinglePods(spec, lambda _words: (1, "", ""))
        assert pods.existing() == dict.fromkeys(names, True)
        host.ns.ip(host.name, f"link set {host_interface_of(names[0])} down")
        assert pods.existing() == {names[0]: False, names[1]: True}
        pods.close()
    host.agent.start()


@CHECKS
def nothing_is_left_over(host: Host) -> None:
    for name in ADDRESSES:
        host.call("DEL", name)
        host.call("DEL", name)
    links = json.loads(host.ns.run(host.name, "ip", "-json", "link"))
    assert [link["ifname"] for link in links] == ["lo"], links
    assert not list(Path(PINS).glob("links/pods_cni/*")) and not host.agent.records()


@contextmanager
def running(driver: str, object_path: str, ipam: Path) -> Iterator[Host]:
    """Yield a host for a driver."""
    with tempfile.TemporaryDirectory() as folder:
        host = Host(driver, object_path, ipam, Path(folder))
        try:
            yield host
        finally:
            host.close()


def main() -> None:
    module, object_path, ipam, *kinds = sys.argv[1:]
    subprocess.run(["insmod", module], check=True)
    for kind in kinds:
        with running(kind, str(Path(object_path).absolute()), Path(ipam).absolute()) as host:
            for name, check in CHECKS.items():
                node_checks.report(f"{kind}: {name}", node_checks.run(partial(check, host)))
    subprocess.run(["rmmod", "meta"], check=True)


if __name__ == "__main__":
    main()
