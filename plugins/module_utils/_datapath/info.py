# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gather programs, Pods, policy, services and counters of this node.

All values are read from the maps; the declarations only add names.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .._kernel import bpf
from . import layout
from .identity import ANY, HOST, WORLD
from .image import Image
from .maps import Maps
from .merge import merge_records
from .metrics import PREFIX, read_counters
from .model import DIRECTIONS, PROTOCOLS, Pod
from .policy import Ruleset
from .snapshot import Snapshot, decode_image, services_of
from .store import Store, all_slots

INGRESS_REASONS = [name[len(PREFIX) :] for name in layout.INBOUND_REASONS]
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}


def _by_direction(counted: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return the counters of a Pod by direction."""
    return {
        direction: {
            name: n for name, n in counted.items() if (name in INGRESS_REASONS) == (direction == "ingress")
        }
        for direction in DIRECTIONS
    }


def ports_text(ruleset: Ruleset) -> list[str]:
    """Return the port ranges of a ruleset as text."""
    lines = []
    for one in ruleset.ranges:
        name = PROTOCOL_NAMES.get(one.protocol, str(one.protocol))
        if (one.first, one.last) == (0, 0xFFFF):
            lines.append(name)
        elif one.protocol in (1, 58):
            lines.append(f"{name} type {one.first >> 8}")
        else:
            lines.append(f"{name} {one.first}" + (f"-{one.last}" if one.last > one.first else ""))
    return lines


class _IdentityNames:
    """Names of the Pods and prefixes of each identity."""

    def __init__(self, image: Image, pods: Mapping[bytes, Pod]) -> None:
        self._names: dict[int, dict[str, None]] = {
            WORLD: {"other addresses": None},
            HOST: {"the node": None},
            ANY: {"all other peers": None},
        }
        for key, endpoint in image.endpoints.items():
            if endpoint.identity > HOST:
                pod = pods.get(key)
                name = f"Pod {pod.shown}" if pod else str(ipaddress.ip_address(key))
                self._add(endpoint.identity, f"{name} at {pod.node}" if pod and not pod.device else name)
        for (length, packed), (identity, dummy) in image.cidrs.items():
            if identity > HOST:
                self._add(identity, f"{ipaddress.ip_address(packed)}/{length}")

    def _add(self, identity: int, name: str) -> None:
        self._names.setdefault(identity, {})[name] = None

    def of(self, identity: int) -> list[str]:
        return list(self._names.get(identity, (f"identity {identity}",)))


def _policy(image: Image, identity: int, enforce: int, names: _IdentityNames) -> dict[str, Any]:
    """Return the policy of one identity by direction: the default, and the peers that differ from it."""
    policy: dict[str, Any] = {}
    for word, direction in DIRECTIONS.items():
        if not enforce & layout.ENFORCE[direction]:
            continue
        peers = []
        for (subject, peer, of), raw in sorted(image.policy.items()):
            if subject == identity and of == direction:
                ruleset = layout.decode_ruleset(raw)
                action, other = ("allow", "deny") if ruleset.allow else ("deny", "allow")
                peers.append({"peers": names.of(peer), "action": action, other: ports_text(ruleset)})
        denied = enforce & layout.DENY[direction]
        policy[word] = {"default": "deny" if denied else "allow", "rules": peers}
    return policy


def _pods(
    pods: Sequence[Pod],
    slots: Mapping[tuple[str, str], int],
    counters: Mapping[int, Mapping[str, int]],
    image: Image,
) -> list[dict[str, Any]]:
    """Return this node's Pods with counters and policy."""
    names = _IdentityNames(image, {address.packed: pod for pod in pods for address in pod.addresses})
    found = []
    for pod in pods:
        if not pod.device:
            continue
        slot = slots.get((pod.owner, pod.name), 0)
        endpoints = {str(address): image.endpoints.get(address.packed) for address in pod.addresses}
        found.append(
            {
                "name": pod.shown,
                "owner": pod.owner,
                "device": pod.device,
                "slot": slot,
                "labels": dict(pod.labels),
                "rate": pod.rate * 8,
                "host_ports": [
                    {
                        "address": str(one.address or ""),
                        "port": one.port,
                        "protocol": PROTOCOL_NAMES[one.protocol],
                        "target": one.target,
                    }
                    for one in pod.host_ports
                ],
                "packets": _by_direction(counters.get(slot, {}) if slot else {}),
                "policy": {
                    address: _policy(image, e.identity, e.enforce, names)
                    for address, e in endpoints.items()
                    if e
                },
            }
        )
    return found


def _services(snapshot: Snapshot, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return the services, each backend with its share of new connections in percent: 0 if it drains."""
    services = []
    for (address, port, protocol, family), (number, indexes) in sorted(services_of(snapshot).items()):
        version = 4 if family == 2 else 6
        shares = Counter(indexes[: layout.MAGLEV_SIZE])
        backends = []
        for index in {*indexes} - {layout.NO_BACKEND}:
            packed, backend_port = layout.decode_backend(snapshot.element("backends", index), version)
            backends.append(
                {
                    "address": str(ipaddress.ip_address(packed)),
                    "port": backend_port,
                    "share": round(100 * shares[index] / layout.MAGLEV_SIZE, 1),
                }
            )
        services.append(
            {
                "name": names.get(number, f"number {number:#010x}"),
                "address": str(ipaddress.ip_address(address[: 4 if version == 4 else 16])),
                "port": int.from_bytes(port, "big"),
                "protocol": PROTOCOL_NAMES.get(protocol, str(protocol)),
                "backends": sorted(backends, key=lambda b: (b["address"], b["port"])),
            }
        )
    return services


def _programs(pin_path: str) -> list[dict[str, Any]]:
    programs = []
    folder = os.path.join(pin_path, "progs")
    for name in sorted(os.listdir(folder)):
        with bpf.closing(bpf.obj_get(os.path.join(folder, name))) as fd:
            info = bpf.program_info(fd)
        programs.append({"name": name, "id": info.id, "tag": info.tag})
    return programs


def _socket_lb(pin_path: str) -> str:
    """Return the cgroup whose sockets translate services, empty if there is none."""
    pins = Path(pin_path).glob("links/*/*-connect4")
    return next((unquote(pin.name[: -len("-connect4")]) for pin in pins), "")


def gather(pin_path: str) -> dict[str, Any]:
    """Return programs, Pods with counters and policy, services, and the usage of maps.

    Raises ``Problem`` if maps are missing or have another layout.
    """
    with contextlib.ExitStack() as files:
        maps = Maps.pinned(pin_path, files)
        snapshot = maps.read()
        connections = bpf.obj_get(os.path.join(pin_path, "maps", "connections"))
        files.callback(os.close, connections)
        ct = {
            "entries": bpf.map_count(connections),
            "max": bpf.map_info(connections).layout.max_entries,
        }
    store = Store(pin_path)
    records = store.read()
    declaration = merge_records(records, store.cluster.read())
    counters = read_counters(pin_path)
    services = {layout.number_of(service.name): service.name for service in declaration.services}
    return {
        "layout": layout.LAYOUT,
        "generation": snapshot.generation,
        "programs": _programs(pin_path),
        "socket_lb": _socket_lb(pin_path),
        "pods": _pods(
            declaration.pods, all_slots(records), counters, decode_image(snapshot, snapshot.buffer)
        ),
        "packets": counters.get(0, {}),
        "connections": ct,
        "services": _services(snapshot, services),
        "maps": {
            name: {"entries": len(entries), "max": snapshot.sizes[name]}
            for name, entries in snapshot.hashes.items()
        },
    }
