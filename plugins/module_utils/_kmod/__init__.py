# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""An out-of-tree kernel module: built by DKMS or on one node for all, signed, installed and loaded.

Callers: filter, modules
May import: _core, _kernel, _node
"""

__all__ = ["delivery", "dkms", "dkms_plan", "loading", "module"]
