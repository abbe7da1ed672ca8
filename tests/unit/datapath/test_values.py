# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rates of declarations."""

from __future__ import annotations

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.values import (
    parse_address,
    parse_rate,
)


@pytest.mark.parametrize(
    ("text", "rate"), [("1mbit", 125000), ("100 Mbit", 12500000), ("2.5gbit", 312500000)]
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::10.0.0.1", "fe80::1", "ff02::1"),
    ],
)
def test_addresses_that_are_not_routed(text: str) -> None:
    with pytest.raises(ValueError, match="is not a routable unicast address"):
        parse_address(text)


@pytest.mark.parametrize(
    "text", ["1.0.0.1", "100.64.0.1", "223.255.255.254", "64:ff9b::1", "fd00::1", "2001:db8::1"]
)
def test_addresses_that_are_routed(text: str) -> None:
    assert str(parse_address(text)) == text
