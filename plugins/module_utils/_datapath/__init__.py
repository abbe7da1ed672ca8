# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pods, policies and services in the maps of the BPF datapath.

Callers: modules, _pods, _programs
May import: _core, _kernel, _rollback
"""

__all__ = ["apply", "arguments", "command", "info", "layout", "maps", "store", "verify"]
