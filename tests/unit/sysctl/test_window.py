# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The TCP window scale."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import order, window
from tests.unit.sysctl.sysctl_values import INT_MAX, RMEM, RMEM_MAX, WMEM, sizes, triples


def last(triple: str) -> int:
    return int(triple.split()[2])


def kernel_scale(tcp_rmem_max: int, rmem_max: int) -> int:
    """Compute clamp_t(int, ilog2(space) - 15, 0, TCP_MAX_WSCALE), as the kernel does."""
    space = max(tcp_rmem_max, rmem_max)
    ilog2 = -1
    while space:
        space >>= 1
        ilog2 += 1
    return max(0, min(14, ilog2 - 15))


@given(sizes, sizes)
def test_the_scale_is_that_of_the_kernel(tcp_rmem_max: int, rmem_max: int) -> None:
    assert window.window_scale(tcp_rmem_max, rmem_max) == kernel_scale(tcp_rmem_max, rmem_max)


@pytest.mark.parametrize(
    ("size", "scale"),
    [(6 << 20, 7), (16 << 20, 9), (32 << 20, 10), (64 << 20, 11), ((128 << 20) - 1, 11), (128 << 20, 12),
     (268435455, 12), (256 << 20, 13), (512 << 20, 14), (INT_MAX, 14), (65535, 0)],
)  # fmt: skip
def test_known_sizes(size: int, scale: int) -> None:
    assert window.window_scale(size, 1) == scale


@given(st.integers(0, 14), triples, triples, st.one_of(st.none(), sizes))
def test_every_scale_is_reached_or_refused(scale: int, rmem: str, wmem: str, rmem_max: int | None) -> None:
    low, high = window.window_bounds(scale)
    current = {RMEM: rmem, WMEM: wmem, window.WINDOW_SCALING: "0"}
    if rmem_max is not None:
        current[RMEM_MAX] = str(rmem_max)
    if (rmem_max or 0) > high:
        with pytest.raises(Problem, match=r"rmem_max.*request window_scale \d+"):
            window.solve_window(scale, {}, current)
        return
    solved = window.solve_window(scale, {}, current)
    after = {**current, **solved}
    assert kernel_scale(last(after[RMEM]), rmem_max or 0) == scale
    assert after[window.WINDOW_SCALING] == "1"
    assert sorted(map(int, after[RMEM].split())) == list(map(int, after[RMEM].split()))
    assert last(after[WMEM]) >= last(after[RMEM])
    assert last(after[WMEM]) >= last(wmem)  # Never lowered.
    if low <= last(rmem) <= high:
        assert after[RMEM] == rmem
    assert order.changes(after, window.solve_window(scale, {}, after)) == []


@given(st.integers(0, 14), triples, sizes)
def test_requested_values_are_kept_or_contradict(scale: int, rmem: str, rmem_max: int) -> None:
    current = {RMEM: "4096 131072 6291456", WMEM: "4096 16384 4194304", RMEM_MAX: "2147483647"}
    desired = {RMEM: rmem, RMEM_MAX: str(rmem_max)}
    if kernel_scale(last(rmem), rmem_max) == scale:
        assert not set(window.solve_window(scale, desired, current)) & set(desired)
    else:
        with pytest.raises(Problem, match=r"^window_scale: net\.(core\.rmem_max|ipv4\.tcp_rmem)"):
            window.solve_window(scale, desired, current)


def test_scale_12_needs_128_mib() -> None:
    current = {RMEM: "4096 131072 6291456", WMEM: "4096 16384 4194304", RMEM_MAX: "212992"}
    assert window.solve_window(12, {}, current) == {
        window.WINDOW_SCALING: "1",
        RMEM: "4096 131072 134217728",
        WMEM: "4096 16384 134217728",
    }


@pytest.mark.parametrize(
    ("scale", "desired", "words"),
    [
        (15, {}, "window_scale: 15 is not between 0 and 14"),
        (-1, {}, "window_scale: -1 is not between 0 and 14"),
        (12, {window.WINDOW_SCALING: "0"}, "requires net.ipv4.tcp_window_scaling = 1"),
        (12, {RMEM: "a b c"}, "net.ipv4.tcp_rmem: 'a b c' is not 3 number"),
        (12, {RMEM: "4096 1 6291456"}, "gives 7, not 12: remove it, or set its last number to 134217728"),
        (12, {RMEM_MAX: "268435456"}, "gives 13: request window_scale 13, or set net.core.rmem_max"),
    ],
)
def test_contradictions_name_the_remedy(scale: int, desired: dict[str, str], words: str) -> None:
    current = {RMEM: "4096 131072 6291456", WMEM: "4096 16384 4194304", RMEM_MAX: "212992"}
    with pytest.raises(Problem) as raised:
        window.solve_window(scale, desired, current)
    assert words in str(raised.value)
