# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sysctls of a node and of its Pods, at run time and at boot.

Callers: modules, plugin_utils, _agent, _ops
May import: _core, _kernel, _node, _rollback
"""

__all__ = ["apply", "info", "keys", "revert", "scope"]
