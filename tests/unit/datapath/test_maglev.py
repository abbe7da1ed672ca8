# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shares of backends in Maglev tables, and changes of the tables."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.maglev import maglev_table

weights = st.dictionaries(
    st.integers(1, 60).map(lambda n: f"10.0.0.{n}"), st.integers(1, 5), min_size=2, max_size=12
)


@given(weights)
def test_backends_share_the_table_by_weight(weight_of: dict[str, int]) -> None:
    table = maglev_table(weight_of, 251)
    total = sum(weight_of.values())
    for name, weight in weight_of.items():
        assert (
            abs(table.count(name) - 251 * weight / total)
            <= max(weight_of.values()) / min(weight_of.values()) + 1
        )


@given(st.integers(2, 30))
def test_removed_backend_moves_few_flows_of_others(count: int) -> None:
    before = maglev_table({f"10.0.0.{n}": 1 for n in range(count)}, 251)
    after = maglev_table({f"10.0.0.{n}": 1 for n in range(1, count)}, 251)
    own = before.count("10.0.0.0")
    moved = sum(a != b for a, b in zip(before, after))
    assert own <= moved <= own + 0.25 * 251  # the limit is that of the paper's figure
    assert "10.0.0.0" not in after
