# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two ways of header split, against what mlx5 and gve answer and take. Neither was run on hardware.

The values are written by hand after Debian's linux-source, and so are the rules of ``Mlx5``:
mlx5 6.12.117 and 7.3 (drivers/net/ethernet/mellanox/mlx5/core/en_ethtool.c: mlx5e_get_ringparam(),
mlx5e_ethtool_set_tcp_data_split(), set_pflag_rx_striding_rq(), mlx5e_modify_rx_cqe_compression_locked();
en_main.c: mlx5e_fix_features()), gve 6.12.117 and 7.3 (drivers/net/ethernet/google/gve/gve_ethtool.c,
gve_adminq.c), and what the core does for all drivers (net/core/dev.c: netdev_fix_features();
net/ethtool/rings.c: rings_fill_reply(), ethnl_set_rings()).
"""

from __future__ import annotations

import errno
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.ethtool import Nic
from ansible_collections.podnet.datapath.plugins.module_utils._nic import settings

MLX5 = {
    "priv_flags.rx_striding_rq": True, "priv_flags.rx_cqe_compress": True, "features.rx-gro-hw": False,
    "features.rx-lro": True, "rings.tcp-data-split": False, "rings.rx": 1024,
}  # fmt: skip
# gve calls its merging LRO up to 6.12 and HW-GRO in 7.3; either goes with the split.
GVE = {"rings.tcp-data-split": False, "features.rx-lro": True, "rings.rx": 1024, "rings.tx": 512}
GVE_7_3 = {"rings.tcp-data-split": False, "features.rx-gro-hw": True, "rings.rx": 1024, "rings.tx": 512}
OTHER = {"rings.rx": 256, "features.rx-lro": False}


def nic(driver: str, values: dict[str, Any], xdp: bool = False) -> Nic:
    wanted = {name: bool(value) for name, value in values.items() if name.startswith("features.")}
    return Nic("eth0", 2, driver, values, {}, {"rings.rx": 8192}, frozenset(), wanted, xdp)


def resolved(nic: Nic, **options: Any) -> settings.Resolved:
    (wish,) = settings.parse([{"name": "eth0", **options}])
    return settings.resolve(nic, wish)


def test_the_two_ways_of_mlx5_are_whole() -> None:
    mlx5 = nic("mlx5_core", MLX5)
    talk = resolved(mlx5, header_split="striding_off")
    assert talk.problems == [] and talk.settings == {
        "priv_flags.rx_striding_rq": False, "features.rx-gro-hw": False, "features.rx-lro": False,
        "rings.tcp-data-split": False,
    }  # fmt: skip
    upstream = resolved(mlx5, header_split="data_split")
    assert upstream.problems == [] and upstream.settings == {
        "rings.tcp-data-split": True, "features.rx-lro": False, "features.rx-gro-hw": True,
        "priv_flags.rx_striding_rq": True, "priv_flags.rx_cqe_compress": False,
    }  # fmt: skip


def test_gve_splits_without_more() -> None:
    assert resolved(nic("gve", GVE), header_split="data_split").settings == {
        "rings.tcp-data-split": True, "features.rx-lro": False,
    }  # fmt: skip
    assert resolved(nic("gve", GVE_7_3), header_split="data_split").settings == {"rings.tcp-data-split": True}


def number(value: int) -> bytes:
    return struct.pack("=I", value)


@pytest.mark.parametrize(
    ("answer", "split"),
    [
        # mlx5 7.3 before a split was ever asked for: ring sizes, pushes, hds-thresh and its maximum of 0.
        ({2: number(8192), 6: number(1024), 13: b"\0", 14: b"\0", 17: number(0), 18: number(0)}, False),
        ({6: number(1024), 11: b"\2", 17: number(0), 18: number(0)}, True),
        # mlx5 and gve of 6.12 tell the split and no hds-thresh.
        ({6: number(1024), 11: b"\1", 13: b"\0", 14: b"\0"}, False),
        ({6: number(1024), 11: b"\2", 13: b"\0", 14: b"\0"}, True),
        # gve without header split in the device, and every driver that knows none.
        ({6: number(1024), 13: b"\0", 14: b"\0"}, None),
    ],
)
def test_a_split_that_was_never_set_is_one_that_can_be(answer: dict[int, bytes], split: bool | None) -> None:
    values, dummy = ethtool.group_values("rings", answer)
    assert values.get("rings.tcp-data-split") is split


class Mlx5:
    """An mlx5 as its source says, for what header split needs. ``settable``: the split is, as in 7.3."""

    def __init__(
        self, settable: bool, flags: tuple[bool, bool], wanted: tuple[bool, bool], xdp: bool
    ) -> None:
        self.settable, self.xdp, self.split = settable, xdp, False
        self.flags = dict(zip(("rx_striding_rq", "rx_cqe_compress"), flags, strict=True))
        self.wanted = dict(zip(("rx-gro-hw", "rx-lro"), wanted, strict=True))
        self.active = dict.fromkeys(self.wanted, False)
        self.fix()

    def fix(self) -> None:
        gro, lro = self.wanted["rx-gro-hw"], self.wanted["rx-lro"]
        lro = lro and not gro  # netdev_fix_features() comes after the driver's and sees what that leaves
        if not self.flags["rx_striding_rq"] or self.xdp:
            gro = lro = False
        if self.flags["rx_cqe_compress"]:
            gro, lro = False, self.wanted["rx-lro"] and self.flags["rx_striding_rq"] and not self.xdp
        if self.split and self.settable:
            gro = True
        self.active = {"rx-gro-hw": gro, "rx-lro": lro and not gro}

    def look(self) -> Nic:
        values: dict[str, Any] = {f"priv_flags.{flag}": on for flag, on in self.flags.items()}
        values.update({f"features.{feature}": on for feature, on in self.active.items()})
        values["rings.tcp-data-split"] = self.split if self.settable else self.active["rx-gro-hw"]
        wanted = {f"features.{feature}": on for feature, on in self.wanted.items()}
        return Nic("eth0", 2, "mlx5_core", values, {}, {}, frozenset(), wanted, self.xdp)

    def refuse(self, reason: str, number: int = errno.EINVAL) -> None:
        kind = settings.NotByItself if number == errno.EOPNOTSUPP else Problem
        raise kind(reason)

    def write(self, message: settings.Message) -> None:
        group, values = message
        if group == "priv_flags":
            for flag in ("rx_cqe_compress", "rx_striding_rq"):  # the driver's order
                on = bool(values.get(flag, self.flags[flag]))
                if on == self.flags[flag]:
                    continue
                if flag == "rx_cqe_compress" and self.active["rx-gro-hw"]:
                    self.refuse("Can't set CQE compression with HW-GRO, disable it first.")
                if flag == "rx_striding_rq" and not on and any(self.active.values()):
                    self.refuse("Can't set legacy RQ with HW-GRO/LRO, disable them first")
                self.flags[flag] = on
        elif group == "features":
            self.wanted.update({feature: bool(on) for feature, on in values.items()})
        else:
            assert group == "rings" and {*values} == {"tcp-data-split"}
            on = bool(values["tcp-data-split"])
            if not self.settable:
                self.refuse("setting TCP data split is not supported", errno.EOPNOTSUPP)
            if on and self.xdp:
                self.refuse("tcp-data-split can not be enabled with single buffer XDP")
            if on and not self.active["rx-gro-hw"]:
                self.refuse("TCP-data-split is not supported when GRO HW is disabled")
            self.split = on
        self.fix()

    def become(self, strategy: str) -> None:
        asked = resolved(self.look(), header_split=strategy)
        assert asked.problems == []
        changes = settings.plan(self.look(), asked.settings)
        settings.carry_out(self.look, self.write, settings.messages(self.look(), changes))
        assert settings.missed(self.look(), asked.settings) == []
        assert settings.plan(self.look(), asked.settings) == []


pairs = st.tuples(st.booleans(), st.booleans())


@given(st.booleans(), pairs, pairs)
def test_mlx5_gets_from_every_state_to_each_way_and_back(
    settable: bool, flags: tuple[bool, bool], wanted: tuple[bool, bool]
) -> None:
    mlx5 = Mlx5(settable, flags, wanted, False)
    former = mlx5.look()
    for strategy in ("data_split", "striding_off", "data_split"):
        mlx5.become(strategy)
    assert settings.put_back(mlx5.look, mlx5.write, former) == []
    assert mlx5.look() == former


@given(st.booleans(), pairs, pairs)
def test_mlx5_with_xdp_takes_the_talk_s_way(
    settable: bool, flags: tuple[bool, bool], wanted: tuple[bool, bool]
) -> None:
    Mlx5(settable, flags, wanted, True).become("striding_off")


@pytest.mark.parametrize(
    ("driver", "values", "options", "words"),
    [
        ("gve", GVE, {"header_split": "striding_off"}, "gve does not have: choose data_split"),
        ("igb", OTHER, {"header_split": "data_split"}, "igb does not: leave it out"),
        ("mlx5_core", {k: v for k, v in MLX5.items() if "split" not in k}, {"header_split": "data_split"},
         "mlx5_core does not: choose striding_off"),
        ("mlx5_core", MLX5, {"header_split": "striding_off", "features": {"rx-gro-hw": True}},
         "needs features.rx-gro-hw off, but True is asked for: HW-GRO works on striding receive queues only"),
        ("mlx5_core", MLX5, {"header_split": "data_split", "features": {"lro": "on"}},
         "needs features.rx-lro off, but True is asked for: LRO puts"),
        ("mlx5_core", MLX5, {"header_split": "data_split", "priv_flags": {"rx_cqe_compress": 1}},
         "excludes compressed completions"),
    ],
)  # fmt: skip
def test_what_excludes_a_header_split_is_named(
    driver: str, values: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    problems = resolved(nic(driver, values), **options).problems
    assert len(problems) == 1 and words in problems[0]


def test_a_header_split_may_be_left_out_but_not_contradicted() -> None:
    left = resolved(nic("igb", OTHER), header_split="data_split", optional=["header_split"])
    assert (left.settings, left.problems) == ({}, [])
    assert left.skipped["header_split"].startswith("data_split needs a driver that reports tcp-data-split")
    options = {"header_split": "data_split", "features": {"lro": True}, "optional": ["header_split"]}
    assert len(resolved(nic("mlx5_core", MLX5), **options).problems) == 1


def test_xdp_excludes_data_split() -> None:
    (problem,) = resolved(nic("mlx5_core", MLX5, xdp=True), header_split="data_split").problems
    assert "XDP program exclude each other" in problem
    assert not resolved(nic("mlx5_core", MLX5, xdp=True), header_split="striding_off").problems
