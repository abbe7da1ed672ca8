# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selection of network namespaces of Pods."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._node import pod_netns
from ansible_collections.podnet.datapath.plugins.module_utils._node.pod_netns import Namespace

namespaces = st.lists(
    st.builds(
        Namespace,
        inode=st.tuples(st.just(4), st.integers(0, 99)),
        path=st.integers(0, 99).map(lambda n: f"/proc/{n}/ns/net"),
        name=st.text("abc", min_size=1, max_size=4),
        managed=st.booleans(),
        foreign=st.booleans(),
        loopback_only=st.booleans(),
    ),
    max_size=8,
    unique_by=(lambda one: one.name, lambda one: one.path),
)
names = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


@given(namespaces, st.sampled_from(["managed", "all"]), names)
def test_namespaces_are_selected_by_the_rules_only(
    there: list[Namespace], select: str, excepted: list[str]
) -> None:
    meant, left = pod_netns.choose(there, select, [], excepted)
    for one in there:
        rule = one.managed if select == "managed" else not (one.foreign or one.loopback_only)
        assert (one in meant) == (rule and one.name not in excepted)
        if select == "all":
            assert (one in meant) != (one.name in left)


@given(namespaces, names)
def test_named_namespaces_are_selected_or_reported(there: list[Namespace], asked: list[str]) -> None:
    absent = set(asked) - {one.name for one in there}
    if absent:
        with pytest.raises(Problem, match="does not exist"):
            pod_netns.choose(there, "named", asked, [])
        return
    meant, dummy = pod_netns.choose(there, "named", asked, [])
    assert {one.name for one in meant} == set(asked)
