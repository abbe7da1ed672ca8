# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compute the TCP window scale that the kernel chooses, and buffer sizes that result in a given one.

Source: tcp_select_initial_window() of net/ipv4/tcp_output.c.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._core.plan import Problem
from .keys import name_of

TCP_RMEM, TCP_WMEM = "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"
RMEM_MAX = "net/core/rmem_max"
WINDOW_SCALING = "net/ipv4/tcp_window_scaling"

MAX_SCALE = 14  # RFC 7323, TCP_MAX_WSCALE
_INT_MAX = 2**31 - 1


def window_scale(tcp_rmem_max: int, rmem_max: int) -> int:
    """Return the scale of a new connection, as tcp_select_initial_window() computes it.

    Both arguments are in bytes. A socket that sets SO_RCVBUF may get a smaller scale.
    """
    space = min(max(tcp_rmem_max, rmem_max), 65535 << MAX_SCALE)
    return min(max(space.bit_length() - 1 - 15, 0), MAX_SCALE)


def window_bounds(scale: int) -> tuple[int, int]:
    """Return the smallest and largest buffer size in bytes that result in ``scale``."""
    low = 1 << (15 + scale) if scale else 1
    high = (1 << (16 + scale)) - 1 if scale < MAX_SCALE else _INT_MAX
    return low, high


def _numbers(name: str, value: str, count: int) -> list[int]:
    """Return the numbers in a value; raises ``Problem`` if there are not exactly ``count``."""
    try:
        numbers = [int(word) for word in value.split()]
    except ValueError:
        numbers = []
    if len(numbers) != count or any(not 0 <= number <= _INT_MAX for number in numbers):
        raise Problem(f"sysctls: {name}: {value!r} is not {count} number(s) of bytes")
    return numbers


def solve_window(scale: int, desired: Mapping[str, str], current: Mapping[str, str]) -> dict[str, str]:
    """Return the values that result in ``scale``, in addition to ``desired``.

    Suitable current values are kept: a tcp_rmem within the scale's bounds, a larger tcp_wmem. The send
    buffer becomes at least as large as the window. Keys in ``desired`` and net.core.rmem_max, which other
    programs rely on, are never changed.

    ``current`` must have both tcp_*mem; a missing rmem_max counts as 0. Raises ``Problem`` if ``desired`` or
    rmem_max exclude the scale.
    """
    if not 0 <= scale <= MAX_SCALE:
        raise Problem(f"window_scale: {scale} is not between 0 and {MAX_SCALE}")
    low, high = window_bounds(scale)
    if desired.get(WINDOW_SCALING, "1") == "0":
        raise Problem(
            f"window_scale: {scale} requires {name_of(WINDOW_SCALING)} = 1, but sysctls sets it to 0"
        )

    (rmem_max,) = _numbers(name_of(RMEM_MAX), desired.get(RMEM_MAX, current.get(RMEM_MAX, "0")), 1)
    if rmem_max > high:
        actual = window_scale(0, rmem_max)
        remedy = f"request window_scale {actual}, or set {name_of(RMEM_MAX)} in sysctls to at most {high}"
        raise Problem(
            f"window_scale: {name_of(RMEM_MAX)} = {rmem_max} in sysctls gives {actual}: {remedy}"
            if RMEM_MAX in desired
            else f"window_scale: {name_of(RMEM_MAX)} is {rmem_max}, so the kernel uses {actual} with"
            f" any {name_of(TCP_RMEM)}: {remedy} (other programs may rely on it)"
        )

    solved = {WINDOW_SCALING: "1"}
    if TCP_RMEM in desired:
        largest = _numbers(name_of(TCP_RMEM), desired[TCP_RMEM], 3)[2]
        actual = window_scale(largest, rmem_max)
        if actual != scale:
            raise Problem(
                f"window_scale: {name_of(TCP_RMEM)} {desired[TCP_RMEM]!r} in sysctls gives {actual}, not"
                f" {scale}: remove it, or set its last number to {low} to {high}"
            )
    else:
        minimum, default, largest = _numbers(name_of(TCP_RMEM), current[TCP_RMEM], 3)
        if not low <= largest <= high:
            largest = low if scale else high
        solved[TCP_RMEM] = f"{min(minimum, largest)} {min(default, largest)} {largest}"
    if TCP_WMEM not in desired:
        minimum, default, most = _numbers(name_of(TCP_WMEM), current[TCP_WMEM], 3)
        solved[TCP_WMEM] = f"{minimum} {default} {max(most, largest)}"
    return {path: value for path, value in solved.items() if path not in desired}
