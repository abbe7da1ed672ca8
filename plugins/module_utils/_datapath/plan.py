# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the change from the current maps and declarations to one owner's new declaration. Pure."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core.plan import Change, Plan
from .cluster import Cluster
from .compile import Compiler
from .image import Image, differences, loses_udp_backends
from .layout import FEATURE_STACK_NAT, INDEX, buffer_offset
from .merge import merge, without_backends
from .model import Declaration
from .node import Node
from .pacing import rate_problems, rate_warnings
from .parse import parse
from .parse_pods import endpoint_problems
from .snapshot import Snapshot, decode_image
from .store import Record, all_slots, assign_slots, stored
from .write_pods import synchronize_pods, write_endpoints, write_pods
from .write_policy import write_cidrs, write_policy
from .write_services import LiveServices, write_services
from .writes import MapWrites, Writer


@dataclass(frozen=True)
class Desired:
    """What one owner declares for this node.

    ``options`` has endpoints, remote_pods, policies, services, masquerade, stack_services and node, as the
    module bpf_state documents them. In check mode, ``planned_devices`` need not exist yet. With
    ``allow_unmatched``, selectors may match no Pod, as while Pods are created and removed.
    """

    pin_path: str
    owner: str
    options: Mapping[str, Any]
    planned_devices: Collection[str] = ()
    allow_unmatched: bool = False


@dataclass(frozen=True)
class Current:
    """The node, the stored declarations of all owners and of the cluster, and the maps.

    If the maps cannot be read, ``snapshot`` is None and ``problems`` says why.
    """

    node: Node
    records: Mapping[str, Record]
    snapshot: Snapshot | None
    problems: Sequence[str] = ()
    cluster: Cluster | None = None


@dataclass(frozen=True)
class DatapathPlan(Plan):
    """The plan for the maps of one pin path.

    ``changes`` are the owner's options, and the generation if ``writes`` are needed. ``image`` is the content
    of the maps afterwards, ``current_image`` the content before.
    """

    owner: str = ""
    before: Record = field(default_factory=Record)
    after: Record = field(default_factory=Record)
    current_image: Image = field(default_factory=Image)
    image: Image = field(default_factory=Image)
    writes: MapWrites | None = None

    @property
    def differences(self) -> dict[str, int]:
        """Return the number of map entries that differ, by kind."""
        return differences(self.current_image, self.image) if self.writes else {}

    @property
    def updated(self) -> list[str]:
        """Return the addresses whose endpoint is created or changed."""
        current = self.current_image.endpoints
        return [_address(key) for key, e in self.image.endpoints.items() if current.get(key) != e]

    @property
    def deleted(self) -> list[str]:
        """Return the addresses whose endpoint is deleted."""
        return [_address(key) for key in self.current_image.endpoints if key not in self.image.endpoints]


def _address(key: bytes) -> str:
    return str(ipaddress.ip_address(key))


def plan_declaration(current: Current, desired: Desired) -> DatapathPlan:
    """Return the plan that replaces the owner's declaration, with all its problems."""
    owner = desired.owner
    own, invalid = parse(desired.options, owner)
    others = [
        parse(record.options, name)[0] for name, record in sorted(current.records.items()) if name != owner
    ]
    slots = assign_slots(own, current.records, owner)
    invalid += endpoint_problems(own.pods, current.node, slots)
    pods = [*own.pods, *(pod for other in others for pod in other.pods)]
    devices = {pod.device for pod in pods}
    uplinks = {name: queues for name, queues in current.node.uplinks.items() if name not in devices}
    invalid += rate_problems(own.pods, uplinks)
    if desired.allow_unmatched:
        merged, conflicts = merge(Declaration(), [*others, own], current.cluster)
    else:
        merged, conflicts = merge(own, others, current.cluster)
    before = current.records.get(owner, Record())
    after = Record(stored(desired.options), slots)
    snapshot = current.snapshot or Snapshot()
    active = decode_image(snapshot, snapshot.buffer)
    slots_of_all = all_slots({**current.records, owner: after})
    compiled = Compiler(merged, current.node, slots_of_all, active)
    image = compiled.image
    writes, full = plan_writes(snapshot, image, active=active) if current.snapshot else (None, [])
    return DatapathPlan(
        subsystem="datapath",
        changes=_changes(before, after, snapshot if writes else None, desired.pin_path),
        problems=[*current.problems, *invalid, *conflicts, *compiled.problems, *full],
        warnings=[
            *compiled.unenforced,
            *([] if desired.allow_unmatched else without_backends(merged.services, owner)),
            *(rate_warnings(pods, uplinks) if any(pod.rate for pod in own.pods) else []),
        ],
        owner=owner,
        before=before,
        after=after,
        current_image=active,
        image=image,
        writes=writes,
    )


def _changes(before: Record, after: Record, snapshot: Snapshot | None, pin_path: str) -> list[Change]:
    """Return the options that change, and the generation if ``snapshot`` is replaced."""
    changes = []
    for option in sorted({*before.options, *after.options}):
        sides = [
            json.dumps(record.options[option], sort_keys=True) if option in record.options else None
            for record in (before, after)
        ]
        if sides[0] != sides[1]:
            changes.append(Change(option, sides[0], sides[1], pin_path))
    if snapshot:
        changes.append(Change("generation", snapshot.generation, snapshot.next_generation, pin_path))
    return changes


def plan_services(
    snapshot: Snapshot, former: Image, image: Image, services: LiveServices
) -> tuple[MapWrites, list[str]]:
    """Return the writes for another generation with the services of ``image``, and problems.

    The snapshot needs only the maps ``NODE_MAPS``. Both buffers have the same content of all other maps.
    ``former`` has the services of the current generation.
    """
    image.features |= snapshot.features & ~FEATURE_STACK_NAT
    writer = Writer(snapshot, image.features)
    services.add_writes(writer, image)
    _write_node(writer, image)
    writer.writes.loses_udp_backends = loses_udp_backends(former, image)
    return writer.writes, writer.problems


def plan_sync(snapshot: Snapshot) -> MapWrites:
    """Return the writes that give the inactive buffer the content of the active one, except services."""
    writer = Writer(snapshot, snapshot.features)
    for name in ("policy", "cidrs4", "cidrs6"):
        at = buffer_offset(name)
        entries = {
            key[:at] + bytes([writer.inactive]) + key[at + 1 :]: value
            for key, value in snapshot.hashes[name].items()
            if key[at] == writer.active
        }
        writer.fill_buffer(name, entries, "policies")
    synchronize_pods(writer)
    node = snapshot.element("node", writer.active)
    if snapshot.element("node", writer.inactive) != node:
        writer.writes.update["node"] = {INDEX.pack(writer.inactive): node}
    return writer.writes


def plan_writes(
    snapshot: Snapshot, image: Image, since: int | None = None, active: Image | None = None
) -> tuple[MapWrites | None, list[str]]:
    """Return the writes that change the maps to ``image``, and a problem for each map that is too small.

    Return None if the active buffer has this content. ``since`` is the generation in which new endpoints got
    their addresses, by default that of the commit; 0: unknown. ``active`` is the content of the active buffer
    if the caller has decoded it.
    """
    # Open connections need their translation after the last service or masqueraded Pod is removed.
    image.features |= snapshot.features & ~FEATURE_STACK_NAT
    active = active or decode_image(snapshot, snapshot.buffer)
    if snapshot.arrays and not differences(active, image):
        return None, []
    writer = Writer(snapshot, image.features)
    write_policy(writer, image)
    write_services(writer, image)
    write_cidrs(writer, image)
    write_endpoints(writer, active, image, snapshot.next_generation if since is None else since)
    write_pods(writer, image)
    _write_node(writer, image)
    writer.writes.loses_udp_backends = loses_udp_backends(active, image)
    return writer.writes, writer.problems


def _write_node(writer: Writer, image: Image) -> None:
    if writer.snapshot.element("node", writer.inactive) != image.node:
        writer.writes.update["node"] = {INDEX.pack(writer.inactive): image.node}
