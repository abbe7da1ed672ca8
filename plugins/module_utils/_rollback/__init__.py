# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Journal of every change, and its rollback by a timer, at boot or on request.

Callers: modules, _agent, _boot, _datapath, _nic, _ops, _pods, _programs, _sysctl
May import: _core
"""

__all__ = ["arm", "checkpoint", "journal", "net_changes", "revert"]
