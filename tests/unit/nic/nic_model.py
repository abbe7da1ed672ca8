# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A model NIC with settings of every kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.ethtool import Nic, Setting

FEATURES = (
    "rx-gro", "rx-gro-hw", "rx-lro", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp_tnl-segmentation",
)  # fmt: skip
MAXIMUM = {"mtu": 9978, "rings.rx": 8192, "rings.tx": 4096, "channels.combined": 63}
SETTINGS = (
    "mtu", *ethtool.SIZES, "rings.rx", "rings.tx", "channels.combined", "coalesce.rx-usecs",
    "coalesce.adaptive-rx", "priv_flags.rx_striding_rq", *(f"features.{name}" for name in FEATURES),
)  # fmt: skip
FLAGS = tuple(s for s in SETTINGS if s.startswith(("features", "priv_flags")) or "adaptive" in s)


def model(**changes: Any) -> Nic:
    values: dict[str, Setting] = {s: True if s in FLAGS else 1000 for s in SETTINGS}
    nic = Nic("eth0", 2, "model", values, {"mtu": 68}, dict(MAXIMUM, gso_max_size=65536), frozenset(), {})
    return replace(nic, **changes)
