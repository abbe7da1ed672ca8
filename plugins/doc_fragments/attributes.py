# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes that several modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """C(podnet.datapath.attributes.info): of a module that only reads."""

    INFO = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and returns what it would return without it.
    support: full
  diff_mode:
    description: Changes nothing, so there is nothing to show.
    support: none
  idempotent:
    description: Running it twice changes nothing.
    support: full
"""
