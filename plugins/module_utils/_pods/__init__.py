# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network devices, addresses and routes of Pods.

Callers: modules
May import: _core, _kernel
"""

__all__ = ["apply", "change", "model"]
