# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that the other tests cover every reason. The file name sorts last, so this test runs last."""

from __future__ import annotations

from typing import Any


def test_every_reason_is_covered(datapath: Any, covered: set[str]) -> None:
    assert set(datapath.names) - covered == {"NONE"}  # never counted
