# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selection of NICs."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._nic import select
from ansible_collections.podnet.datapath.plugins.module_utils._nic.select import Device

DEVICES = [
    Device("lo"),
    Device("ens1f0", "mlx5_core", "0000:3b:00.0", True),
    Device("ens1f1", "mlx5_core", "0000:3b:00.1"),
    Device("eno1", "igb", "0000:04:00.0", True),
]


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ({"name": "eno1"}, ["eno1"]),
        ({"driver": "mlx5_core"}, ["ens1f0", "ens1f1"]),
        ({"pci": "3B:00.1"}, ["ens1f1"]),
        ({"pci": "0000:04:00.0", "default_route": False}, ["eno1"]),
        ({"default_route": True}, ["ens1f0", "eno1"]),
    ],
)
def test_nics_are_selected_by_each_property(entry: dict[str, Any], names: list[str]) -> None:
    chosen = select.select([{**entry, "mtu": 8264}], DEVICES)
    assert [(one["name"], one["mtu"]) for one in chosen] == [(name, 8264) for name in names]


def test_all_selection_errors_are_reported() -> None:
    entries = [{"mtu": 1}, {"name": "a", "driver": "b"}, {"name": "eth7"}, {"driver": "ice"}, {"pci": "1:2"},
               {"driver": "mlx5_core"}, {"name": "ens1f1"}]  # fmt: skip
    with pytest.raises(Problem) as raised:
        select.select(entries, DEVICES)
    assert str(raised.value).splitlines() == [
        "nics: an entry has none of name, driver, pci, default_route: set exactly one",
        "nics: an entry has name, driver of name, driver, pci, default_route: set exactly one",
        "nics: no NIC matches eth7; available: eno1, ens1f0, ens1f1, lo",
        "nics: no NIC matches driver: ice; available: igb, mlx5_core",
        "nics: no NIC matches pci: 1:2; available: 0000:04:00.0, 0000:3b:00.0, 0000:3b:00.1",
        "nics: ens1f1 is listed twice, by driver: mlx5_core and by ens1f1: merge its settings into one entry",
    ]
