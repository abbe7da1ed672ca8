# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of bpf_attach, without a kernel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.bpf import Layout
from ansible_collections.podnet.datapath.plugins.module_utils._programs.attach import parse_rodata
from ansible_collections.podnet.datapath.plugins.module_utils._programs.connections import (
    CONNECTIONS,
    connections_problem,
    replaced_maps,
)
from ansible_collections.podnet.datapath.plugins.module_utils._programs.hooks import (
    HOOKS,
    Device,
    choose_type,
)
from ansible_collections.podnet.datapath.plugins.module_utils._programs.plan import (
    Attachment,
    State,
    Step,
    pin_name,
    split_pin_name,
    steps_between,
)

PROGRAMS = ("pod_egress", "pod_ingress", "host_ingress")
OWNERS = ("site", "pods")

layouts = st.builds(
    Layout, st.just(1), st.sampled_from([4, 16]), st.just(8), st.sampled_from([8, 16]), st.just(0)
)
maps = st.dictionaries(st.sampled_from(["endpoints4", "endpoints6", "metrics"]), layouts)


def attachments(owners: tuple[str, ...], programs: tuple[str, ...]) -> Any:
    one = st.builds(
        Attachment,
        st.sampled_from(owners),
        st.sampled_from(["eth0", "eth1.5"]),
        st.sampled_from(HOOKS),
        st.sampled_from(["tcx", "clsact"]),
        st.integers(1, 3),
        st.sampled_from(programs),
    )
    return st.lists(one).map(lambda found: {a.key: a for a in found})


def states(owners: tuple[str, ...], complete: bool, extra: tuple[str, ...] = ()) -> Any:
    names = st.sampled_from(PROGRAMS)
    tags = st.sampled_from(["aa", "bb", ""] if extra else ["aa", "bb"])
    programs = (
        st.fixed_dictionaries(dict.fromkeys(PROGRAMS, tags)) if complete else st.dictionaries(names, tags)
    )
    rodata = st.sampled_from([b"\0", b"\1"])
    return st.builds(State, programs, rodata, maps, attachments(owners, (*PROGRAMS, *extra)))


def applied(current: State, desired: State, steps: list[Step]) -> State:
    """Return the state after the steps, in a model of ``change.execute``."""
    programs, held = dict(current.programs), dict(current.maps)
    attached, rodata = dict(current.attachments), current.rodata
    for step in steps:
        if step.kind == "program":
            rodata = desired.rodata
        target: Any = {"map": held, "program": programs, "attachment": attached}[step.kind]
        source: Any = {"map": desired.maps, "program": desired.programs, "attachment": desired.attachments}
        if step.action == "remove":
            del target[step.name]
        elif step.name in source[step.kind]:
            target[step.name] = source[step.kind][step.name]
        else:
            target[step.name] = replace(target[step.name], program=target[step.name].program.rstrip("~"))
    return State(programs, rodata, held, attached)


@given(states(OWNERS, complete=False, extra=("pod_egress~", "")), states(("site",), complete=True))
def test_steps_lead_to_the_desired_state(current: State, desired: State) -> None:
    steps = steps_between(current, desired, "site")
    after = applied(current, desired, steps)
    assert (after.programs, after.rodata, after.maps) == (desired.programs, desired.rodata, desired.maps) or (
        not steps
    )
    assert {k: a for k, a in after.attachments.items() if a.owner == "site"} == desired.attachments
    others = {k: a for k, a in current.attachments.items() if a.owner != "site"}
    assert {k for k, a in after.attachments.items() if a.owner != "site"} == set(others)
    assert steps_between(after, desired, "site") == []


@given(states(OWNERS, complete=False), states(("site",), complete=True))
def test_every_attachment_is_replaced_with_its_program(current: State, desired: State) -> None:
    steps = steps_between(current, desired, "site")
    if any(step.kind == "program" for step in steps):
        changed = {step.name for step in steps if step.kind == "attachment"}
        assert changed == {*current.attachments, *desired.attachments}
        assert {step.name for step in steps if step.kind == "program"} == set(PROGRAMS)


@given(states(OWNERS, complete=True))
def test_plan_is_empty_in_the_desired_state(state: State) -> None:
    mine = {key: a for key, a in state.attachments.items() if a.owner == "site"}
    assert steps_between(state, replace(state, attachments=mine), "site") == []


def test_object_without_programs_of_other_owners_is_rejected() -> None:
    theirs = Attachment("pods", "eth1", "from_pod", "tcx", 3, "pod_egress")
    current = State({"pod_egress": "aa"}, attachments={theirs.key: theirs})
    with pytest.raises(Problem, match=r"programs .* missing: pod_egress at eth1 from_pod \(tcx\)"):
        steps_between(current, State({"host_ingress": "bb"}), "site")


@pytest.mark.parametrize(
    ("kind", "hook", "wanted", "tcx", "expected"),
    [
        ("", "ingress", "auto", True, "tcx"),
        ("", "ingress", "auto", False, "clsact"),
        ("veth", "from_pod", "auto", True, "tcx"),
        ("veth", "to_pod", "clsact", True, "clsact"),
        ("meta", "from_pod", "auto", True, "meta"),
        ("meta", "to_pod", "auto", False, "meta"),
        ("meta", "ingress", "auto", False, "clsact"),
        ("netkit", "to_pod", "auto", True, "netkit"),
        ("netkit", "from_pod", "tcx", True, "tcx"),
    ],
)
def test_choose_type(kind: str, hook: str, wanted: str, tcx: bool, expected: str) -> None:
    assert choose_type(Device("eth0", 2, kind), hook, wanted, tcx) == expected


@pytest.mark.parametrize(
    ("device", "hook", "wanted", "tcx", "said"),
    [
        (Device("eth0", 2), "ingress", "meta", True, "physical device"),
        (Device("eth0", 2, "netkit"), "from_pod", "meta", True, "eth0 is netkit"),
        (Device("eth0", 2, "meta"), "egress", "meta", True, "from_pod and to_pod only"),
        (Device("eth0", 2, "meta", primary=False), "to_pod", "auto", True, "Pod's end"),
        (Device("eth0", 2, "netkit", primary=False), "to_pod", "netkit", True, "Pod's end"),
        (Device("eth0", 2), "egress", "tcx", False, "Linux 6.6"),
    ],
)
def test_unsupported_type_is_rejected(device: Device, hook: str, wanted: str, tcx: bool, said: str) -> None:
    with pytest.raises(Problem, match=said) as error:
        choose_type(device, hook, wanted, tcx)
    assert f"eth0, hook {hook}" in str(error.value)


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1))
def test_pin_names_are_valid_and_reversible(device: str) -> None:
    name = pin_name(device, "from_pod")
    assert not {"/", "."} & set(name) and not name.endswith("~")
    assert split_pin_name(name) == (device, "from_pod")


def test_rodata_accepts_values_of_templates() -> None:
    assert parse_rodata({"a": "1", "b": 0, "c": True, "d": "0x10"}) == {"a": 1, "b": 0, "c": 1, "d": 16}
    for value in ("yes", None, [1]):
        with pytest.raises(Problem, match="rodata: a="):
            parse_rodata({"a": value})


def test_computed_maps_are_replaced_together() -> None:
    names = ("config", "endpoints4", "policy", "metrics", *CONNECTIONS)
    layouts = {name: Layout(1, 4, 8, 16, 0) for name in names}
    assert replaced_maps(layouts, layouts) == set()
    assert replaced_maps({}, layouts) == set(layouts)
    grown = {**layouts, "policy": Layout(1, 4, 8, 32, 0)}
    assert replaced_maps(layouts, grown) == {"config", "endpoints4", "policy"}
    grown = {**layouts, "metrics": Layout(1, 4, 8, 32, 0)}
    assert replaced_maps(layouts, grown) == {"metrics"}
    grown = {**layouts, "ct4": Layout(1, 4, 8, 32, 0)}
    assert replaced_maps(layouts, grown) == {*CONNECTIONS}


@pytest.mark.parametrize(
    ("changed", "number", "lost"),
    [
        (Layout(9, 40, 52, 1024, 0), 1, False),
        (Layout(9, 40, 52, 2048, 0), 1, False),
        (Layout(9, 40, 56, 1024, 0), 1, True),
        (Layout(9, 40, 52, 1024, 0), 2, True),
    ],
)
@pytest.mark.parametrize("name", CONNECTIONS)
def test_connections_are_not_lost_silently(name: str, changed: Layout, number: int, lost: bool) -> None:
    running = dict.fromkeys(CONNECTIONS, Layout(9, 40, 52, 1024, 0)) | {"layout": Layout(2, 4, 4, 1, 0)}
    wanted = {**running, name: changed, "layout": Layout(2, 4, 4, number, 0)}
    assert bool(connections_problem(running, wanted)) == lost
    assert not connections_problem({}, wanted)
