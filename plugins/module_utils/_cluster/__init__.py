# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of the Kubernetes API as Pods, policies and services of the datapath. Pure.

Callers: _agent
May import: _datapath
"""

__all__ = ["objects", "policies", "services", "state"]
