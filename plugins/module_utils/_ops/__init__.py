# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Operations that span subsystems: confirm a checkpoint, revert a node, drain a Kubernetes node.

Callers: _agent, _cilium, modules
May import: _boot, _core, _measure, _nic, _programs, _rollback, _sysctl
"""

__all__ = ["arguments", "confirm", "drain", "kubernetes", "pods", "revert_node", "watch"]
