# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the changes of single Pods in place, and those of policies as one generation.

Both buffers have the same content, except services, and stay equal. Verdicts of a new identity are written
before the first endpoint that has it, and deleted after the last one, so that no packet sees a part of a
policy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from .._core.plan import Problem
from .._kernel import bpf
from .image import Device, Endpoint, Image, ImageChanges
from .layout import ENDPOINT, INDEX, NODE, POD, POLICY_KEY, Record, buffer_offset
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
        self._write_verdicts(changes, (0, 1))
        self._maps.reset(reset_slots)
        self._write_pods(changes, self._maps.next_in_place())
        if commit:
            self._maps.commit(self._maps.next_in_place(), self._maps.config()[1])
        if None in changes.policy.values():
            # A program may have read the identity before.
            wait_for_programs()
            self._delete_verdicts(changes, (0, 1))
            self._forget_rulesets()

    def write_generation(self, changes: ImageChanges) -> None:
        """Commit changes of verdicts and identities, which the image has already, as the next generation.

        Then the former buffer gets them as well. Raises ``Problem`` if a map is full, or ``OSError``.
        """
        generation, features = self._maps.config()
        active, inactive = generation & 1, 1 - (generation & 1)
        # A program that started in the generation before may still read the inactive buffer.
        wait_for_programs()
        self._copy_services(active, inactive)
        self._write_buffer(changes, inactive)
        self._maps.commit(generation + 1 & 0xFFFFFFFF, features)
        wait_for_programs()
        self._write_buffer(changes, active)
        self._forget_rulesets()

    def _write_buffer(self, changes: ImageChanges, buffer: int) -> None:
        self._write_verdicts(changes, (buffer,))
        self._delete_verdicts(changes, (buffer,))
        entries: dict[str, dict[bytes, bytes]] = {"endpoints4": {}, "endpoints6": {}, "pods": {}}
        found: list[tuple[str, bytes, Record, int, Endpoint | Device | None]] = [
            ("endpoints4" if len(key) == 4 else "endpoints6", key, ENDPOINT, 2, e)
            for key, e in changes.endpoints.items()
        ]
        found += [("pods", INDEX.pack(ifindex), POD, 3, d) for ifindex, d in changes.pods.items()]
        for name, key, record, first, one in found:
            if one is None:
                raise AssertionError("policies remove no Pods")
            values = list(record.unpack(bpf.map_lookup(self._maps.fds[name], key, record.size)))
            values[first + buffer], values[first + 2 + buffer] = one.identity, one.enforce
            entries[name][key] = record.pack(*values)
        for name, some in entries.items():
            self._update(name, some)

    def _copy_services(self, active: int, inactive: int) -> None:
        """Give the inactive buffer the services of the active one."""
        at = buffer_offset("services")
        current = bpf.map_read(self._maps.fds["services"])
        desired = {
            key[:at] + bytes([inactive]) + key[at + 1 :]: value
            for key, value in current.items()
            if key[at] == active
        }
        self._delete("services", [key for key in current if key[at] == inactive and key not in desired])
        self._update("services", {key: one for key, one in desired.items() if current.get(key) != one})
        node = bpf.map_lookup(self._maps.fds["node"], INDEX.pack(active), NODE.size)
        self._update("node", {INDEX.pack(inactive): node})

    def _forget_rulesets(self) -> None:
        """Let others have the elements of rulesets that the image does not have any more."""
        self._deleted = True
        used = set(self._image.policy.values())
        self._rulesets = {value: index for value, index in self._rulesets.items() if value in used}

    def _write_verdicts(self, changes: ImageChanges, buffers: Sequence[int]) -> None:
        verdicts = {key: value for key, value in changes.policy.items() if value is not None}
        if not verdicts:
            return
        if self._deleted:
            # The kernel uses the memory of deleted entries again.
            wait_for_programs()
            self._deleted = False
        new = {value for value in verdicts.values() if value not in self._rulesets}
        if new:
            free = sorted({*range(self._size)} - {*self._rulesets.values()})
            if len(free) < len(new):
                raise Problem(f"policies: the map rulesets of {self._size} entries is full")
            added = dict(zip(sorted(new), free))
            bpf.map_update(
                self._maps.fds["rulesets"], {INDEX.pack(index): value for value, index in added.items()}
            )
            self._rulesets |= added
        self._update(
            "policy",
            {
                POLICY_KEY.pack(subject, peer, buffer, direction): INDEX.pack(self._rulesets[value])
                for (subject, peer, direction), value in verdicts.items()
                for buffer in buffers
            },
        )

    def _delete_verdicts(self, changes: ImageChanges, buffers: Sequence[int]) -> None:
        removed = (key for key, value in changes.policy.items() if value is None)
        self._delete(
            "policy",
            [
                POLICY_KEY.pack(subject, peer, buffer, direction)
                for subject, peer, direction in removed
                for buffer in buffers
            ],
        )

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
