# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of NIC settings, the steps that apply them, and their restoration."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.ethtool import Nic, Setting
from ansible_collections.podnet.datapath.plugins.module_utils._nic import configure, plan, resolve
from ansible_collections.podnet.datapath.plugins.module_utils._nic.request import Desired
from tests.unit.nic.nic_model import FEATURES, FLAGS, MAXIMUM, SETTINGS, model

# Each example draws some forty values, which takes long on a busy machine.
some = example_settings(max_examples=50)


def values_of(setting: str) -> st.SearchStrategy[Setting]:
    if setting in FLAGS:
        return st.booleans()
    if setting in ethtool.SIZES:
        return st.integers(1, 524280)
    return st.integers(68 if setting == "mtu" else 0, MAXIMUM.get(setting, 10**6))


@st.composite
def nics(draw: st.DrawFn) -> Nic:
    values = {s: draw(values_of(s)) for s in SETTINGS}
    fixed = frozenset(f"features.{f}" for f in draw(st.sets(st.sampled_from(FEATURES))))
    return Nic(
        name="eth0",
        index=2,
        driver="model",
        values=values,
        minimum={"mtu": 68},
        maximum={**MAXIMUM, **dict.fromkeys(ethtool.SIZES, 524280)},
        fixed=fixed,
        wanted={s: bool(values[s]) for s in values if s.startswith("features.")},
    )


def kernel(nic: Nic, group: str, values: dict[str, Setting]) -> Nic:
    """Apply one step as the kernel does, sizes as in netif_set_gso_max_size()."""
    if group == "sizes":
        new = dict(nic.values)
        for name in ethtool.SIZES:  # do_setlink()'s order
            if name in values and values[name] != new[name]:
                new[name] = values[name]
                follower = name.replace("_max_size", "_ipv4_max_size")
                if follower in new and values[name] <= 65536:
                    new[follower] = values[name]
        return replace(nic, values=new)
    named = {word if group == "mtu" else f"{group}.{word}": value for word, value in values.items()}
    assert not set(named) & nic.fixed
    wanted = {**nic.wanted, **{s: bool(v) for s, v in named.items() if s in nic.wanted}}
    return replace(nic, values={**nic.values, **named}, wanted=wanted)


def applied(nic: Nic, settings: dict[str, Setting]) -> Nic:
    for group, values in plan.steps(nic, plan.changes(nic, settings)):
        nic = kernel(nic, group, values)
    return nic


@st.composite
def nics_and_settings(draw: st.DrawFn) -> tuple[Nic, dict[str, Setting]]:
    nic = draw(nics())
    names = draw(st.sets(st.sampled_from(sorted(set(SETTINGS) - nic.fixed))))
    return nic, {s: draw(values_of(s)) for s in sorted(names)}


@some
@given(nics_and_settings())
def test_the_plan_changes_the_desired_settings_and_no_others(case: tuple[Nic, dict[str, Setting]]) -> None:
    nic, settings = case
    after = applied(nic, settings)
    assert after.values == {**nic.values, **settings}
    assert plan.changes(after, settings) == [] == configure.not_applied(after, settings)


@some
@given(nics_and_settings())
def test_former_settings_restore_the_nic(case: tuple[Nic, dict[str, Setting]]) -> None:
    nic, settings = case
    after = applied(nic, settings)
    assert applied(after, plan.former_settings(after, nic)) == nic


@some
@given(nics_and_settings(), st.integers(0, 8))
def test_former_settings_restore_a_partly_changed_nic(
    case: tuple[Nic, dict[str, Setting]], done: int
) -> None:
    nic, settings = case
    after = nic
    for group, values in plan.steps(nic, plan.changes(nic, settings))[:done]:
        after = kernel(after, group, values)
    assert applied(after, plan.former_settings(after, nic)) == nic


@some
@given(nics_and_settings())
def test_names_of_ethtool_resolve_to_the_settings(case: tuple[Nic, dict[str, Setting]]) -> None:
    nic, settings = case
    on = {setting: value is True for setting, value in {**nic.values, **settings}.items()}
    assume(not (on["features.rx-lro"] and on["features.rx-gro-hw"]))  # They exclude each other.
    dashed = {s.replace("_", "-") if "." in s and s[0] == "f" else s: v for s, v in settings.items()}
    resolved = resolve.resolve(nic, Desired("eth0", dashed))
    assert (resolved.settings, resolved.skipped, resolved.problems) == (settings, {}, [])


def test_order_of_steps() -> None:
    nic = model()
    wanted: dict[str, Setting] = {
        "gso_ipv4_max_size": 1, "gso_max_size": 2, "mtu": 9000, "coalesce.rx-usecs": 9, "rings.rx": 1,
        "channels.combined": 1, "features.rx-gro": False, "priv_flags.rx_striding_rq": False, "rings.tx": 2,
    }  # fmt: skip
    assert plan.steps(nic, plan.changes(nic, wanted)) == [
        ("features", {"rx-gro": False}),
        ("priv_flags", {"rx_striding_rq": False}),
        ("channels", {"combined": 1}),
        ("rings", {"rx": 1, "tx": 2}),
        ("coalesce", {"rx-usecs": 9}),
        ("mtu", {"mtu": 9000}),
        ("sizes", {"gso_max_size": 2, "gso_ipv4_max_size": 1}),
    ]


def test_a_feature_that_needs_another_is_requested_and_reported() -> None:
    nic = model(values={**model().values, "features.rx-gro-hw": False}, wanted={"features.rx-gro-hw": True})
    assert [c.name for c in plan.changes(nic, {"features.rx-gro-hw": True})] == ["features.rx-gro-hw"]
    assert (
        "reads back off: it may need another feature"
        in configure.not_applied(nic, {"features.rx-gro-hw": True})[0]
    )
