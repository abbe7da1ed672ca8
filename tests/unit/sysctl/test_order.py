# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes of sysctls and the order of the writes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Change
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import effects, keys, order
from tests.unit.sysctl.sysctl_values import RMEM, paths, values


@given(st.dictionaries(paths, st.tuples(values, values)))
def test_changes_lead_to_the_desired_values_and_back(states: dict[str, tuple[str, str]]) -> None:
    former = {path: before for path, (before, dummy) in states.items()}
    desired = {path: after for path, (dummy, after) in states.items()}
    kernel = dict(former)
    for change in order.changes(kernel, desired):
        path = keys.path_of(change.name)
        assert kernel[path] == change.before
        kernel[path] = str(change.after)
    assert kernel == desired
    assert order.changes(kernel, desired) == []
    for change in order.changes(kernel, former):
        kernel[keys.path_of(change.name)] = str(change.after)
    assert kernel == former


def test_whitespace_is_ignored() -> None:
    assert order.changes({RMEM: "4096\t131072\t6291456"}, {RMEM: "4096 131072 6291456"}) == []


def test_keys_for_all_interfaces_come_before_those_of_one() -> None:
    names = ["conf/aa0/forwarding", "conf/all/forwarding", "conf/default/forwarding", "ip_forward"]
    found = sorted((f"net/ipv4/{name}" for name in names), key=order.order)
    assert [path[9:] for path in found] == [
        "ip_forward", "conf/all/forwarding", "conf/default/forwarding", "conf/aa0/forwarding",
    ]  # fmt: skip


def test_desired_values_that_the_kernel_would_change_are_written_again() -> None:
    aa0 = "net/ipv4/conf/aa0/forwarding"
    desired = {aa0: "0", effects.IP_FORWARD: "1", "net/ipv4/tcp_sack": "1"}
    changes = [Change("net.ipv4.ip_forward", "0", "1")]
    assert order.writes(changes, desired) == [effects.IP_FORWARD, aa0]
