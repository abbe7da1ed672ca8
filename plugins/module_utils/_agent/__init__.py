# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The node agent, which attaches the Pods of container runtimes to the datapath on behalf of the CNI plugin.

Callers: nothing
May import: _core, _kernel, _ops, _pods
"""

__all__: list[str] = []
