# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans for the node and its Pods."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Change
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import plan

paths = st.sampled_from(["net/ipv4/tcp_rmem", "net/core/optmem_max", "net/core/rmem_max", "vm/swappiness"])
sets = st.dictionaries(paths, st.sampled_from(["1", "2"]))


@given(sets, st.sets(paths), sets)
def test_global_keys_of_pods_must_have_the_value_of_the_node(
    requested: dict[str, str], namespaced: set[str], node: dict[str, str]
) -> None:
    written, problems = plan.split(requested, namespaced, node)
    invalid = {path for path in requested if path not in namespaced and node.get(path) != requested[path]}
    assert set(written) == set(requested) & namespaced
    assert len(problems) == len(invalid)
    assert all("is global in this kernel" in problem for problem in problems)


@pytest.mark.parametrize(
    ("name", "before", "after", "lasting"),
    [
        ("kernel.modules_disabled", "0", "1", True),
        ("kernel.yama.ptrace_scope", "1", "3", True),
        ("kernel.yama.ptrace_scope", "1", "2", False),
        ("kernel.kexec_load_limit_reboot", "-1", "4", True),
        ("kernel.tainted", "0", "64", True),
        ("kernel.sysrq", "1", "0", False),
    ],
)
def test_values_that_a_revert_cannot_undo(name: str, before: str, after: str, lasting: bool) -> None:
    found = plan._lasting_problems("sysctls", [Change(name, before, after)])
    assert bool(found) == lasting
    assert all("can only be undone by a reboot: remove it, or set acknowledge_risk" in one for one in found)
