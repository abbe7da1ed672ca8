# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Features that need other features."""

from __future__ import annotations

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._nic import features, request, resolve
from tests.unit.nic.nic_model import model

ALL = [
    "tx-scatter-gather", "tx-checksum-ipv4", "tx-checksum-ipv6", "tx-checksum-ip-generic",
    "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-tcp-ecn-segmentation", "tx-tcp-mangleid-segmentation",
    "tx-generic-segmentation", "rx-checksum", "rx-gro-hw", "tls-hw-tx-offload",
]  # fmt: skip


@pytest.mark.parametrize(
    ("off", "kept"),
    [
        ([], []),
        (["tx-checksum-ip-generic"], []),
        (["tx-checksum-ip-generic", "tx-checksum-ipv6"], ["tls-hw-tx-offload", "tx-tcp6-segmentation"]),
        (
            ["tx-checksum-ip-generic", "tx-checksum-ipv4"],
            ["tls-hw-tx-offload", "tx-tcp-mangleid-segmentation", "tx-tcp-segmentation"],
        ),
        (
            ["tx-scatter-gather"],
            ["tx-generic-segmentation", *sorted(name for name in ALL if name.startswith("tx-tcp"))],
        ),
        (["rx-checksum"], ["rx-gro-hw"]),
    ],
)
def test_features_without_what_they_need_stay_off(off: list[str], kept: list[str]) -> None:
    found = features.kept_off({name: name not in off for name in ALL})
    assert sorted(found) == kept
    assert all("which is off" in reason for reason in found.values())


def test_features_that_exclude_each_other() -> None:
    assert features.kept_off({"rx-lro": True, "rx-gro-hw": True}) == {
        "rx-lro": "is excluded by rx-gro-hw, which is on"
    }
    assert features.kept_off({"rx-lro": False, "rx-gro-hw": True, "rx-fcs": False}) == {}


@pytest.mark.parametrize("name", ["tso", "tx-tcp-segmentation", "tcp-segmentation-offload"])
def test_optional_features_are_left_out_in_any_spelling(name: str) -> None:
    off = {f"features.{name}": False for name in ALL}
    nic = model(values={**off, "features.tx-scatter-gather": True, "mtu": 1500})
    (desired,) = request.parse(
        [{"name": "eth0", "features": {name: True, "sg": True}, "optional": ["features"]}]
    )
    found = resolve.resolve(nic, desired)
    assert found.problems == [] and list(found.skipped) == [f"features.{name}"]
    assert found.settings == {"features.tx-scatter-gather": True}
    (desired,) = request.parse([{"name": "eth0", "features": {name: True, "tx": True}}])
    assert resolve.resolve(nic, desired).problems == []
