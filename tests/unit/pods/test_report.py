# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps are returned as changes with their former values, and as a diff for each Pod."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Change
from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import Route, State
from ansible_collections.podnet.datapath.plugins.module_utils._pods.plan import steps_between
from ansible_collections.podnet.datapath.plugins.module_utils._pods.report import changes_of, diffs, pods_of
from tests.unit.pods.builders import POD, resolved, states


@given(states, states)
def test_diff_lists_every_pod_that_changes(current: State, desired: State) -> None:
    steps = steps_between(current, desired)
    found = diffs(changes_of(steps))
    pods = {one["before_header"].removeprefix("Pod ") for one in found} - {"node"}
    assert pods == {step.device.name for step in steps if step.device}
    assert all(one["before"] != one["after"] for one in found)


@given(states, states)
def test_changes_of_the_opposite_direction_are_opposite(current: State, desired: State) -> None:
    def existing(source: State, target: State) -> set[tuple[object, ...]]:
        changes = changes_of(steps_between(source, target))
        return {
            (c.scope, c.name, c.before or c.after) for c in changes if c.name in ("namespace", "host route")
        }

    assert existing(current, desired) == existing(desired, current)


def test_changes_name_the_end_and_the_former_value() -> None:
    desired = resolved(POD, mtu=1500).state
    device = desired.devices["a"]
    current = replace(
        desired,
        devices={
            "a": replace(device, pod=replace(device.pod, settings={**device.pod.settings, "mtu": 1400}))
        },
        host_routes=frozenset({Route("10.2.0.0/24", "10.1.0.1", "eth0")}),
    )
    assert changes_of(steps_between(current, desired)) == [
        Change("eth0 mtu", "1400", "1500", "a"),
        Change("host route", "10.2.0.0/24 via 10.1.0.1 dev eth0", None),
    ]
    (created, *_others) = changes_of(steps_between(State(), State({"a": device})))
    assert created == Change("device", None, "meta hosta - eth0 in /run/netns/a", "a")


def test_pods_have_index_zero_if_the_device_does_not_exist() -> None:
    state = resolved(POD).state
    assert [pod["host_ifindex"] for pod in pods_of(state, {})] == [0]
    assert [pod["host_ifindex"] for pod in pods_of(state, {"hosta": 7})] == [7]
