# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Allocate elements of arrays that both buffers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class SlotAllocator:
    """Allocates elements of an array; elements that the active buffer uses are never written.

    ``used`` are the indexes that the active buffer uses, ``known`` the indexes of contents that can be
    shared.
    """

    def __init__(self, size: int, used: Iterable[int], known: Mapping[bytes, int]) -> None:
        self.size = size
        self.new: dict[int, bytes] = {}  # contents to write, by index
        self._known = dict(known)
        self._used = {*used, *known.values()}
        self._next = 0

    def index_of(self, content: bytes) -> int:
        """Return the index of an element with this content; beyond the end if the array is full."""
        if content not in self._known:
            while self._next in self._used:
                self._next += 1
            self._used.add(self._next)
            self._known[content] = self._next
            self.new[self._next] = content
        return self._known[content]

    @property
    def overflow(self) -> bool:
        """Whether more elements were allocated than the array has."""
        return any(index >= self.size for index in self.new)
