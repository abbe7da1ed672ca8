# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs last, by its name: every reason was counted by some test before."""

from __future__ import annotations

from typing import Any


def test_every_reason_was_reached(datapath: Any, reached: set[str]) -> None:
    assert set(datapath.names) - reached == {"NONE"}  # which is no reason
