# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts about a node: what its kernel, distribution and boot loader support, and what else manages it.

Callers: _boot, _kmod, _nic, _sysctl, modules
May import: _core, _kernel
"""

__all__ = ["coexistence", "drop_ins", "facts", "pod_netns", "readiness"]
