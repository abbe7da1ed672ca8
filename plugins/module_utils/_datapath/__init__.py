# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configure Pods, policies and services in the maps of the BPF datapath.

Callers: modules, plugin_utils, _agent, _cluster, _pods, _programs
May import: _core, _kernel, _rollback
"""

__all__ = [
    "apply",
    "arguments",
    "command",
    "host_ports",
    "info",
    "layout",
    "limits",
    "live",
    "maps",
    "model",
    "node",
    "parse",
    "stale_sockets",
    "store",
    "verify",
]
