# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rates of declarations."""

from __future__ import annotations

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.values import parse_rate


@pytest.mark.parametrize(
    ("text", "rate"), [("1mbit", 125000), ("100 Mbit", 12500000), ("2.5gbit", 312500000)]
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate
