# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the changes of single Pods in place.

Both buffers have the same content, except services, and stay equal. Verdicts of
a new identity are written before the first endpoint that has it, and deleted after the last one, so that no
packet sees a part of a policy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from .._core.plan import Problem
from .._kernel import bpf
from .image import Image, ImageChanges, PolicyKey
from .layout import ENDPOINT, INDEX, POD, POLICY_KEY
from .maps import Maps, wait_for_programs
from .snapshot import Snapshot
from .write_pods import since


class LiveWriter:
    """Writes changes of an image to the maps that have this image in their active buffer."""

    def __init__(self, maps: Maps, snapshot: Snapshot, image: Image) -> None:
        """``snapshot`` has the maps as they were read last."""
        self._maps, self._image = maps, image
        self._size = snapshot.sizes["rulesets"]
        indexes = {INDEX.unpack(index)[0] for index in snapshot.hashes["policy"].values()}
        self._rulesets = {snapshot.element("rulesets", index): index for index in indexes}
        self._deleted = False  # and programs may still use what was deleted

    def write(self, changes: ImageChanges, commit: bool, reset_slots: Sequence[int] = ()) -> None:
        """Write changes that the image has already; ``commit`` a generation if they are of this node's Pods.

        Without one, connections apply the policy of another identity at once, and the flow cache within its
        timeout. Raises ``Problem`` if a map is full, or ``OSError``.
        """
        self._write_policy({key: value for key, value in changes.policy.items() if value is not None})
        self._maps.reset(reset_slots)
        self._write_pods(changes, self._maps.next_in_place())
        if commit:
            self._maps.commit(self._maps.next_in_place(), self._maps.config()[1])
        removed = self._keys(key for key, value in changes.policy.items() if value is None)
        if removed:
            # A program may have read the identity before.
            wait_for_programs()
            self._delete("policy", removed)
            self._deleted = True

    @staticmethod
    def _keys(keys: Iterable[PolicyKey]) -> list[bytes]:
        """Return the keys of both buffers, one after the other."""
        return [
            POLICY_KEY.pack(subject, peer, buffer, direction)
            for subject, peer, direction in keys
            for buffer in (0, 1)
        ]

    def _write_policy(self, verdicts: Mapping[PolicyKey, bytes]) -> None:
        if not verdicts:
            return
        if self._deleted:
            # The kernel uses the memory of deleted entries again.
            wait_for_programs()
            self._deleted = False
        new = {value for value in verdicts.values() if value not in self._rulesets}
        if new:
            used = set(self._image.policy.values())
            self._rulesets = {value: index for value, index in self._rulesets.items() if value in used}
            free = sorted({*range(self._size)} - {*self._rulesets.values()})
            if len(free) < len(new):
                raise Problem(f"policies: the map rulesets of {self._size} entries is full")
            added = dict(zip(sorted(new), free))
            bpf.map_update(
                self._maps.fds["rulesets"], {INDEX.pack(index): value for value, index in added.items()}
            )
            self._rulesets |= added
        indexes = (INDEX.pack(self._rulesets[value]) for value in verdicts.values() for _buffer in (0, 1))
        self._update("policy", dict(zip(self._keys(verdicts), indexes)))

    def _write_pods(self, changes: ImageChanges, generation: int) -> None:
        updates: dict[str, dict[bytes, bytes]] = {"endpoints4": {}, "endpoints6": {}, "pods": {}}
        removed: dict[str, list[bytes]] = {name: [] for name in updates}
        for key, e in changes.endpoints.items():
            name = "endpoints4" if len(key) == 4 else "endpoints6"
            if e is None:
                removed[name].append(key)
                continue
            former = None
            if e.ifindex:
                with contextlib.suppress(FileNotFoundError):
                    former = bpf.map_lookup(self._maps.fds[name], key, ENDPOINT.size)
            updates[name][key] = ENDPOINT.pack(
                *(e.ifindex, e.owner, e.identity, e.identity, e.enforce, e.enforce, e.slot, e.flags),
                since(former, e, generation),
            )
        for ifindex, d in changes.pods.items():
            if d is None:
                removed["pods"].append(INDEX.pack(ifindex))
                continue
            updates["pods"][INDEX.pack(ifindex)] = POD.pack(
                *(d.owner, d.slot, d.flags, d.identity, d.identity, d.enforce, d.enforce),
                *(d.mac, d.netns, d.rate),
            )
        for name, entries in updates.items():
            self._update(name, entries)
        for name, keys in removed.items():
            self._delete(name, keys)

    def _update(self, name: str, entries: Mapping[bytes, bytes]) -> None:
        try:
            bpf.map_update(self._maps.fds[name], entries)
        except OSError as error:
            raise Problem(f"the map {name} cannot be written: {error.strerror}") from error

    def _delete(self, name: str, keys: Sequence[bytes]) -> None:
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                bpf.map_delete(self._maps.fds[name], [key])
