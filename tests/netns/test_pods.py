# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods with veth devices, programs and map entries are created and removed in one call.

PODNET_COUNT (10) is the number of calls that are killed, PODNET_SEED their seed.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem, Result
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import info
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Store
from ansible_collections.podnet.datapath.plugins.module_utils._pods import api
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal
from tests.netns.bpf_node import Node
from tests.support.kill import killed_after

COUNT = int(os.environ.get("PODNET_COUNT") or 10)
PORT = 7000
HOST = "10.77.1.1"  # an address of the node
DENY_EGRESS = {"name": "closed", "pods": {"labels": {"app": "closed"}}, "egress": []}
DENY_HOST = {**DENY_EGRESS, "egress": [{"to": [{"host": True}], "action": "deny"}]}


def command(words: Sequence[str]) -> tuple[int, str, str]:
    """Stand in for modprobe and systemctl."""
    return 1, "", "not available in this test"


class Bench:
    """A node with pinned programs, and the owner of its Pods."""

    def __init__(self, node: Node, owner: str) -> None:
        self.node, self.owner = node, owner
        node.ns.sysctl(node.name, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        node.ns.ip(node.name, f"address add {HOST}/32 dev lo")
        node.attach()

    def pod(self, name: str, number: int, **others: Any) -> api.PodSpec:
        addresses = [f"10.77.0.{number}/32", f"fd77::{number}/128"]
        return api.PodSpec(**{"name": f"{self.owner}-{name}", "addresses": addresses, **others})

    def spec(self, **others: Any) -> api.NodeSpec:
        options = {"driver": "veth", "owner": self.owner, "object": self.node.object}
        return api.NodeSpec(**{**options, "pin_path": self.node.pins, **others})

    def ensure(
        self, *pods: api.PodSpec, remove_others: bool = True, check: bool = False, **others: Any
    ) -> Result:
        with self.node.ns.inside(self.node.name):
            return api.ensure(self.spec(**others), pods, remove_others, command, check)

    def remove(self, *names: str, check: bool = False) -> Result:
        with self.node.ns.inside(self.node.name):
            return api.remove(self.spec(), [f"{self.owner}-{name}" for name in names], command, check)

    def state(self) -> list[Any]:
        """Return devices, routes, attachments, map entries and stored declarations."""
        routes = self.node.ns.run(self.node.name, "ip", "-json", "route")
        links = [
            (link["ifname"], link["flags"], link.get("ifalias"))
            for link in json.loads(self.node.ns.run(self.node.name, "ip", "-json", "link"))
        ]
        declared = Store(self.node.pins).read()
        with self.node.ns.inside(self.node.name):
            found = info.gather(self.node.pins)
        entries = [
            {key: value for key, value in pod.items() if key not in ("packets", "ifindex", "slot")}
            for pod in found["pods"]
        ]
        return [
            links,
            routes,
            self.pinned(),
            entries,
            {name: record.options for name, record in declared.items()},
        ]

    def pinned(self) -> list[str]:
        """Return the pins of attachments."""
        return sorted(map(str, Path(self.node.pins).rglob("links/*/*")))

    def pings(self, pod: str, to: str) -> bool:
        words = ("ping", "-c1", "-W1", to)
        return " 0% packet loss" in self.node.ns.run(f"{self.owner}-{pod}", *words, check=False)


@pytest.fixture
def bench(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    bench = Bench(node, f"test{os.getpid()}")
    yield bench
    for owner in (bench.owner, f"{bench.owner}-x"):
        bench.ensure(owner=owner)
        Path(f"/run/podnet/routes/{owner}.json").unlink(missing_ok=True)


def test_pods_are_created_kept_and_removed(bench: Bench) -> None:
    pods = [bench.pod("a", 1), bench.pod("b", 2, labels={"app": "b"})]
    policy = {
        "name": "b",
        "pods": {"labels": {"app": "b"}},
        "ingress": [{"from": [{"cidr": "10.77.0.1/32"}]}],
    }
    before = bench.state()
    planned = bench.ensure(*pods, policies=[policy], check=True)
    assert planned.changed and bench.state() == before
    made = bench.ensure(*pods, policies=[policy])
    assert made.changed and made.warnings == planned.warnings == []
    assert (
        made.values["updated"]
        == planned.values["updated"]
        == [address for pod in pods for address in sorted(one.partition("/")[0] for one in pod.addresses)]
    )
    assert bench.pings("a", "10.77.0.2") and not bench.pings("a", "fd77::2")
    for check in (True, False):
        again = bench.ensure(*pods, policies=[policy], check=check)
        assert not again.changed, again.values
        assert again.values["pods"] == made.values["pods"]
    gone = bench.ensure(check=True)
    assert gone.changed
    assert bench.ensure().changed
    assert bench.state() == before
    assert not bench.ensure().changed


class Flood:
    """Sends packets from a namespace to the node's address, and counts those that arrive."""

    def __init__(self, bench: Bench, netns: str) -> None:
        with bench.node.ns.inside(bench.node.name):
            self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.bind((HOST, PORT))
        self.receiver.setblocking(False)
        with bench.node.ns.inside(netns):
            self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.setblocking(False)
        self.sent = self.received = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):  # the network is unreachable until the device is up
                self.sender.sendto(b"packet", (HOST, PORT))
                self.sent += 1
            with contextlib.suppress(BlockingIOError):
                while self.receiver.recv(100):
                    self.received += 1
            time.sleep(0.0002)

    def __enter__(self) -> Flood:
        self._thread.start()
        return self

    def __exit__(self, *_unused: object) -> None:
        time.sleep(0.3)
        self._stop.set()
        self._thread.join()
        self.sender.close()
        self.receiver.close()


def test_no_packet_passes_before_the_policy_is_committed(bench: Bench) -> None:
    netns = bench.node.ns("pod")
    closed = bench.pod("a", 1, netns=netns, labels={"app": "closed"})
    for policy, passes in ((DENY_HOST, False), ({**DENY_HOST, "egress": [{}]}, True)):
        bench.remove("a")
        with Flood(bench, netns) as flood:
            bench.ensure(closed, policies=[policy])
        assert flood.sent, "the device never came up"
        assert bool(flood.received) == passes, (flood.sent, flood.received)


def test_some_pods_are_created_and_removed_beside_others(bench: Bench) -> None:
    policy = {"name": "a", "pods": {"labels": {"app": "a"}}, "ingress": [{}], "optional": True}
    uplink = {"to": "10.78.0.0/16", "dev": "left"}
    bench.node.ns.ip(bench.node.name, "link set left up", "link set right up")
    bench.ensure(bench.pod("a", 1, labels={"app": "a"}), policies=[policy], host_routes=[uplink])
    before = bench.state()
    made = bench.ensure(bench.pod("b", 2), remove_others=False)
    assert [pod["name"] for pod in made.values["pods"]] == [f"{bench.owner}-b"]
    assert bench.pings("a", "10.77.0.2") and bench.pings("b", "fd77::1")
    assert not bench.ensure(bench.pod("b", 2), remove_others=False).changed
    with pytest.raises(Problem, match=r"10\.77\.0\.1 "):
        bench.ensure(bench.pod("c", 1), remove_others=False)
    planned = bench.remove("b", check=True)
    assert planned.changed and planned.values["deleted"] == ["10.77.0.2", "fd77::2"]
    assert bench.remove("b").changed
    assert bench.state() == before
    assert not bench.remove("b").changed


def test_pods_of_other_owners_stay(bench: Bench) -> None:
    bench.ensure(bench.pod("other", 9), owner=f"{bench.owner}-x")
    before = bench.state()
    bench.ensure(bench.pod("a", 1), bench.pod("b", 2))
    assert bench.pings("a", "10.77.0.9")
    bench.ensure()
    assert bench.state() == before


def test_disabled_programs_leave_forwarding_to_the_upper_stack(bench: Bench) -> None:
    pods = [bench.pod("a", 1), bench.pod("b", 2)]
    bench.ensure(*pods)
    assert bench.ensure(*pods, programs_enabled=False).changed
    assert bench.pinned() == [] and bench.owner not in Store(bench.node.pins).read()
    assert bench.pings("a", "10.77.0.2")
    assert not bench.ensure(*pods, programs_enabled=False).changed
    assert bench.ensure(*pods).changed
    assert len(bench.pinned()) == 4 and bench.pings("a", "fd77::2")


def test_names_and_addresses_can_move_between_pods(bench: Bench) -> None:
    bench.ensure(bench.pod("a", 1, host_interface="one"), bench.pod("b", 2, host_interface="two"))
    moved = [bench.pod("a", 2, host_interface="two"), bench.pod("b", 1, host_interface="one")]
    bench.ensure(*moved)
    assert bench.pings("a", "10.77.0.1") and bench.pings("b", "fd77::2")
    replaced = [bench.pod("a", 3, host_interface="two"), bench.pod("c", 2)]
    bench.ensure(*replaced)
    assert bench.pings("a", "10.77.0.2") and bench.pings("c", "fd77::3")
    assert not bench.ensure(*replaced).changed


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"policies": [{"name": "x", "pods": {"names": ["missing"]}, "ingress": []}]},
            "no Pod has the name missing",
        ),
        ({"object": "/missing.o"}, "/missing.o does not exist"),
        ({"pin_path": "/sys/fs/bpf/missing"}, "/sys/fs/bpf/missing"),
        ({"gso_max_size": 0}, "gso_max_size: 0"),
    ],
)
def test_invalid_requests_change_nothing(bench: Bench, others: dict[str, Any], message: str) -> None:
    before = bench.state()
    with pytest.raises(Exception, match=message):
        bench.ensure(bench.pod("a", 1), **others)
    assert bench.state() == before


def test_missing_programs_are_a_warning_in_check_mode(bench: Bench) -> None:
    planned = bench.ensure(bench.pod("a", 1), object="/missing.o", check=True)
    assert planned.changed and "/missing.o does not exist" in planned.warnings[0]


def test_killed_call_is_completed_by_the_next(bench: Bench) -> None:
    numbers = random.Random(os.environ.get("PODNET_SEED"))
    policies = [DENY_EGRESS | {"optional": True}]
    requests = [
        [bench.pod("a", 1), bench.pod("b", 2, labels={"app": "closed"})],
        [bench.pod("b", 1, mtu=1400), bench.pod("c", 3)],
        [],
    ]

    def apply(number: int) -> Result:
        return bench.ensure(*requests[number % len(requests)], policies=policies)

    def names(state: list[Any]) -> list[Any]:
        """Return a state without the order of links, which depends on their indexes."""
        return [sorted(map(str, state[0])), sorted(state[1]), *map(str, state[2:])]

    expected, durations = [], []
    for number in range(len(requests)):
        start = time.monotonic()
        apply(number)
        durations.append(time.monotonic() - start)
        expected.append(names(bench.state()))
    finished = 0
    for number in range(COUNT):
        which = number % len(requests)
        finished += killed_after(numbers.uniform(0, 1.2 * durations[which]), partial(apply, number))
        apply(number)
        assert names(bench.state()) == expected[which], number
        assert not apply(number).changed
    print(f"{COUNT} of {COUNT} completed, {finished} were finished before the kill")


def test_role_creates_audits_and_removes_pods(bench: Bench, tmp_path: Path) -> None:
    variables = {
        "ansible_connection": "local",
        "ansible_become": False,
        "ansible_python_interpreter": sys.executable,
        "pods_driver": "veth",
        "pods_owner": bench.owner,
        "pods_pin_path": bench.node.pins,
        "pods_object": bench.node.object,
        "pods_mtu": 1400,
        "pods_endpoints": [
            {"name": f"{bench.owner}-{name}", "addresses": [f"10.77.0.{number}"], "labels": {"app": name}}
            for number, name in enumerate("ab", 1)
        ],
        "pods_policies": [{"name": "b", "pods": {"labels": {"app": "b"}}, "ingress": [{}]}],
    }
    role = {"name": "podnet.datapath.pods"}
    roles = {"main": role, "audit": {**role, "tasks_from": "audit"}}
    for name, one in roles.items():
        tasks = [{"name": name, "ansible.builtin.include_role": one}]
        result = {"changed": "{{ pods_result is changed }}", "drift": "{{ pods_drift | default([]) }}"}
        copy = {"content": "{{ result | to_json }}", "dest": str(tmp_path / "result"), "mode": "0644"}
        tasks.append(
            {"name": "Result", "vars": {"result": result}, "ansible.builtin.copy": copy, "check_mode": False}
        )
        play = {"name": name, "hosts": "all", "gather_facts": False, "tasks": tasks}
        (tmp_path / f"{name}.yml").write_text(json.dumps([play]))

    def run(play: str, **others: Any) -> Any:
        inventory = {"all": {"hosts": {"node1": None}, "vars": {**variables, **others}}}
        (tmp_path / "hosts.yml").write_text(json.dumps(inventory))
        words = ("ansible-playbook", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / f"{play}.yml"))
        bench.node.ns.run(bench.node.name, *words)
        return json.loads((tmp_path / "result").read_text())

    before = bench.state()
    assert {row["scope"] for row in run("audit")["drift"]} == {"Pods"}
    assert bench.state() == before
    assert run("main")["changed"]
    assert not run("main")["changed"] and run("audit")["drift"] == []
    assert bench.pings("a", "10.77.0.2")
    assert run("main", pods_programs_enabled=False)["changed"] and bench.pinned() == []
    assert run("main", pods_endpoints=[], pods_policies=[])["changed"]
    assert bench.state()[0] == before[0]
