# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps between two states lead to the desired state, from any point at which they were interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import Device, End, State
from ansible_collections.podnet.datapath.plugins.module_utils._pods.plan import Step, steps_between
from tests.unit.pods.builders import POD, resolved, states


class Model:
    """A node that executes steps as the kernel does, and rejects what the kernel rejects."""

    def __init__(self, state: State) -> None:
        self.devices = dict(state.devices)
        self.namespaces = set(state.namespaces)
        self.host_routes = set(state.host_routes)

    def state(self) -> State:
        return State(self.devices, frozenset(self.namespaces), frozenset(self.host_routes))

    def execute(self, steps: Sequence[Step]) -> State:
        for step in steps:
            getattr(self, step.action, self.change_end)(step)
        return self.state()

    def create_namespace(self, step: Step) -> None:
        assert step.value not in self.namespaces
        self.namespaces.add(step.value)

    def delete_namespace(self, step: Step) -> None:
        self.namespaces.remove(step.value)
        assert all(device.netns != step.value for device in self.devices.values())

    def add_host_route(self, step: Step) -> None:
        assert all(route.to != step.value.to for route in self.host_routes)
        self.host_routes.add(step.value)

    def delete_host_route(self, step: Step) -> None:
        self.host_routes.remove(step.value)

    def delete_device(self, step: Step) -> None:
        assert step.device is not None
        del self.devices[step.device.name]

    def create_device(self, step: Step) -> None:
        device = step.device
        assert device is not None
        for other in self.devices.values():
            assert other.host_interface != device.host_interface
            assert other.netns != device.netns
        if device.netns.startswith("/run/netns"):
            assert device.netns in self.namespaces
        ends = [
            End({k: v for k, v in e.settings.items() if k in ("mtu", "mac")})
            for e in (device.host, device.pod)
        ]
        self.devices[device.name] = replace(device, host=ends[0], pod=ends[1])

    def set_driver(self, step: Step) -> None:
        assert step.device is not None
        device = self.devices[step.device.name]
        self.devices[device.name] = replace(device, driver_settings={**device.driver_settings, **step.value})

    def change_end(self, step: Step) -> None:
        assert step.device is not None
        device = self.devices[step.device.name]
        end: End = getattr(device, step.end)
        if step.action == "set":
            end = replace(end, settings={**end.settings, **step.value})
        else:
            verb, dummy, what = step.action.partition("_")
            attribute = {"address": "addresses", "neighbour": "neighbours", "route": "routes"}[what]
            values = set(getattr(end, attribute))
            if verb == "add":
                if what == "route":
                    assert end.settings["up"], "the kernel rejects routes through links that are down"
                assert step.value not in values
                values.add(step.value)
            else:
                values.remove(step.value)
            end = replace(end, **{attribute: frozenset(values)})
        self.devices[device.name] = replace(device, **{step.end: end})


def covers(current: State, desired: State) -> bool:
    """Return whether ``current`` has everything that ``desired`` requires; it may have other settings."""
    return not steps_between(current, desired)


@given(states)
def test_complete_state_needs_no_step(state: State) -> None:
    assert steps_between(state, state) == []


@given(states, states)
def test_steps_lead_to_the_desired_state(current: State, desired: State) -> None:
    assert covers(Model(current).execute(steps_between(current, desired)), desired)


@given(states, states, st.data())
def test_former_state_can_be_restored_after_any_step(
    before: State, desired: State, data: st.DataObject
) -> None:
    steps = steps_between(before, desired)
    executed = steps[: data.draw(st.integers(0, len(steps)))]
    reached = Model(before).execute(executed)
    assert covers(Model(reached).execute(steps_between(reached, before)), before)


@given(states, st.data())
def test_drift_is_repaired_without_other_steps(state: State, data: st.DataObject) -> None:
    if not state.devices:
        return
    name = data.draw(st.sampled_from(sorted(state.devices)))
    device = state.devices[name]
    drifted = replace(
        device,
        host=replace(device.host, settings={**device.host.settings, "up": False}, routes=frozenset()),
        pod=replace(device.pod, addresses=device.pod.addresses | {"192.0.2.1/32"}),
    )
    current = replace(state, devices={**state.devices, name: drifted})
    steps = steps_between(current, state)
    assert {step.device.name for step in steps if step.device} == {name}
    assert all(step.end for step in steps), "the existing device is kept"
    assert covers(Model(current).execute(steps), state)


def _device(**fields: Any) -> Device:
    return replace(resolved(POD).state.devices["a"], **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"driver": "veth"},
        {"mode": "l2"},
        {"netns": "/run/netns/b"},
        {"interface": "net0"},
        {"complete": False},
    ],
)
def test_device_is_recreated_if_the_kernel_cannot_change_it(fields: dict[str, Any]) -> None:
    state = State({"a": _device(**fields)})
    actions = [step.action for step in steps_between(state, State({"a": _device()}))]
    assert actions[:2] == ["delete_device", "create_device"]


def test_policy_and_programs_change_in_place() -> None:
    current = _device(driver_settings={"policy": "pass", "peer_policy": "drop", "to_pod": 3})
    desired = _device(driver_settings={"policy": "drop", "peer_policy": "drop", "to_pod": 4})
    (step,) = steps_between(State({"a": current}), State({"a": desired}))
    assert (step.action, step.option) == ("set_driver", "policy, programs")
    assert step.value == {"policy": "drop", "to_pod": 4}


def test_second_device_with_the_same_alias_is_deleted() -> None:
    duplicate = _device(host_interface="copy", complete=False)
    (step,) = steps_between(State({"a": _device(), "a (copy)": duplicate}), State({"a": _device()}))
    assert step.action == "delete_device"
    assert step.device is not None and step.device.host_interface == "copy"
