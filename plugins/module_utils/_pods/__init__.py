# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods: devices with addresses and routes, and the order in which programs and map entries follow.

Callers: modules
May import: _core, _datapath, _kernel, _programs, _rollback
"""

__all__ = ["api", "apply", "arguments", "change", "drivers"]
