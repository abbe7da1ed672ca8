# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An out-of-tree kernel module: built by DKMS or on one node for all, signed, installed and loaded.

Callers: filter, modules
May import: _core, _kernel, _node
"""

__all__ = ["delivery", "dkms", "dkms_plan", "loading", "module"]
