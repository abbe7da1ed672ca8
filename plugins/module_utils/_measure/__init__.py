# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measurements: probes between Pods, netperf, and the environment of a measurement.

Callers: _cilium, modules, plugin_utils, _ops
May import: _core, _kernel
"""

__all__ = ["environment", "netperf", "probe"]
