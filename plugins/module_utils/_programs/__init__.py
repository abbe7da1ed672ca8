# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""BPF programs: loaded, pinned, attached and replaced.

Callers: modules, _ops, _pods
May import: _core, _datapath, _kernel, _rollback
"""

__all__ = ["attach", "hooks", "new_device", "resolve", "revert"]
