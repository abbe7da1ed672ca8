# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Header split strategies on models of mlx5 and gve; neither was run on hardware.

The values and the rules of ``Mlx5`` are derived from Debian's linux-source:
mlx5 6.12.117 and 7.3 (drivers/net/ethernet/mellanox/mlx5/core/en_ethtool.c: mlx5e_get_ringparam(),
mlx5e_ethtool_set_tcp_data_split(), set_pflag_rx_striding_rq(), mlx5e_modify_rx_cqe_compression_locked();
en_main.c: mlx5e_fix_features()), gve 6.12.117 and 7.3 (drivers/net/ethernet/google/gve/gve_ethtool.c,
gve_adminq.c), and the core code for all drivers (net/core/dev.c: netdev_fix_features();
net/ethtool/rings.c: rings_fill_reply(), ethnl_set_rings()).
"""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.ethtool import Nic
from ansible_collections.podnet.datapath.plugins.module_utils._nic import configure, plan, request
from ansible_collections.podnet.datapath.plugins.module_utils._nic.plan import Step
from ansible_collections.podnet.datapath.plugins.module_utils._nic.resolve import Resolved, resolve
from ansible_collections.podnet.datapath.plugins.module_utils._nic.write import NotSupported

MLX5 = {
    "priv_flags.rx_striding_rq": True, "priv_flags.rx_cqe_compress": True, "features.rx-gro-hw": False,
    "features.rx-lro": True, "rings.tcp-data-split": False, "rings.rx": 1024,
}  # fmt: skip
# The feature of gve is LRO up to 6.12 and HW-GRO in 7.3; the split allows both.
GVE = {"rings.tcp-data-split": False, "features.rx-lro": True, "rings.rx": 1024, "rings.tx": 512}
GVE_7_3 = {"rings.tcp-data-split": False, "features.rx-gro-hw": True, "rings.rx": 1024, "rings.tx": 512}
OTHER = {"rings.rx": 256, "features.rx-lro": False}


def nic(driver: str, values: dict[str, Any], xdp: bool = False) -> Nic:
    wanted = {name: bool(value) for name, value in values.items() if name.startswith("features.")}
    return Nic("eth0", 2, driver, values, {}, {"rings.rx": 8192}, frozenset(), wanted, xdp)


def resolved(nic: Nic, **options: Any) -> Resolved:
    (desired,) = request.parse([{"name": "eth0", **options}])
    return resolve(nic, desired)


def test_both_strategies_on_mlx5() -> None:
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


def test_gve_needs_no_further_features() -> None:
    assert resolved(nic("gve", GVE), header_split="data_split").settings == {
        "rings.tcp-data-split": True, "features.rx-lro": False,
    }  # fmt: skip
    assert resolved(nic("gve", GVE_7_3), header_split="data_split").settings == {"rings.tcp-data-split": True}


class Mlx5:
    """A model of mlx5's settings for header split. ``settable``: tcp-data-split can be set, as in 7.3."""

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
        lro = lro and not gro  # netdev_fix_features() runs after the driver's callback
        if not self.flags["rx_striding_rq"] or self.xdp:
            gro = lro = False
        if self.flags["rx_cqe_compress"]:
            gro, lro = False, self.wanted["rx-lro"] and self.flags["rx_striding_rq"] and not self.xdp
        if self.split and self.settable:
            gro = True
        self.active = {"rx-gro-hw": gro, "rx-lro": lro and not gro}

    def read(self) -> Nic:
        values: dict[str, Any] = {f"priv_flags.{flag}": on for flag, on in self.flags.items()}
        values.update({f"features.{feature}": on for feature, on in self.active.items()})
        values["rings.tcp-data-split"] = self.split if self.settable else self.active["rx-gro-hw"]
        wanted = {f"features.{feature}": on for feature, on in self.wanted.items()}
        return Nic("eth0", 2, "mlx5_core", values, {}, {}, frozenset(), wanted, self.xdp)

    def refuse(self, reason: str, number: int = errno.EINVAL) -> None:
        kind = NotSupported if number == errno.EOPNOTSUPP else Problem
        raise kind(reason)

    def write(self, step: Step) -> None:
        group, values = step
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

    def apply(self, strategy: str) -> None:
        desired = resolved(self.read(), header_split=strategy)
        assert desired.problems == []
        changes = plan.changes(self.read(), desired.settings)
        configure.write_steps(self.read, self.write, plan.steps(self.read(), changes))
        assert configure.not_applied(self.read(), desired.settings) == []
        assert plan.changes(self.read(), desired.settings) == []


pairs = st.tuples(st.booleans(), st.booleans())


@given(st.booleans(), pairs, pairs)
def test_mlx5_changes_strategy_from_any_state_and_back(
    settable: bool, flags: tuple[bool, bool], wanted: tuple[bool, bool]
) -> None:
    mlx5 = Mlx5(settable, flags, wanted, False)
    former = mlx5.read()
    for strategy in ("data_split", "striding_off", "data_split"):
        mlx5.apply(strategy)
    assert configure.restore_steps(mlx5.read, mlx5.write, former) == []
    assert mlx5.read() == former


@given(st.booleans(), pairs, pairs)
def test_mlx5_with_xdp_supports_striding_off(
    settable: bool, flags: tuple[bool, bool], wanted: tuple[bool, bool]
) -> None:
    Mlx5(settable, flags, wanted, True).apply("striding_off")


@pytest.mark.parametrize(
    ("driver", "values", "options", "words"),
    [
        ("gve", GVE, {"header_split": "striding_off"}, "gve does not have: choose data_split"),
        ("igb", OTHER, {"header_split": "data_split"}, "igb does not: remove it"),
        ("mlx5_core", {k: v for k, v in MLX5.items() if "split" not in k}, {"header_split": "data_split"},
         "mlx5_core does not: choose striding_off"),
        ("mlx5_core", MLX5, {"header_split": "striding_off", "features": {"rx-gro-hw": True}},
         "needs features.rx-gro-hw off, but True is requested: HW-GRO requires striding receive queues"),
        ("mlx5_core", MLX5, {"header_split": "data_split", "features": {"lro": "on"}},
         "needs features.rx-lro off, but True is requested: LRO puts"),
        ("mlx5_core", MLX5, {"header_split": "data_split", "priv_flags": {"rx_cqe_compress": 1}},
         "excludes compressed completions"),
    ],
)  # fmt: skip
def test_settings_that_exclude_a_strategy_are_reported(
    driver: str, values: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    problems = resolved(nic(driver, values), **options).problems
    assert len(problems) == 1 and words in problems[0]


def test_an_optional_header_split_is_skipped_unless_it_contradicts() -> None:
    found = resolved(nic("igb", OTHER), header_split="data_split", optional=["header_split"])
    assert (found.settings, found.problems) == ({}, [])
    assert found.skipped["header_split"].startswith("data_split needs a driver that reports tcp-data-split")
    options = {"header_split": "data_split", "features": {"lro": True}, "optional": ["header_split"]}
    assert len(resolved(nic("mlx5_core", MLX5), **options).problems) == 1


def test_xdp_excludes_data_split() -> None:
    (problem,) = resolved(nic("mlx5_core", MLX5, xdp=True), header_split="data_split").problems
    assert "XDP program exclude each other" in problem
    assert not resolved(nic("mlx5_core", MLX5, xdp=True), header_split="striding_off").problems
