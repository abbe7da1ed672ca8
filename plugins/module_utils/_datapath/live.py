# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Add, change and remove single Pods without computing the maps from all declarations again.

``apply.configure`` reads all declarations and maps, and fills the inactive buffer. ``LiveEntries`` keeps what
it has computed. A Pod then changes only its own entries, which are written in place. A change of policies or
services computes the image from what is known, and writes the differences as one generation.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._core.plan import Problem
from .._kernel import bpf
from .._kernel.routes import local_addresses
from .apply import configure, require_equal, write
from .cluster import Cluster, ClusterChanges, Holders, by_name, changes_between, cluster_services, labelled
from .compile import Compiler
from .host_ports import host_port_problems, host_port_services
from .layout import FEATURE_MASQUERADE
from .limits import Full
from .maps import Maps, require_confirmed
from .merge import merge, parse_records
from .model import Address, Declaration, Pod, Policy, Service
from .node import Interface, read_interfaces, read_node, read_uplinks
from .pacing import rate_problems
from .parse import parse
from .plan import Desired, plan_services, plan_sync, plan_writes
from .snapshot import decode_image
from .stale_sockets import EndSockets, end_stale_sockets
from .store import Record, Store, all_slots, assign_slots, stored
from .write_live import LiveWriter
from .write_services import NODE_MAPS, LiveServices
from .writes import MapWrites

Policies = Mapping[str, "tuple[Policy, ...] | None"]  # by name
Endpoint = Mapping[str, Any]  # as bpf_state declares it: name, device, addresses, ...

_MAX_IN_PLACE = 1000  # Pods; more of them are faster as one generation


class LiveEntries:
    """The map entries of one owner's Pods and of a cluster; keeps the maps open and what it has computed.

    Other processes may change the declarations and replace the maps, so each call first compares a token.
    """

    def __init__(
        self,
        pin_path: str,
        owner: str,
        shared: Mapping[str, Any] | None = None,
        end_sockets: EndSockets = end_stale_sockets,
    ) -> None:
        """``shared`` are the owner's other options of ``bpf_state``, such as node and masquerade.

        ``end_sockets`` is called with the pin path after UDP services have lost backends.
        """
        self._pin_path, self._owner, self._end_sockets = pin_path, owner, end_sockets
        self._shared = stored(shared or {})
        self._store = Store(pin_path)
        self._files = contextlib.ExitStack()
        self._token: tuple[object, ...] = ()
        self._cluster: Cluster | None = None
        self._stored: tuple[int, ...] = ()  # token of the stored objects of which _cluster is a copy

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

    # Endpoints

    def add(self, endpoints: Sequence[Endpoint], interfaces: Mapping[str, Interface]) -> None:
        """Add endpoints, or replace those of the same name; ``interfaces`` has their new devices by name.

        Raises ``Problem``; then nothing has changed.
        """
        names = {endpoint["name"] for endpoint in endpoints}
        with self._store.locked():
            require_confirmed(self._pin_path)
            self._refresh()
            self._require_host_ports(endpoints, names)
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
            record = self._store.read().get(self._owner, Record())
            current = record.options.get("endpoints") or ()
            removed = [one for one in current if one["name"] in names]
            if not removed:
                return
            require_confirmed(self._pin_path)
            self._refresh()
            remaining = [one for one in current if one["name"] not in names]
            options = {**self._shared, "endpoints": remaining} if remaining else {}
            if self._is_independent(removed):
                self._remove(names, options)
                return
        self._configure(options)

    def complete(self) -> list[str]:
        """Complete the entries if a process was killed while it wrote them, and apply new shared options.

        Return problems of objects of the API. Raises ``Problem``.
        """
        endpoints = self.endpoints()
        self._configure({**self._shared, "endpoints": endpoints} if endpoints else {})
        with self._store.locked():
            require_confirmed(self._pin_path)
            self._refresh()
        return self._compiler.unenforced

    def update_node(self) -> None:
        """Write everything again if addresses or ports of the node have changed. Raises ``Problem``."""
        if not self._has_maps():
            return
        with self._store.locked():
            require_confirmed(self._pin_path)
            self._refresh()
            if read_node(self._pin_path).of_host != self._node.of_host:
                self._load()

    # Objects of the cluster

    def set_cluster(
        self, pods: Mapping[str, Pod], policies: Sequence[Policy], services: Sequence[Service]
    ) -> list[str]:
        """Replace all that the API of the cluster declares, in one generation.

        Return problems of objects that cannot be enforced: what they concern is denied. Raises ``Problem``;
        then the former state is enforced.
        """
        desired = Cluster({**pods}, by_name(policies), by_name(services))
        with self._store.locked():
            require_confirmed(self._pin_path)
            self._refresh()
            if self._cluster is None:
                self._set_first_cluster(desired)
            else:
                self._change_cluster(changes_between(self._cluster, desired))
                self._share(desired.pods)
            return self._compiler.unenforced

    def update_pods(self, changes: Mapping[str, Pod | None]) -> list[str]:
        """Change single Pods of the API; None stands for one that the API deleted.

        Return what ``set_cluster`` does. Raises ``Problem``.
        """
        with self._store.locked():
            require_confirmed(self._pin_path)
            self._refresh()
            if self._cluster is None:
                raise Problem("update_pods requires the complete lists of the API first")
            current = self._cluster.pods
            differing = {name: pod for name, pod in changes.items() if current.get(name) != pod}
            self._change_cluster(ClusterChanges(differing))
            return self._compiler.unenforced

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
        if not token or token != self._token:
            self._records = self._store.read()
            self._cluster = self._read_cluster()
            self._load()

    def _read_cluster(self) -> Cluster | None:
        """Return the stored objects of the cluster, of which most are in memory already."""
        found = self._store.cluster.token()
        if self._cluster is None or self._stored != found:
            self._cluster, self._stored = self._store.cluster.read(), found
        return self._cluster

    def _load(self) -> None:
        """Compute the image of all declarations, and write what differs. Raises ``Problem``."""
        self._token = ()
        self._files.close()
        self._maps = Maps.pinned(self._pin_path, self._files)
        self._record = self._records.get(self._owner, Record())
        declared = parse_records(self._records)
        merged, _conflicts = merge(Declaration(), declared, self._cluster)
        snapshot = self._maps.read()
        active = decode_image(snapshot, snapshot.buffer)
        self._node = read_node(self._pin_path)  # by which Pods of other nodes are computed as well
        self._compiler = Compiler(merged, self._node, all_slots(self._records), active)
        writes, full = plan_writes(snapshot, self._compiler.image, active=active)
        problems = [*self._compiler.problems, *full]
        if problems:
            raise Problem("\n".join(problems))
        if writes:
            self._write_maps(writes)
            del snapshot, active, writes  # Large clusters should be in memory once.
            snapshot = require_equal(self._maps, self._compiler.image)
            self._maps.fill(plan_sync(snapshot))
        else:
            self._maps.fill(plan_sync(snapshot))
            # What a former process deleted must not get its number again while verdicts may refer to it.
            self._maps.commit(self._maps.next_in_place(), self._maps.config()[1])
        self._writer = LiveWriter(self._maps, snapshot, self._compiler.image)
        self._live_services = LiveServices(snapshot)
        self._declared = {(pod.owner, pod.name): pod for one in declared for pod in one.pods}
        self._services = merge(Declaration(), declared)[0].services
        self._selecting = any(service.selected for one in declared for service in one.services)
        pods = self._cluster.pods.values() if self._cluster else ()
        self._holders = Holders(self._declared.values(), pods)
        self._token = self._read_token()

    def _is_independent(self, endpoints: Sequence[Endpoint]) -> bool:
        """Return whether these endpoints change nothing but their own entries.

        The first and the last Pod of the node change ``node``, the first masqueraded one the features.
        """
        names = {(self._owner, endpoint["name"]) for endpoint in endpoints}
        remaining = (pod for name, pod in self._declared.items() if name not in names)
        masquerades = any(endpoint.get("masquerade") for endpoint in endpoints)
        former = {key: value for key, value in self._record.options.items() if key != "endpoints"}
        return (
            former == self._shared
            and any(pod.device for pod in remaining)
            and not self._selecting
            and (not masquerades or bool(self._maps.config()[1] & FEATURE_MASQUERADE))
        )

    def _require_host_ports(self, endpoints: Sequence[Endpoint], names: Collection[str]) -> None:
        """Raise ``Problem`` if host ports of endpoints that replace those of ``names`` are not available."""
        if not any(endpoint.get("host_ports") for endpoint in endpoints):
            return
        replaced = {(self._owner, name) for name in names}
        services = [service for service in self._services if not service.host_port]
        services += host_port_services(pod for key, pod in self._declared.items() if key not in replaced)
        of_cluster = self._cluster.services if self._cluster else {}
        services += (service for some in of_cluster.values() for service in some)
        own, _problems = parse({"endpoints": endpoints}, self._owner)
        problems = host_port_problems(own.pods, services, local_addresses())
        if problems:
            raise Problem("\n".join(problems))

    # Writing

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """Compute and write everything if a change of single entries does not fit into the maps."""
        try:
            yield
        except Full:
            self._load()

    def _configure(self, options: Mapping[str, Any]) -> None:
        self._token = ()
        # The next call computes these again. Large clusters should be in memory once.
        for name in ("_compiler", "_writer", "_holders", "_live_services"):
            self.__dict__.pop(name, None)
        desired = Desired(self._pin_path, self._owner, options, allow_unmatched=True)
        configure(desired, read_cluster=self._read_cluster, end_sockets=self._end_sockets)

    def _write_maps(self, writes: MapWrites) -> None:
        write(self._maps, writes)
        if writes.loses_udp_backends:
            self._end_sockets(self._pin_path)

    def _set_first_cluster(self, cluster: Cluster) -> None:
        # What is in memory counts only if all of this succeeds; else the next call reads everything again.
        self._token = ()
        try:
            self._store.cluster.replace(cluster)
            self._cluster, self._stored = cluster, self._store.cluster.token()
            self._load()
        except Exception:
            self._token = self._stored = ()
            self._cluster = None
            self._store.cluster.remove()
            raise

    def _share(self, pods: Mapping[str, Pod]) -> None:
        """Replace Pods that were read from the store by those of the caller: they are in memory once."""
        if self._cluster and any(self._cluster.pods[name] is not pod for name, pod in pods.items()):
            for name, pod in pods.items():
                self._cluster.pods[name] = pod
            self._holders = Holders(self._declared.values(), self._cluster.pods.values())

    def _change_cluster(self, changes: ClusterChanges) -> None:
        """Store and apply changes; if they cannot be applied, store the former objects."""
        if self._cluster is None:
            raise AssertionError("the objects of the cluster are unknown")
        if not changes:
            return
        former = changes.reversed(self._cluster)
        self._token = self._stored = ()
        try:
            # Stored first, so that the next call completes one that is killed here.
            changes.apply(self._cluster)
            self._store.cluster.append(changes, self._cluster)
            self._stored = self._store.cluster.token()
            if len(changes.pods) > _MAX_IN_PLACE:
                self._load()
            else:
                with self._in_place():
                    self._update_pods(former.pods, changes.pods)
                    if changes.policies and not self._update_policies(former.policies, changes.policies):
                        self._load()
                    elif changes.services:
                        self._update_services()
            self._token = self._read_token()
        except Exception:
            self._token = self._stored = ()
            former.apply(self._cluster)
            self._store.cluster.append(former, self._cluster)
            raise

    def _update_pods(self, former: Mapping[str, Pod | None], changes: Mapping[str, Pod | None]) -> None:
        """Write changed Pods of the API."""
        addresses: dict[Address, None] = {}
        for name, pod in changes.items():
            before = former[name]
            for one in (before, pod):
                addresses.update(dict.fromkeys(one.addresses if one else ()))
            if before:
                self._holders.remove(before)
            if pod:
                self._holders.add(pod)
        local = [pod for pod in self._declared.values() if pod.in_cluster and pod.display_name in changes]
        for pod in local:
            addresses.update(dict.fromkeys(pod.addresses))
            self._compiler.set_device(labelled(pod, self._cluster))
        if addresses or local:
            self._write(addresses, bool(local))

    def _update_policies(self, former: Policies, changes: Policies) -> bool:
        """Write changed policies as one generation; return False if all entries have to be computed again."""
        self._token = ()
        before, after = ([one for some in kind.values() for one in some or ()] for kind in (former, changes))
        removed, added = ([one for one in a if one not in b] for a, b in ((before, after), (after, before)))
        pods = ((address, labelled(pod, self._cluster)) for address, pod in self._holders.items())
        if not self._compiler.change_policies(removed, added, pods):
            return False
        found = self._compiler.take_changes()
        if found:
            try:
                self._writer.write_generation(found)
                self._live_services.synchronized()
            except OSError as error:
                raise Problem(f"cannot write the maps: {os.strerror(error.errno or 0)}") from error
        self._token = self._read_token()
        return True

    def _update_services(self) -> None:
        """Write all services as one generation; both buffers have all else."""
        self._token = ()
        of_cluster = self._cluster.services if self._cluster else {}
        former = replace(self._compiler.image)
        services, conflicts = cluster_services(self._services, of_cluster)
        self._compiler.set_services([*self._services, *services], read_node(self._pin_path), conflicts)
        snapshot = self._maps.read(NODE_MAPS)
        writes, problems = plan_services(snapshot, former, self._compiler.image, self._live_services)
        if problems:
            raise Problem("\n".join(problems))
        self._write_maps(writes)
        self._token = self._read_token()

    def _update_host_ports(self) -> None:
        """Write the services after the host ports of declared Pods have changed."""
        services = [service for service in self._services if not service.host_port]
        self._services = [*services, *host_port_services(self._declared.values())]
        self._update_services()

    def _write(self, addresses: Iterable[Address], commit: bool, reset_slots: Sequence[int] = ()) -> None:
        """Write the entries of addresses whose Pod has changed, and all that depends on them."""
        self._token = ()
        for address in addresses:
            pod = self._holders.get(address)
            self._compiler.set_address(address, labelled(pod, self._cluster) if pod else None)
        try:
            self._writer.write(self._compiler.take_changes(), commit, reset_slots)
        except OSError as error:
            raise Problem(f"cannot write the maps: {os.strerror(error.errno or 0)}") from error
        self._token = self._read_token()

    def _add(
        self, endpoints: Sequence[Endpoint], interfaces: Mapping[str, Interface], options: dict[str, Any]
    ) -> None:
        own, problems = parse({**options, "endpoints": endpoints}, self._owner)
        problems += self._address_problems(own.pods)
        if any(pod.rate for pod in own.pods):
            problems += rate_problems(own.pods, read_uplinks(self._pin_path, read_interfaces()))
        every = [*(pod for pod in self._declared.values() if pod.owner == self._owner), *own.pods]
        slots = assign_slots(Declaration(every), self._records, self._owner)
        missing = [pod.name for pod in own.pods if pod.rate and pod.name not in slots]
        if missing:
            problems.append(f"endpoints ({', '.join(missing)}): rate: all slots for rates are used")
        if problems:
            raise Problem("\n".join(problems))
        former = self._record
        self._write_record(Record(options, slots))
        self._compiler.add_interfaces(interfaces, all_slots({self._owner: self._record}))
        addresses = [address for pod in own.pods for address in pod.addresses]
        try:
            with self._in_place():
                for pod in own.pods:
                    self._declared[pod.owner, pod.name] = pod
                    self._holders.declared.update(dict.fromkeys(pod.addresses, pod))
                    self._compiler.set_device(labelled(pod, self._cluster))
                self._write(addresses, True, [slots[pod.name] for pod in own.pods if pod.name in slots])
                if any(pod.host_ports for pod in own.pods):
                    self._update_host_ports()
        except Problem:
            self._token = ()
            self._store.write(self._owner, former)
            with contextlib.suppress(Problem, OSError):  # else the next call removes what was written
                self._refresh()
            raise

    def _remove(self, names: Collection[str], options: dict[str, Any]) -> None:
        pods = [self._declared[self._owner, name] for name in names if (self._owner, name) in self._declared]
        slots = {name: slot for name, slot in self._record.slots.items() if name not in names}
        self._write_record(Record(options, slots))
        with self._in_place():
            for pod in pods:
                del self._declared[self._owner, pod.name]
                for address in pod.addresses:
                    self._holders.declared.pop(address, None)
                self._compiler.set_device(pod, remove=True)
            if any(pod.host_ports for pod in pods):
                self._update_host_ports()
            self._write([address for pod in pods for address in pod.addresses], True)

    def _write_record(self, record: Record) -> None:
        # Stored first, so that the next call completes one that is killed here.
        self._store.write(self._owner, record)
        self._record = self._records[self._owner] = record

    def _address_problems(self, pods: Sequence[Pod]) -> list[str]:
        problems: list[str] = []
        claimed: dict[Address, str] = {}
        services = {service.address: service.name for service in self._services}
        for pod, address in ((one, address) for one in pods for address in one.addresses):
            user = claimed.get(address, "")
            if address in self._holders.declared:
                other = self._holders.declared[address]
                user = f"Pod {other.shown} of owner {other.owner}"
            elif address in services:
                user = f"service {services[address]}"
            if user:
                problems.append(f"endpoints ({pod.shown}): {user} already has the address {address}")
            claimed[address] = f"Pod {pod.shown}"
        return problems
