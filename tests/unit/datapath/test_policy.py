# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rulesets of allowed and denied ports."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import Ports
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.policy import (
    build_ruleset,
    merge_ranges,
)

ranges = st.lists(
    st.builds(
        lambda protocol, a, b: Ports(protocol, min(a, b), max(a, b)),
        st.sampled_from([6, 17]),
        st.integers(0, 20),
        st.integers(0, 20),
    )
)


@given(ranges, ranges, st.booleans())
def test_ruleset_has_the_verdict_of_each_port(
    allowed: list[Ports], denied: list[Ports], default: bool
) -> None:
    ruleset = build_ruleset(allowed, denied, default)

    def inside(some: list[Ports], protocol: int, port: int) -> bool:
        return any(one.protocol == protocol and one.first <= port <= one.last for one in some)

    for protocol in (6, 17, 1):
        for port in range(22):
            expected = (default or inside(allowed, protocol, port)) and not inside(denied, protocol, port)
            assert ruleset.allows(protocol, port) == expected
    assert list(ruleset.ranges) == merge_ranges(ruleset.ranges)
    assert layout.decode_ruleset(layout.encode_ruleset(ruleset)) == ruleset
