# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods: devices with addresses and routes, and the order in which programs and map entries follow.

Callers: _agent, modules, plugin_utils
May import: _core, _datapath, _kernel, _programs, _rollback
"""

__all__ = ["api", "apply", "arguments", "drivers", "model", "parse", "single"]
