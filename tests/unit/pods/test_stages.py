# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which devices, map entries and programs of Pods are created and removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._pods import stages
from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import Device, End, State
from ansible_collections.podnet.datapath.plugins.module_utils._pods.plan import created, steps_between
from ansible_collections.podnet.datapath.plugins.module_utils._pods.stages import (
    SETUP_LABEL,
    PodState,
    SetDevices,
    SetEntries,
    SetPrograms,
    Stage,
)

Declaration = Mapping[str, Any]
Wanted = tuple[State, dict[str, Any]]
POLICY = {"name": "all", "pods": {}, "ingress": []}


def device(name: str, number: int, driver: str = "veth") -> Device:
    end = End({"up": True})
    pod = End({"up": True}, frozenset({f"10.0.0.{number}/32"}))
    return Device(name, driver, "l2", f"/run/netns/{name}", "eth0", f"host{name}", {}, end, pod)


def wanted(pods: Mapping[str, tuple[int, str]], programs: bool, policies: bool) -> Wanted:
    """Return the devices and the declaration of Pods; ``pods`` has number and driver by name."""
    devices = {name: device(name, *pod) for name, pod in pods.items()}
    entries = [
        {"name": one.name, "device": one.host_interface, "addresses": sorted(one.pod.addresses), "labels": {}}
        for one in devices.values()
    ]
    namespaces = frozenset(one.netns for one in devices.values())
    declared = {"endpoints": entries, "policies": [POLICY] if policies else []} if programs else {}
    return State(devices, namespaces), declared


def plan_stages(
    devices: State, declared: Declaration, state: State, final: Declaration, recreated: set[str] | None = None
) -> list[Stage]:
    return stages.plan_stages(PodState(devices, declared), PodState(state, final), recreated or set())


@dataclass
class Model:
    """A node that executes stages, and checks after each that no Pod is open that must not be."""

    devices: State = field(default_factory=State)
    declared: Declaration = field(default_factory=dict)
    attached: frozenset[str] = frozenset()
    programs: bool = True  # whether the current call enables them
    unfiltered_before: set[str] = field(default_factory=set)

    def execute(self, planned: Sequence[Stage]) -> None:
        for stage in planned:
            self.execute_one(stage)
            self.check()

    def execute_one(self, stage: Stage) -> None:
        if isinstance(stage, SetDevices):
            recreated = {
                step.of.host_interface
                for step in steps_between(self.devices, stage.target)
                if step.action in ("create_device", "delete_device")
            }
            # The kernel detaches programs of deleted devices.
            self.attached -= recreated
            self.devices = stage.target
        elif isinstance(stage, SetEntries):
            addresses = [a for one in stage.declaration.get("endpoints", ()) for a in one["addresses"]]
            assert len(addresses) == len(set(addresses)), "two Pods have one address"
            for one in stage.declaration.get("endpoints", ()):
                assert one["device"] in self.interfaces(), "the device of an entry does not exist"
            self.declared = stage.declaration
        else:
            assert set(stage.devices) <= self.interfaces(), "a program is attached to a missing device"
            self.attached = frozenset(stage.devices)

    def interfaces(self) -> set[str]:
        return {one.host_interface for one in self.devices.devices.values()}

    def entry(self, name: str) -> Any:
        return next((one for one in self.declared.get("endpoints", ()) if one["name"] == name), None)

    def unfiltered(self) -> set[str]:
        """Return the Pods whose device is up without programs."""
        return {
            one.name
            for one in self.devices.devices.values()
            if one.host.settings["up"] and one.host_interface not in self.attached
        }

    def check(self) -> None:
        assert not self.programs or self.unfiltered() <= self.unfiltered_before
        labelled = [one for one in self.declared.get("endpoints", ()) if SETUP_LABEL in one["labels"]]
        denies = any(one["name"] == stages.SETUP_POLICY for one in self.declared.get("policies", ()))
        assert denies == bool(labelled)

    def plan(self, state: State, declared: Declaration) -> list[Stage]:
        recreated = created(steps_between(self.devices, state))
        self.programs, self.unfiltered_before = bool(declared), self.unfiltered()
        return plan_stages(self.devices, self.declared, state, declared, recreated)


pods = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(st.integers(1, 4), st.sampled_from(["veth", "meta"])), max_size=4
).filter(lambda found: len({number for number, _driver in found.values()}) == len(found))
requests = st.builds(wanted, pods, st.booleans(), st.booleans())


@given(st.lists(requests, min_size=1, max_size=3))
def test_stages_lead_to_the_desired_state(calls: list[Wanted]) -> None:
    node = Model()
    for state, declared in calls:
        node.execute(node.plan(state, declared))
        assert (node.devices, node.declared) == (state, declared)
        assert node.attached == {one["device"] for one in declared.get("endpoints", ())}
        assert node.attached <= node.interfaces()


@given(requests, st.lists(st.tuples(requests, st.integers(0, 12)), min_size=1, max_size=3), requests)
def test_call_after_killed_calls_ends_in_the_same_state(
    first: Wanted, killed: list[tuple[Wanted, int]], last: Wanted
) -> None:
    node = Model()
    node.execute(node.plan(*first))
    for request, count in killed:
        node.execute(node.plan(*request)[:count])
    node.execute(node.plan(*last))
    assert (node.devices, node.declared) == last
    assert node.attached == {one["device"] for one in last[1].get("endpoints", ())}


@given(requests, requests)
def test_new_pods_deny_all_traffic_until_the_last_stage(first: Wanted, second: Wanted) -> None:
    node = Model()
    node.execute(node.plan(*first))
    known = {one["name"] for one in node.declared.get("endpoints", ())}
    new = {one["name"] for one in second[1].get("endpoints", ())} - known
    existing = {one.name for one in node.devices.devices.values()}
    for stage in node.plan(*second)[:-1]:
        node.execute_one(stage)
        for name in new - existing:
            entry = node.entry(name)
            assert entry is None or SETUP_LABEL in entry["labels"], name


def test_order_of_setup() -> None:
    state, declared = wanted({"a": (1, "veth")}, True, True)
    down, entries, programs, up, final = plan_stages(State(), {}, state, declared)
    assert isinstance(down, SetDevices) and isinstance(up, SetDevices)
    assert not down.target.devices["a"].host.settings["up"]
    assert down.target.devices["a"].pod.addresses == {"10.0.0.1/32"}
    assert up.target == state
    assert isinstance(entries, SetEntries) and not entries.final
    rules = {"ingress": [{"action": "deny"}], "egress": [{"action": "deny"}]}
    (denying,) = entries.declaration["policies"]
    assert denying == {"name": stages.SETUP_POLICY, "pods": {"labels": {SETUP_LABEL: "site"}}, **rules}
    assert programs == SetPrograms(("hosta",))
    assert final == SetEntries(declared, final=True)


def test_order_of_teardown() -> None:
    state, declared = wanted({"a": (1, "veth"), "b": (2, "veth")}, True, True)
    rest, remaining = wanted({"b": (2, "veth")}, True, True)
    deny, down, detach, entries, *others = plan_stages(state, declared, rest, remaining)
    assert isinstance(deny, SetEntries) and isinstance(down, SetDevices) and isinstance(entries, SetEntries)
    labels = {one["name"]: one["labels"] for one in deny.declaration["endpoints"]}
    assert labels == {"a": {SETUP_LABEL: "site"}, "b": {}}
    assert {name: one.host.settings["up"] for name, one in down.target.devices.items()} == {
        "a": False,
        "b": True,
    }
    assert detach == SetPrograms(("hostb",))
    assert [one["name"] for one in entries.declaration["endpoints"]] == ["b"]
    assert others == [SetPrograms(("hostb",)), SetDevices(rest), SetEntries(remaining, final=True)]


@pytest.mark.parametrize("programs", [True, False])
def test_complete_state_needs_no_further_stage(programs: bool) -> None:
    state, declared = wanted({"a": (1, "veth")}, programs, True)
    kinds = [type(stage) for stage in plan_stages(state, declared, state, declared)]
    assert sorted(kind.__name__ for kind in kinds) == ["SetDevices", "SetEntries", "SetPrograms"]


def test_label_of_other_owners_is_not_selected() -> None:
    state, declared = wanted({"a": (1, "veth")}, True, False)
    planned = stages.plan_stages(PodState(State(), {}), PodState(state, declared), owner="cni")
    entries = planned[1]
    assert isinstance(entries, SetEntries)
    assert entries.declaration["policies"][0]["pods"] == {"labels": {SETUP_LABEL: "cni"}}
