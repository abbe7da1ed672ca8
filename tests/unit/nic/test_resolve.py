# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolution of desired settings against the capabilities of a NIC."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel.ethtool import Nic, Setting
from ansible_collections.podnet.datapath.plugins.module_utils._nic import plan, request, resolve
from ansible_collections.podnet.datapath.plugins.module_utils._nic.request import Desired
from ansible_collections.podnet.datapath.plugins.module_utils._nic.resolve import Resolved
from tests.unit.nic.nic_model import model


def resolved(settings: dict[str, object], optional: tuple[str, ...] = (), **changes: Any) -> Resolved:
    return resolve.resolve(model(**changes), Desired("eth0", settings, optional))


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("mtu", 9979, "mtu = 9979 exceeds the maximum of 9978: lower it, or set limit_to_maximum"),
        ("mtu", 67, "mtu = 67 is below the minimum of 68"),
        ("rings.rx", 8193, "rings.rx = 8193 exceeds the maximum of 8192"),
        ("gso_max_size", 65537, "gso_max_size = 65537 exceeds the maximum of 65536"),
        ("coalesce.rx-usecs", -1, "is not a non-negative integer"),
        ("coalesce.rx-usecs", True, "is not a non-negative integer"),
        ("coalesce.rx-usecs", "fast", "is not a non-negative integer"),
        ("coalesce.rx-usecs", 1 << 32, "exceeds 32 bits"),
        ("coalesce.adaptive-rx", "maybe", "is neither on nor off"),
        ("features.gro", 7, "is neither on nor off"),
        ("coalesce.rx-usec", 1, "is not an ethtool setting; did you mean rx-usecs"),
        ("rings.foo", 1, "is not an ethtool setting; available: rx, rx-mini, rx-jumbo, tx"),
        ("rings.jumbo", 1, "is not an ethtool setting; did you mean rx-jumbo"),
        (
            "rings.rx-jumbo",
            1,
            "rings.rx-jumbo is not supported by the driver: remove it, or list it in optional",
        ),
        ("features.rx-grohw", True, "is not a feature of this kernel; did you mean rx-gro-hw"),
        (
            "priv_flags.rx_stridingrq",
            True,
            "is not a private flag of the driver; did you mean rx-striding-rq",
        ),
        ("priv_flags.x", True, "is not a private flag of the driver; available: rx-striding-rq"),
    ],
)
def test_errors_name_nic_driver_and_setting(setting: str, value: object, words: str) -> None:
    found = resolved({setting: value, "mtu" if setting != "mtu" else "rings.rx": 1400})
    assert len(found.problems) == 1
    assert found.problems[0].startswith(f"nics: eth0 (driver model): {setting}")
    assert words in found.problems[0]


def test_fixed_features_cannot_be_changed() -> None:
    found = resolved({"features.lro": False}, fixed=frozenset({"features.rx-lro"}))
    assert "features.lro is fixed on and cannot be set to off" in found.problems[0]
    found = resolved({"features.lro": True}, fixed=frozenset({"features.rx-lro"}))
    assert (found.settings, found.problems) == ({}, [])


def test_a_name_of_several_features_changes_those_that_are_not_fixed() -> None:
    found = resolved({"features.tso": "off"}, fixed=frozenset({"features.tx-tcp6-segmentation"}))
    assert (found.settings, found.problems) == ({"features.tx-tcp-segmentation": False}, [])


def test_contradicting_names_are_rejected() -> None:
    found = resolved({"features.tso": False, "features.tx-tcp-segmentation": True})
    assert "contradicts another value of features.tx-tcp-segmentation" in found.problems[0]


@pytest.mark.parametrize("optional", ["rings", "rings.rx-jumbo", "rings.rx_jumbo"])
def test_unsupported_optional_settings_are_skipped(optional: str) -> None:
    found = resolved({"rings.rx-jumbo": 5, "rings.rx": 6}, (optional,))
    assert (found.settings, found.problems) == ({"rings.rx": 6}, [])
    assert found.skipped == {"rings.rx-jumbo": "is not supported by the driver"}


def test_invalid_optional_settings_are_errors() -> None:
    found = resolved({"rings.jumbo": 5, "rings.rx": 99999}, ("rings",))
    assert len(found.problems) == 2


def test_sizes_of_older_kernels() -> None:
    values = {s: v for s, v in model().values.items() if "ipv4" not in s}
    found = resolved({"gso_ipv4_max_size": 5}, values=values)
    assert "gso_ipv4_max_size is not supported by this kernel" in found.problems[0]
    assert plan.steps(model(values=values), plan.changes(model(values=values), {"gso_max_size": 5})) == [
        ("sizes", {"gso_max_size": 5})
    ]


OTHER: dict[str, Setting] = {"rings.rx": 256, "features.rx-lro": False}


def nic(driver: str, values: dict[str, Any], xdp: bool = False, fixed: frozenset[str] = frozenset()) -> Nic:
    wanted = {name: bool(value) for name, value in values.items() if name.startswith("features.")}
    return Nic("eth0", 2, driver, values, {}, {"rings.rx": 8192}, fixed, wanted, xdp)


def resolved_options(nic: Nic, **options: Any) -> Resolved:
    (desired,) = request.parse([{"name": "eth0", **options}])
    return resolve.resolve(nic, desired)


def test_limit_to_maximum_lowers_a_number() -> None:
    one = nic("igb", OTHER)
    assert "exceeds the maximum of 8192" in resolved_options(one, rings={"rx": 9000}).problems[0]
    limited = resolved_options(one, rings={"rx": 9000}, limit_to_maximum=True)
    assert (limited.settings, limited.limited, limited.problems) == (
        {"rings.rx": 8192}, {"rings.rx": 8192}, [],
    )  # fmt: skip


def test_a_configured_qdisc_is_not_replaced() -> None:
    configured = nic("igb", {**OTHER, "qdisc": "htb"})
    assert "would replace the configured qdisc htb" in resolved_options(configured, qdisc="fq").problems[0]
    assert (
        "is not supported: choose one of"
        in resolved_options(nic("igb", {"qdisc": "fq"}), qdisc="htb").problems[0]
    )
    assert resolved_options(nic("igb", {"qdisc": "fq_codel"}), qdisc="fq").settings == {"qdisc": "fq"}


def test_unsupported_steering_may_be_optional() -> None:
    one = nic("igb", {"queues.rx-0.rps_cpus": ""})
    (problem,) = resolved_options(one, steering={"rps": "all", "xps": "all"}).problems
    assert "has a single transmit queue" in problem
    found = resolved_options(one, steering={"rps": "0", "xps": "all"}, optional=["steering.xps"])
    assert (found.settings, found.problems, list(found.skipped)) == (
        {"queues.rx-0.rps_cpus": "0"}, [], ["steering.xps"],
    )  # fmt: skip
