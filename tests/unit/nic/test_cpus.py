# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU lists and masks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._nic import cpus as _cpus

cpu_sets = st.frozensets(st.integers(0, 130))


@given(cpu_sets)
def test_lists_and_masks_are_parsed_as_they_were_formatted(cpus: frozenset[int]) -> None:
    assert _cpus.parse_list(_cpus.format_list(cpus)) == cpus
    assert _cpus.parse_mask(_cpus.format_mask(cpus)) == cpus
