# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Add and remove single Pods of one owner without computing the maps from all declarations again.

``apply.configure`` reads all maps and fills the inactive buffer. A Pod that no policy and no service selects
changes only its own entries, so they are written in place, and a new generation invalidates cached decisions.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._core.plan import Problem
from .._kernel import bpf
from .apply import configure
from .cluster import Cluster, ClusterChanges, by_name, changes_between
from .compile import compile_image
from .image import Image
from .layout import ENDPOINT, FEATURE_MASQUERADE, INDEX, POD
from .maps import Maps, require_confirmed
from .merge import merge_records
from .model import Address, Declaration, Pod, Policy, Service
from .node import Interface, Node, read_interfaces, read_uplinks
from .pacing import rate_problems
from .parse import parse
from .plan import Desired
from .store import Record, Store, all_slots, assign_slots, stored

Endpoint = Mapping[str, Any]  # as bpf_state declares it: name, device, addresses, ...


class LiveEntries:
    """The map entries of one owner's Pods; keeps the maps open and what it has read between calls.

    Other processes may change the declarations and replace the maps, so each call first compares a token.
    """

    def __init__(self, pin_path: str, owner: str, shared: Mapping[str, Any] | None = None) -> None:
        """``shared`` are the owner's other options of ``bpf_state``, such as node and masquerade."""
        self._pin_path, self._owner = pin_path, owner
        self._shared = stored(shared or {})
        self._store = Store(pin_path)
        self._files = contextlib.ExitStack()
        self._token: tuple[object, ...] = ()

    def close(self) -> None:
        """Close the maps."""
        self._files.close()
        self._token = ()

    def endpoints(self) -> list[dict[str, Any]]:
        """Return the owner's declared endpoints; without maps, none has an effect."""
        if not self._has_maps():
            return []
        record = self._store.read().get(self._owner, Record())
        return list(record.options.get("endpoints") or ())

    def add(self, endpoints: Sequence[Endpoint], interfaces: Mapping[str, Interface]) -> None:
        """Add endpoints, or replace those of the same name; ``interfaces`` has their new devices by name.

        Raises ``Problem``; then nothing has changed.
        """
        names = {endpoint["name"] for endpoint in endpoints}
        with self._store.locked():
            require_confirmed(self._pin_path)
            self._refresh()
            kept = [one for one in self._record.options.get("endpoints") or () if one["name"] not in names]
            options = {**self._shared, "endpoints": [*kept, *map(stored, endpoints)]}
            new = len(kept) == len(self._record.options.get("endpoints") or ())
            if new and self._is_independent(endpoints):
                self._add(endpoints, interfaces, options)
                return
        self._configure(options)

    def remove(self, names: Collection[str]) -> None:
        """Remove the endpoints of these names, which need not be declared. Raises ``Problem``."""
        if not self._has_maps():  # Loading the programs removes the declarations of former maps.
            return
        with self._store.locked():
            self._refresh()
            current = self._record.options.get("endpoints") or ()
            removed = [one for one in current if one["name"] in names]
            if not removed:
                return
            require_confirmed(self._pin_path)
            remaining = [one for one in current if one not in removed]
            options = {**self._shared, "endpoints": remaining} if remaining else {}
            if self._is_independent(removed):
                self._remove(removed, options)
                return
        self._configure(options)

    def set_cluster(
        self, pods: Mapping[str, Pod], policies: Sequence[Policy], services: Sequence[Service]
    ) -> list[str]:
        """Replace all that the API of the cluster declares, in one generation.

        Return problems of objects that cannot be enforced: what they concern is denied. Raises ``Problem``;
        then the former state is enforced.
        """
        cluster = Cluster({**pods}, by_name(policies), by_name(services))
        with self._store.locked():
            current = self._store.cluster.read()
            if current is None:
                self._store.cluster.replace(cluster)
            else:
                changes = changes_between(current, cluster)
                if changes:
                    changes.apply(current)
                    self._store.cluster.append(changes, current)
        return self.complete()

    def update_pods(self, changes: Mapping[str, Pod | None]) -> None:
        """Change single Pods of the API; None stands for one that the API deleted. Raises ``Problem``."""
        with self._store.locked():
            cluster = self._store.cluster.read()
            if cluster is None:
                raise Problem("update_pods requires the complete lists of the API first")
            differing = {name: pod for name, pod in changes.items() if cluster.pods.get(name) != pod}
            if not differing:
                return
            changed = ClusterChanges(differing)
            changed.apply(cluster)
            self._store.cluster.append(changed, cluster)
        self.complete()

    def complete(self) -> list[str]:
        """Complete the entries if a process was killed while it wrote them, and apply new shared options.

        Return problems of objects of the API. Raises ``Problem``.
        """
        endpoints = self.endpoints()
        return self._configure({**self._shared, "endpoints": endpoints} if endpoints else {})

    # Reading

    def _has_maps(self) -> bool:
        return os.path.exists(os.path.join(self._pin_path, "maps", "config"))

    def _read_token(self) -> tuple[object, ...]:
        """Return what changes if another process changes the declarations or the maps."""
        with bpf.closing(bpf.obj_get(os.path.join(self._pin_path, "maps", "config"))) as config:
            number = bpf.map_info(config).id
            state = bpf.map_lookup(config, bytes(4), 8)
        files = sorted(
            (entry.name, entry.inode(), entry.stat().st_mtime_ns)
            for entry in os.scandir(self._store.folder)
            if entry.name.endswith(".json")
        )
        return number, state, *files, *self._store.cluster.token()

    def _refresh(self) -> None:
        """Read maps and declarations again if they have changed. Raises ``Problem``."""
        try:
            token = self._read_token()
        except OSError:
            token = ()
        if token and token == self._token:
            return
        self._files.close()
        self._maps = Maps.pinned(self._pin_path, self._files)
        self._records = self._store.read()
        self._record = self._records.get(self._owner, Record())
        self._cluster = self._store.cluster.read()
        self._declaration = merge_records(self._records, self._cluster)
        self._pods = {address: pod for pod in self._declaration.pods for address in pod.addresses}
        self._services = {service.address: service.name for service in self._declaration.services}
        self._token = self._read_token()

    def _is_independent(self, endpoints: Sequence[Endpoint]) -> bool:
        """Return whether these endpoints change nothing but their own entries.

        The first and the last Pod of the node change ``node``, the first masqueraded one the features.
        """
        names = {endpoint["name"] for endpoint in endpoints}
        remaining = (p for p in self._declaration.pods if p.owner != self._owner or p.name not in names)
        masquerades = any(endpoint.get("masquerade") for endpoint in endpoints)
        former = {key: value for key, value in self._record.options.items() if key != "endpoints"}
        return (
            former == self._shared
            and any(pod.device for pod in remaining)
            and not self._declaration.policies
            and self._cluster is None
            and not any(service.selected for service in self._declaration.services)
            and (not masquerades or bool(self._maps.config()[1] & FEATURE_MASQUERADE))
        )

    # Writing

    def _configure(self, options: Mapping[str, Any]) -> list[str]:
        self._token = ()
        return configure(Desired(self._pin_path, self._owner, options, allow_unmatched=True)).warnings

    def _add(
        self, endpoints: Sequence[Endpoint], interfaces: Mapping[str, Interface], options: dict[str, Any]
    ) -> None:
        own, problems = parse({**options, "endpoints": endpoints}, self._owner)
        problems += self._address_problems(own.pods)
        if any(pod.rate for pod in own.pods):
            problems += rate_problems(own.pods, read_uplinks(self._pin_path, read_interfaces()))
        every = [*(pod for pod in self._declaration.pods if pod.owner == self._owner), *own.pods]
        slots = assign_slots(Declaration(every), self._records, self._owner)
        missing = [pod.name for pod in own.pods if pod.rate and pod.name not in slots]
        if missing:
            problems.append(f"endpoints ({', '.join(missing)}): rate: all slots for rates are used")
        if problems:
            raise Problem("\n".join(problems))
        record = Record(options, slots)
        declaration = Declaration(own.pods, masquerade=self._declaration.masquerade)
        image = compile_image(declaration, Node(interfaces), all_slots({self._owner: record})).image
        # Stored first, so that the next call of configure() completes one that is killed here.
        self._store.write(self._owner, record)
        try:
            self._maps.add(self._entries(image), [slots[p.name] for p in own.pods if p.name in slots])
        except OSError as error:
            self._store.write(self._owner, self._record)
            raise Problem(f"cannot write the maps: {os.strerror(error.errno or 0)}") from error
        self._written(record, [*self._declaration.pods, *own.pods])

    def _remove(self, endpoints: Sequence[Endpoint], options: dict[str, Any]) -> None:
        gone = {endpoint["name"] for endpoint in endpoints}
        pods = [p for p in self._declaration.pods if p.owner == self._owner and p.name in gone]
        keys: dict[str, list[bytes]] = {"pods": [], "endpoints4": [], "endpoints6": []}
        for address in (address for pod in pods for address in pod.addresses):
            name = f"endpoints{address.version}"
            with contextlib.suppress(FileNotFoundError):
                raw = bpf.map_lookup(self._maps.fds[name], address.packed, ENDPOINT.size)
                keys["pods"].append(INDEX.pack(ENDPOINT.unpack(raw)[0]))
                keys[name].append(address.packed)
        slots = {name: slot for name, slot in self._record.slots.items() if name not in gone}
        record = Record(options, slots)
        # Stored first, so that the next call of configure() completes one that is killed here.
        self._store.write(self._owner, record)
        self._maps.remove(keys)
        self._written(record, [pod for pod in self._declaration.pods if pod not in pods])

    def _entries(self, image: Image) -> dict[str, dict[bytes, bytes]]:
        """Return the entries of new Pods by map, with the same values in both buffers."""
        generation = self._maps.next_in_place()
        updates: dict[str, dict[bytes, bytes]] = {"endpoints4": {}, "endpoints6": {}, "pods": {}}
        for key, e in image.endpoints.items():
            name = "endpoints4" if len(key) == 4 else "endpoints6"
            updates[name][key] = ENDPOINT.pack(
                e.ifindex, e.owner, e.identity, e.identity, e.enforce, e.enforce, e.slot, e.flags, generation
            )
        for ifindex, d in image.pods.items():
            updates["pods"][INDEX.pack(ifindex)] = POD.pack(
                d.owner, d.slot, d.flags, d.identity, d.identity, d.enforce, d.enforce, d.mac, d.rate
            )
        return updates

    def _written(self, record: Record, pods: list[Pod]) -> None:
        """Remember what this call wrote."""
        self._record = record
        self._records[self._owner] = record
        self._declaration = replace(self._declaration, pods=pods)
        self._pods = {address: pod for pod in pods for address in pod.addresses}
        self._token = self._read_token()

    def _address_problems(self, pods: Sequence[Pod]) -> list[str]:
        problems: list[str] = []
        claimed: dict[Address, str] = {}
        for pod, address in ((one, address) for one in pods for address in one.addresses):
            user = claimed.get(address, "")
            if address in self._pods:
                other = self._pods[address]
                user = f"Pod {other.shown} of owner {other.owner}"
            elif address in self._services:
                user = f"service {self._services[address]}"
            if user:
                problems.append(f"endpoints ({pod.shown}): {user} already has the address {address}")
            claimed[address] = f"Pod {pod.shown}"
        return problems
