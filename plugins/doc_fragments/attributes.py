# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes that the modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation fragments C(podnet.datapath.attributes) and C(podnet.datapath.attributes.info)."""

    # Modules that change the node.
    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and returns the planned changes without making them.
    support: full
  diff_mode:
    description: Returns the differences in diff mode.
    support: full
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""

    # Modules that only read.
    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode. This module never changes the node.
    support: full
  diff_mode:
    description: Returns the differences in diff mode. There are none, as this module only reads.
    support: none
  idempotent:
    description: A second run with the same options changes nothing.
    support: full
"""
