# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the programs do on this node, for people and for Prometheus. Private to this collection.

Read from the maps themselves; the declarations add names only.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import struct
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .._kernel import bpf
from . import apply, layout
from . import interfaces as _datapath_node
from . import snapshot as _datapath_snapshot
from .layout import Image
from .maps import Maps
from .model import DIRECTIONS, PROTOCOLS, Pod
from .policy import Ruleset
from .snapshot import Snapshot
from .store import Store

PREFIX = "REASON_"
INTO_POD = [name[len(PREFIX) :] for name in layout.INBOUND_REASONS]
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_TABLE_SIZE = layout.MAGLEV_SIZE


def reasons(pin_path: str) -> dict[int, str]:
    """Return the names of the reasons by number, as the running programs were compiled."""
    folder = os.path.join(pin_path, "progs")
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        with bpf.closing(bpf.obj_get(os.path.join(folder, name))) as fd:
            found = bpf.program_btf(fd).enum("reason")
        return {number: text[len(PREFIX) :] for text, number in found.items()}
    return {}


def counters(pin_path: str) -> dict[int, dict[str, int]]:
    """Return packets by the Pod's place in the counters and by reason; what is 0 is left out."""
    names = reasons(pin_path)
    size = layout.REASONS
    found: dict[int, dict[str, int]] = {}
    processors = bpf.possible_cpus()
    with bpf.closing(bpf.obj_get(os.path.join(pin_path, "maps", "metrics"))) as fd:
        for slot in range(bpf.map_info(fd).layout.max_entries):
            raw = bpf.map_lookup(fd, struct.pack("=I", slot), 8 * size * processors)
            if not any(raw):
                continue
            values = struct.unpack(f"={size * processors}Q", raw)
            totals = {names.get(number, str(number)): sum(values[number::size]) for number in range(size)}
            found[slot] = {name: total for name, total in totals.items() if total}
    return found


def _by_direction(counted: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Split a Pod's counters into what it got and what it sent."""
    return {
        word: {name: n for name, n in counted.items() if (name in INTO_POD) == (word == "ingress")}
        for word in DIRECTIONS
    }


def ports_text(ruleset: Ruleset) -> list[str]:
    """Return the ports of a ruleset that are not as the rest, as people write them."""
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


class _Who:
    """The names of identities."""

    def __init__(self, image: Image, pods: Mapping[bytes, Pod]) -> None:
        self._names: dict[int, list[str]] = {0: ["everybody else"], 1: ["the node"]}
        for key, endpoint in image.endpoints.items():
            if endpoint.identity > 1:
                pod = pods.get(key)
                name = f"Pod {pod.name}" if pod else str(ipaddress.ip_address(key))
                self._add(endpoint.identity, f"{name} at {pod.node}" if pod and not pod.device else name)
        for (length, packed), (identity, dummy) in image.cidrs.items():
            if identity > 1:
                self._add(identity, f"{ipaddress.ip_address(packed)}/{length}")

    def _add(self, identity: int, name: str) -> None:
        names = self._names.setdefault(identity, [])
        if name not in names:
            names.append(name)

    def names(self, identity: int) -> list[str]:
        return self._names.get(identity, [f"identity {identity}"])


def _policy(image: Image, identity: int, enforce: int, who: _Who) -> dict[str, Any]:
    """Return what holds for one identity, by direction: the default, and who differs."""
    found: dict[str, Any] = {}
    for word, direction in DIRECTIONS.items():
        if not enforce & layout.ENFORCE[direction]:
            continue
        peers = []
        for (subject, peer, of), raw in sorted(image.policy.items()):
            if subject == identity and of == direction:
                ruleset = layout.decode_ruleset(raw)
                action, other = ("allow", "deny") if ruleset.allow else ("deny", "allow")
                peers.append({"peers": who.names(peer), "action": action, other: ports_text(ruleset)})
        denied = enforce & layout.DENY[direction]
        found[word] = {"default": "deny" if denied else "allow", "rules": peers}
    return found


def _services(snapshot: Snapshot, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return the services, each backend with its share of new connections in percent."""
    found = []
    image_services = _datapath_snapshot.services_of(snapshot, snapshot.bank)
    for (address, port, protocol, family), (number, places) in sorted(image_services.items()):
        version = 4 if family == 2 else 6
        shares = Counter(places)
        backends = []
        for place, count in shares.items():
            packed, backend_port = layout.decode_backend(snapshot.element("backends", place), version)
            backends.append(
                {
                    "address": str(ipaddress.ip_address(packed)),
                    "port": backend_port,
                    "share": round(100 * count / _TABLE_SIZE, 1),
                }
            )
        found.append(
            {
                "name": names.get(number, f"number {number:#010x}"),
                "address": str(ipaddress.ip_address(address[: 4 if version == 4 else 16])),
                "port": int.from_bytes(port, "big"),
                "protocol": PROTOCOL_NAMES.get(protocol, str(protocol)),
                "backends": sorted(backends, key=lambda b: (b["address"], b["port"])),
            }
        )
    return found


def _programs(pin_path: str) -> list[dict[str, Any]]:
    found = []
    folder = os.path.join(pin_path, "progs")
    for name in sorted(os.listdir(folder)):
        with bpf.closing(bpf.obj_get(os.path.join(folder, name))) as fd:
            info = bpf.program_info(fd)
        found.append({"name": name, "id": info.id, "tag": info.tag})
    return found


def gather(pin_path: str) -> dict[str, Any]:
    """Return programs, Pods with their counters and policy, services, and how full the maps are.

    Raises BpfError where there are no maps, or of another layout.
    """
    with contextlib.ExitStack() as files:
        maps = Maps.pinned(pin_path, files)
        snapshot = maps.read()
        connections = bpf.obj_get(os.path.join(pin_path, "maps", "ct"))
        files.callback(os.close, connections)
        ct = {
            "entries": bpf.map_count(connections),
            "max": bpf.map_info(connections).layout.max_entries,
        }
    records = Store(pin_path).read()
    interfaces = _datapath_node.read_interfaces()
    declared, slots, dummy = apply.merge(records, interfaces)
    image = _datapath_snapshot.held(snapshot, snapshot.bank)
    by_address = {address.packed: pod for pod in declared.pods for address in pod.addresses}
    who = _Who(image, by_address)
    counted = counters(pin_path)
    pods = []
    for pod in declared.pods:
        if not pod.device:
            continue
        slot = slots.get((pod.owner, pod.name), 0)
        endpoints = {str(a): image.endpoints.get(a.packed) for a in pod.addresses}
        pods.append(
            {
                "name": pod.name,
                "owner": pod.owner,
                "device": pod.device,
                "slot": slot,
                "labels": dict(pod.labels),
                "rate": pod.rate * 8,
                "packets": _by_direction(counted.get(slot, {}) if slot else {}),
                "policy": {
                    address: _policy(image, e.identity, e.enforce, who)
                    for address, e in endpoints.items()
                    if e
                },
            }
        )
    names = {layout.number_of(service.name): service.name for service in declared.services}
    return {
        "layout": layout.LAYOUT,
        "generation": snapshot.generation,
        "programs": _programs(pin_path),
        "pods": pods,
        "packets": counted.get(0, {}),
        "connections": ct,
        "services": _services(snapshot, names),
        "maps": {
            name: {"entries": len(entries), "max": snapshot.sizes[name]}
            for name, entries in snapshot.hashes.items()
        },
    }


# ---------------------------------------------------------------- Prometheus


def _label(value: object) -> str:
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def prometheus(info: Mapping[str, Any]) -> str:
    """Return the counters as Prometheus' text format, for node_exporter's textfile collector."""
    lines: list[str] = []

    def metric(name: str, kind: str, text: str) -> None:
        lines.extend((f"# HELP podnet_{name} {text}", f"# TYPE podnet_{name} {kind}"))

    def sample(name: str, value: object, **labels: object) -> None:
        inside = ",".join(f'{key}="{_label(one)}"' for key, one in labels.items())
        lines.append(f"podnet_{name}{{{inside}}} {value}" if inside else f"podnet_{name} {value}")

    metric("packets_total", "counter", "Packets by Pod, direction and what became of them.")
    for pod in info["pods"]:
        for direction, counted in pod["packets"].items():
            for reason, count in counted.items():
                sample(
                    "packets_total",
                    count,
                    pod=pod["name"],
                    owner=pod["owner"],
                    direction=direction,
                    reason=reason,
                )
    for reason, count in info["packets"].items():
        sample("packets_total", count, pod="", owner="", direction="", reason=reason)
    metric("connections", "gauge", "Connections that the programs know.")
    sample("connections", info["connections"]["entries"])
    metric("connections_max", "gauge", "Connections that they have room for.")
    sample("connections_max", info["connections"]["max"])
    metric("map_entries", "gauge", "Entries of the maps that are written by declarations, both banks.")
    for name, size in info["maps"].items():
        sample("map_entries", size["entries"], map=name)
    metric("map_entries_max", "gauge", "Entries that they have room for.")
    for name, size in info["maps"].items():
        sample("map_entries_max", size["max"], map=name)
    metric("service_share", "gauge", "Share of a service's new connections that a backend gets, in percent.")
    for service in info["services"]:
        for backend in service["backends"]:
            sample(
                "service_share",
                backend["share"],
                service=service["name"],
                address=backend["address"],
                port=backend["port"],
            )
    return "\n".join(lines) + "\n"
