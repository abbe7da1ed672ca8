# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wishes, plans and ways back of NIC settings: what holds for any NIC."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.ethtool import Nic, Setting
from ansible_collections.podnet.datapath.plugins.module_utils._nic import settings as _nic

# A case draws some forty values; the machine that tests may be busy.
some = example_settings(max_examples=50)

FEATURES = (
    "rx-gro", "rx-gro-hw", "rx-lro", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp_tnl-segmentation",
)  # fmt: skip
MAXIMUM = {"mtu": 9978, "rings.rx": 8192, "rings.tx": 4096, "channels.combined": 63}
SETTINGS = (
    "mtu", *ethtool.SIZES, "rings.rx", "rings.tx", "channels.combined", "coalesce.rx-usecs",
    "coalesce.adaptive-rx", "priv_flags.rx_striding_rq", *(f"features.{name}" for name in FEATURES),
)  # fmt: skip
FLAGS = tuple(s for s in SETTINGS if s.startswith(("features", "priv_flags")) or "adaptive" in s)


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
    """Do to a NIC what the kernel does with one message, sizes as in netif_set_gso_max_size()."""
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


def carried_out(nic: Nic, settings: dict[str, Setting]) -> Nic:
    for group, values in _nic.messages(nic, _nic.plan(nic, settings)):
        nic = kernel(nic, group, values)
    return nic


@st.composite
def nics_and_settings(draw: st.DrawFn) -> tuple[Nic, dict[str, Setting]]:
    nic = draw(nics())
    asked = draw(st.sets(st.sampled_from(sorted(set(SETTINGS) - nic.fixed))))
    return nic, {s: draw(values_of(s)) for s in sorted(asked)}


@some
@given(nics_and_settings())
def test_plan_leads_to_what_is_asked_and_nothing_else(case: tuple[Nic, dict[str, Setting]]) -> None:
    nic, settings = case
    after = carried_out(nic, settings)
    assert after.values == {**nic.values, **settings}
    assert _nic.plan(after, settings) == [] == _nic.missed(after, settings)


@some
@given(nics_and_settings())
def test_the_way_back_leads_to_the_former_state(case: tuple[Nic, dict[str, Setting]]) -> None:
    nic, settings = case
    after = carried_out(nic, settings)
    assert carried_out(after, _nic.way_back(after, nic)) == nic


@some
@given(nics_and_settings(), st.integers(0, 8))
def test_the_way_back_from_halfway_too(case: tuple[Nic, dict[str, Setting]], done: int) -> None:
    nic, settings = case
    after = nic
    for group, values in _nic.messages(nic, _nic.plan(nic, settings))[:done]:
        after = kernel(after, group, values)
    assert carried_out(after, _nic.way_back(after, nic)) == nic


@some
@given(nics_and_settings())
def test_a_wish_in_ethtool_s_words_resolves_to_the_settings(case: tuple[Nic, dict[str, Setting]]) -> None:
    nic, settings = case
    resolved = _nic.resolve(nic, _nic.Wish("eth0", {s.replace("_", "-") if "." in s and s[0] == "f" else s: v
                                                    for s, v in settings.items()}))  # fmt: skip
    assert (resolved.settings, resolved.skipped, resolved.problems) == (settings, {}, [])


def test_order_of_writing() -> None:
    nic = model()
    wanted: dict[str, Setting] = {
        "gso_ipv4_max_size": 1, "gso_max_size": 2, "mtu": 9000, "coalesce.rx-usecs": 9, "rings.rx": 1,
        "channels.combined": 1, "features.rx-gro": False, "priv_flags.rx_striding_rq": False, "rings.tx": 2,
    }  # fmt: skip
    assert _nic.messages(nic, _nic.plan(nic, wanted)) == [
        ("features", {"rx-gro": False}),
        ("priv_flags", {"rx_striding_rq": False}),
        ("channels", {"combined": 1}),
        ("rings", {"rx": 1, "tx": 2}),
        ("coalesce", {"rx-usecs": 9}),
        ("mtu", {"mtu": 9000}),
        ("sizes", {"gso_max_size": 2, "gso_ipv4_max_size": 1}),
    ]


def model(**changes: Any) -> Nic:
    values: dict[str, Setting] = {s: True if s in FLAGS else 1000 for s in SETTINGS}
    nic = Nic("eth0", 2, "model", values, {"mtu": 68}, dict(MAXIMUM, gso_max_size=65536), frozenset(), {})
    return replace(nic, **changes)


def resolved(settings: dict[str, object], optional: tuple[str, ...] = (), **changes: Any) -> _nic.Resolved:
    return _nic.resolve(model(**changes), _nic.Wish("eth0", settings, optional))


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("mtu", 9979, "mtu = 9979 is above the maximum of 9978"),
        ("mtu", 67, "mtu = 67 is below the minimum of 68"),
        ("rings.rx", 8193, "rings.rx = 8193 is above the maximum of 8192"),
        ("gso_max_size", 65537, "gso_max_size = 65537 is above the maximum of 65536"),
        ("coalesce.rx-usecs", -1, "is no whole number"),
        ("coalesce.rx-usecs", True, "is no whole number"),
        ("coalesce.rx-usecs", "fast", "is no whole number"),
        ("coalesce.rx-usecs", 1 << 32, "does not fit into 32 bits"),
        ("coalesce.adaptive-rx", "maybe", "is neither on nor off"),
        ("features.gro", 7, "is neither on nor off"),
        ("coalesce.rx-usec", 1, "is no setting of ethtool; did you mean rx-usecs"),
        ("rings.foo", 1, "is no setting of ethtool; there are: rx, rx-mini, rx-jumbo, tx"),
        ("rings.jumbo", 1, "is no setting of ethtool; did you mean rx-jumbo"),
        (
            "rings.rx-jumbo",
            1,
            "rings.rx-jumbo is not supported by the driver: leave it out, or name it in optional",
        ),
        ("features.rx-grohw", True, "is no feature that this kernel knows; did you mean rx-gro-hw"),
        ("priv_flags.rx_stridingrq", True, "is no private flag of the driver; did you mean rx-striding-rq"),
        ("priv_flags.x", True, "is no private flag of the driver; it has: rx-striding-rq"),
    ],
)
def test_what_cannot_be_names_nic_driver_and_setting(setting: str, value: object, words: str) -> None:
    found = resolved({setting: value, "mtu" if setting != "mtu" else "rings.rx": 1400})
    assert len(found.problems) == 1
    assert found.problems[0].startswith(f"nics: eth0 (driver model): {setting}")
    assert words in found.problems[0]


def test_fixed_features_are_named_with_their_state() -> None:
    found = resolved({"features.lro": False}, fixed=frozenset({"features.rx-lro"}))
    assert "features.lro is fixed on, so it cannot be off" in found.problems[0]
    found = resolved({"features.lro": True}, fixed=frozenset({"features.rx-lro"}))
    assert (found.settings, found.problems) == ({}, [])


def test_a_name_for_several_features_takes_those_that_can_change() -> None:
    found = resolved({"features.tso": "off"}, fixed=frozenset({"features.tx-tcp6-segmentation"}))
    assert (found.settings, found.problems) == ({"features.tx-tcp-segmentation": False}, [])


def test_names_that_contradict_each_other() -> None:
    found = resolved({"features.tso": False, "features.tx-tcp-segmentation": True})
    assert "contradicts another entry for features.tx-tcp-segmentation" in found.problems[0]


@pytest.mark.parametrize("optional", ["rings", "rings.rx-jumbo", "rings.rx_jumbo"])
def test_optional_settings_are_left_out_with_a_reason(optional: str) -> None:
    found = resolved({"rings.rx-jumbo": 5, "rings.rx": 6}, (optional,))
    assert (found.settings, found.problems) == ({"rings.rx": 6}, [])
    assert found.skipped == {"rings.rx-jumbo": "is not supported by the driver"}


def test_optional_does_not_excuse_mistakes() -> None:
    found = resolved({"rings.jumbo": 5, "rings.rx": 99999}, ("rings",))
    assert len(found.problems) == 2


def test_sizes_that_an_older_kernel_lacks() -> None:
    values = {s: v for s, v in model().values.items() if "ipv4" not in s}
    found = resolved({"gso_ipv4_max_size": 5}, values=values)
    assert "gso_ipv4_max_size is not known to this kernel" in found.problems[0]
    assert _nic.messages(model(values=values), _nic.plan(model(values=values), {"gso_max_size": 5})) == [
        ("sizes", {"gso_max_size": 5})
    ]


def test_a_feature_off_for_want_of_another_is_asked_for_and_missed() -> None:
    nic = model(values={**model().values, "features.rx-gro-hw": False}, wanted={"features.rx-gro-hw": True})
    assert [c.name for c in _nic.plan(nic, {"features.rx-gro-hw": True})] == ["features.rx-gro-hw"]
    assert "is off now: it may need another feature" in _nic.missed(nic, {"features.rx-gro-hw": True})[0]


def test_options_are_gathered_and_optional_is_checked() -> None:
    entry = {
        "name": "eth0",
        "mtu": 9000,
        "rings": {"rx": 1},
        "features": {"rx_gro": True},
        "optional": ["rings"],
    }
    assert _nic.parse([entry]) == [
        _nic.Wish("eth0", {"mtu": 9000, "features.rx_gro": True, "rings.rx": 1}, ("rings",))
    ]
    with pytest.raises(Problem, match="optional names ring, which is not asked for; did you mean rings"):
        _nic.parse([{**entry, "optional": ["ring"]}])
    with pytest.raises(Problem, match="eth0 is listed twice"):
        _nic.parse([entry, entry])
