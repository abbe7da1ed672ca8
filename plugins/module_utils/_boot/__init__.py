# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kernel arguments in the configuration of the boot loader.

Callers: modules, plugin_utils, _ops
May import: _core, _node, _rollback
"""

__all__ = ["apply", "arguments", "loaders", "revert"]
