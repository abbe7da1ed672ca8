# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Desired settings in the option nics."""

from __future__ import annotations

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._nic import request
from ansible_collections.podnet.datapath.plugins.module_utils._nic.request import Desired


def test_options_are_collected_and_optional_is_checked() -> None:
    entry = {
        "name": "eth0",
        "mtu": 9000,
        "rings": {"rx": 1},
        "features": {"rx_gro": True},
        "optional": ["rings"],
    }
    assert request.parse([entry]) == [
        Desired("eth0", {"mtu": 9000, "features.rx_gro": True, "rings.rx": 1}, ("rings",))
    ]
    with pytest.raises(
        Problem, match="optional: ring is not among the requested settings; did you mean rings"
    ):
        request.parse([{**entry, "optional": ["ring"]}])
    with pytest.raises(Problem, match="eth0 is listed twice"):
        request.parse([entry, entry])
