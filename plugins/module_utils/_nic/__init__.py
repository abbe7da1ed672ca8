# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings of NICs, at run time and at boot.

Callers: modules, plugin_utils, _ops
May import: _core, _kernel, _node, _rollback
"""

__all__ = ["apply", "info", "revert", "select"]
