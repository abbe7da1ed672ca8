# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sysctls of a node and of its Pods, at run time and at boot.

Callers: modules, _ops
May import: _core, _kernel, _node, _rollback
"""

__all__ = ["apply", "info", "revert"]
