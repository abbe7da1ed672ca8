# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Links that the modules for node tuning share."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation fragment C(podnet.datapath.tuning)."""

    DOCUMENTATION = r"""
options: {}
seealso:
  - name: Tuning a node
    description: The recommended values and their reasons.
    link: https://github.com/podnet/datapath/tree/main/docs/tuning.md
"""
