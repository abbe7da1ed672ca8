# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the BPF helpers that the programs call and the kernel lacks."""

from __future__ import annotations

from .._kernel import bpf


def missing() -> list[str]:
    """Return the helpers that the kernel lacks; none if this process may not load programs."""
    try:
        return [name for name, number in bpf.HELPERS.items() if not bpf.has_helper(number)]
    except (OSError, bpf.BpfError):
        return []
