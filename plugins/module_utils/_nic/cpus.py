# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""CPU sets as lists (``0-3,8``) and as masks (``00000001,0000000f``).

Source: Documentation/core-api/irq/irq-affinity.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cpus:
    """The online CPUs, those local to a NIC, and the size of the global RFS flow table."""

    online: frozenset[int]
    local: frozenset[int]
    flows: int = 0


def parse_list(text: str) -> frozenset[int]:
    """Return the CPUs in ``0-3,8``; raises ``ValueError``."""
    found: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if not match:
            raise ValueError(text)
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if last < first:
            raise ValueError(text)
        found.update(range(first, last + 1))
    return frozenset(found)


def format_list(cpus: Iterable[int]) -> str:
    """Return CPUs as ``0-3,8``, empty for none."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][-1] == cpu - 1:
            parts[-1] = [parts[-1][0], cpu]
        else:
            parts.append([cpu])
    return ",".join("-".join(map(str, part)) for part in parts)


def parse_mask(text: str) -> frozenset[int]:
    """Return the CPUs in a mask of 32-bit words."""
    number = int(text.strip().replace(",", "") or "0", 16)
    return frozenset(cpu for cpu in range(number.bit_length()) if number >> cpu & 1)


def format_mask(cpus: Iterable[int]) -> str:
    """Return the mask of CPUs in the kernel's format."""
    number = sum(1 << cpu for cpu in cpus)
    words: list[str] = []
    while number or not words:
        words.append(f"{number & 0xFFFFFFFF:08x}")
        number >>= 32
    return ",".join(reversed(words))
