# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The TCP window scale: what the kernel picks, and the buffers that make it pick another.

Private to this collection.
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
    """Return the scale that the kernel picks for a new connection, by tcp_select_initial_window().

    Both arguments in bytes. A socket that sets SO_RCVBUF itself may get a smaller one.
    """
    space = min(max(tcp_rmem_max, rmem_max), 65535 << MAX_SCALE)
    return min(max(space.bit_length() - 1 - 15, 0), MAX_SCALE)


def window_bounds(scale: int) -> tuple[int, int]:
    """Return the smallest and largest number of bytes that give ``scale``."""
    low = 1 << (15 + scale) if scale else 1
    high = (1 << (16 + scale)) - 1 if scale < MAX_SCALE else _INT_MAX
    return low, high


def _numbers(name: str, value: str, count: int) -> list[int]:
    """Return the numbers in a value; raises ``Problem`` where it is not ``count`` of them."""
    try:
        numbers = [int(word) for word in value.split()]
    except ValueError:
        numbers = []
    if len(numbers) != count or any(not 0 <= number <= _INT_MAX for number in numbers):
        raise Problem(f"sysctls: {name}: {value!r} is not {count} number(s) of bytes")
    return numbers


def solve_window(scale: int, desired: Mapping[str, str], current: Mapping[str, str]) -> dict[str, str]:
    """Return the further values with which the kernel picks ``scale``, for any current ones.

    What fits already is kept: a tcp_rmem within the scale's bounds, a larger tcp_wmem. The sender's
    buffer is made as large as the window that it may have to fill. Nothing is chosen for keys in
    ``desired``; net.core.rmem_max, which other programs rely on, is never chosen.

    ``current`` must hold both tcp_*mem; rmem_max counts as 0 where it is missing.
    Raises ``Problem`` where the scale cannot be had with what is asked for besides.
    """
    if not 0 <= scale <= MAX_SCALE:
        raise Problem(f"window_scale: {scale} is not between 0 and {MAX_SCALE}")
    low, high = window_bounds(scale)
    if desired.get(WINDOW_SCALING, "1") == "0":
        raise Problem(f"window_scale: {scale} needs {name_of(WINDOW_SCALING)} 1, but sysctls has 0")

    (rmem_max,) = _numbers(name_of(RMEM_MAX), desired.get(RMEM_MAX, current.get(RMEM_MAX, "0")), 1)
    if rmem_max > high:
        picked = window_scale(0, rmem_max)
        remedy = f"ask for window_scale {picked}, or set {name_of(RMEM_MAX)} in sysctls to {high} at most"
        raise Problem(
            f"window_scale: {name_of(RMEM_MAX)} is to be {rmem_max}, which gives {picked}: {remedy}"
            if RMEM_MAX in desired
            else f"window_scale: {name_of(RMEM_MAX)} is {rmem_max}, with which the kernel picks {picked},"
            f" whatever {name_of(TCP_RMEM)} is: {remedy} (other programs may rely on it)"
        )

    solved = {WINDOW_SCALING: "1"}
    if TCP_RMEM in desired:
        largest = _numbers(name_of(TCP_RMEM), desired[TCP_RMEM], 3)[2]
        picked = window_scale(largest, rmem_max)
        if picked != scale:
            raise Problem(
                f"window_scale: {name_of(TCP_RMEM)} {desired[TCP_RMEM]!r} in sysctls gives {picked}, not"
                f" {scale}: leave it out, or make its last number {low} to {high}"
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
