# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cilium on a node: what its agent reports, which settings the node supports, and their change node by node.

Callers: modules, plugin_utils
May import: _core, _kernel, _measure, _node, _ops
"""

__all__ = ["agent", "apply", "arguments", "devices", "model", "probe_pods", "values", "verify"]
