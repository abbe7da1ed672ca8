# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods with veth devices, programs and map entries are created and removed in one call.

PODNET_COUNT (10) is the number of calls that are killed, PODNET_SEED their seed.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem, Result
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Store
from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import creation_group
from tests.netns.bpf_node import Node
from tests.netns.pod_bench import Bench, Flood, pods_node
from tests.support.kill import killed_after

COUNT = int(os.environ.get("PODNET_COUNT") or 10)
DENY_EGRESS = {"name": "closed", "pods": {"labels": {"app": "closed"}}, "egress": []}
DENY_HOST = {**DENY_EGRESS, "egress": [{"to": [{"host": True}], "action": "deny"}]}


@pytest.fixture
def bench(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield from pods_node(node, tmp_path, monkeypatch)


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


def test_ipsec_policies_refuse_new_pods_and_warn_of_others(bench: Bench) -> None:
    pods = [bench.pod("a", 1), bench.pod("b", 2)]
    bench.ensure(*pods)
    policy = "src 10.77.0.0/16 dst 10.78.0.0/16 dir out tmpl proto esp"
    bench.node.ns.run(bench.node.name, "ip", "xfrm", "policy", "add", *policy.split())
    before = bench.state()
    for check in (True, False):
        with pytest.raises(Problem, match=r"pods: IPsec policies .*10\.77\.0\.0/16 to 10\.78\.0\.0/16"):
            bench.ensure(*pods, bench.pod("c", 3), check=check)
        assert bench.state() == before
        same = bench.ensure(*pods, check=check)
        assert not same.changed and "IPsec policies" in same.warnings[0]
    assert bench.ensure(pods[0]).changed  # removes the other Pod
    assert bench.ensure().changed


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


def test_a_device_without_alias_is_replaced(bench: Bench) -> None:
    """A call was killed between the kernel's creation of a device and its alias."""
    created = bench.ensure(bench.pod("a", 1))
    name = created.values["pods"][0]["host_interface"]
    bench.ensure()
    group = creation_group(bench.owner)
    for link in (name, "unfinished"):
        bench.node.ns.ip(bench.node.name, f"link add {link} group {group} type veth")
    bench.node.ns.ip(bench.node.name, "link add foreign type veth")
    result = bench.ensure(bench.pod("a", 1))
    assert result.changed and not result.warnings
    names = {link[0] for link in bench.state()[0]}
    assert {name, "foreign"} <= names and "unfinished" not in names
    assert not bench.ensure(bench.pod("a", 1)).changed


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
