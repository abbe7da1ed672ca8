# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts about a node: what its kernel, distribution and boot loader support, and what else manages it.

Callers: _boot, _cilium, _kmod, _nic, _sysctl, modules
May import: _core, _kernel
"""

__all__ = ["bpf_helpers", "coexistence", "drop_ins", "facts", "host", "pod_netns", "readiness"]
