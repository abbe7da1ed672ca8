# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Strategies for names and values of sysctls."""

from __future__ import annotations

from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import window

RMEM, WMEM, RMEM_MAX = window.TCP_RMEM, window.TCP_WMEM, window.RMEM_MAX
INT_MAX = 2**31 - 1

part = st.text("abcxyz019_-.", min_size=1, max_size=8).filter(lambda s: s not in (".", ".."))
paths = st.tuples(st.sampled_from(["net", "kernel", "vm"]), part, part).map("/".join)
values = st.one_of(st.integers(0, INT_MAX).map(str), st.sampled_from(["", "cubic", "1 0", "4096 1 2"]))
sizes = st.integers(1, INT_MAX)
triples = st.lists(sizes, min_size=3, max_size=3).map(lambda n: " ".join(map(str, sorted(n))))
