# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node agent, which attaches the Pods of container runtimes to the datapath on behalf of the CNI plugin.

Callers: modules, plugin_utils
May import: _cluster, _core, _datapath, _kernel, _ops, _pods, _programs, _rollback, _sysctl
"""

__all__ = ["install", "options"]
