# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""BPF programs: loaded, pinned, attached and replaced.

Callers: modules, _agent, _ops, _pods
May import: _core, _datapath, _kernel, _rollback
"""

__all__ = ["attach", "boot", "hooks", "new_device", "pins", "resolve", "revert", "sockets"]
