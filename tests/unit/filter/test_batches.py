# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The batches of a rollout contain each host once, in order, and are never larger than the cap."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.filter.batches import batches

SIZES = st.lists(
    st.one_of(st.integers(1, 50), st.integers(1, 100).map(lambda n: f"{n}%")), min_size=1, max_size=4
)


@given(
    st.lists(st.integers(), unique=True, max_size=200).map(lambda n: [f"n{x}" for x in n]),
    SIZES,
    st.integers(0, 30),
)
def test_each_host_is_in_one_batch_below_the_cap(hosts: list[str], sizes: list[object], cap: int) -> None:
    found = batches(hosts, sizes, cap)
    assert [host for batch in found for host in batch] == hosts
    assert all(batch for batch in found)
    assert not cap or all(len(batch) <= cap for batch in found)


def test_the_default_is_a_canary_then_ten_percent_then_the_remaining_hosts() -> None:
    hosts = [f"n{n}" for n in range(1000)]
    assert [len(batch) for batch in batches(hosts, [1, "10%", "100%"])] == [1, 100, 899]
    assert [len(batch) for batch in batches(hosts[:2], [1, "10%", "100%"])] == [1, 1]
    assert {len(batch) for batch in batches(hosts, [1, "10%", "100%"], 20)[1:-1]} == {20}


@pytest.mark.parametrize("sizes", [[], "", [0], ["0%"], ["ten"], [-1], [1.5], [True]])
def test_an_invalid_size_is_refused(sizes: list[object]) -> None:
    with pytest.raises(AnsibleFilterError, match="fleet_batches"):
        batches(["a", "b"], sizes)


def test_sizes_can_be_text_from_a_survey() -> None:
    assert (
        batches(["a", "b", "c"], '[1, "100%"]') == batches(["a", "b", "c"], "1,100%") == [["a"], ["b", "c"]]
    )
