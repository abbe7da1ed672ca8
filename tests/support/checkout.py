# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths in this checkout that several test folders use."""

from __future__ import annotations

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
DRIVER = CHECKOUT / "roles/meta_driver/files"
PROGRAMS = CHECKOUT / "roles/bpf_datapath/files"
LAB = CHECKOUT / "roles/lab_node/files/lab.py"
SUPPORT = CHECKOUT / "tests/support"
