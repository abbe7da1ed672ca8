# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order in which devices, map entries and programs of Pods are created and removed.

Setup: create the device with its addresses, down; add map entries that deny all traffic; attach the programs,
which enforce the Pod's rate from then on; set the device up and add routes; commit policies and services.
Teardown: deny all traffic; set the device down; detach the programs; delete the map entries; delete the
device.
Pure. Each stage leaves a state from which ``plan_stages`` continues, so a killed run can be repeated. Denied
Pods have the label ``SETUP_LABEL`` in the stored declaration until the last stage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Union

from .model import Device, End, State, down

SETUP_LABEL = "podnet.datapath/setup"  # its value is the owner, so that Pods of other owners do not match
SETUP_POLICY = "podnet.datapath/setup"

Entry = Mapping[str, Any]  # an endpoint as bpf_state declares it: name, device, addresses, labels, ...


@dataclass(frozen=True)
class SetDevices:
    """Bring the owner's devices, namespaces and host routes to this state."""

    target: State


@dataclass(frozen=True)
class SetEntries:
    """Replace the owner's declaration in the maps; only a ``final`` one is validated against all Pods."""

    declaration: Mapping[str, Any]
    final: bool = False


@dataclass(frozen=True)
class SetPrograms:
    """Attach the programs to these host interfaces, and detach them from the owner's others."""

    devices: tuple[str, ...]


Stage = Union[SetDevices, SetEntries, SetPrograms]


def _closed(device: Device) -> Device:
    """Return the device with the host end down, which also takes the carrier from the Pod's end."""
    return replace(device, host=End({**device.host.settings, "up": False}))


def _is_up(device: Device | None) -> bool:
    return device is not None and bool(device.host.settings.get("up"))


def _ip(address: str) -> str:
    return address.partition("/")[0]


def not_up(current: State, desired: State, recreated: Collection[str]) -> set[str]:
    """Return the Pods whose device is missing, down, or must be replaced."""
    return {name for name in desired.devices if name in recreated or not _is_up(current.devices.get(name))}


def _denying(
    declaration: Mapping[str, Any], entries: Iterable[Entry], deny: Collection[str], owner: str
) -> Any:
    """Return the declaration with these entries; those in ``deny``, or denied already, match a deny
    policy.
    """
    labelled = []
    for entry in entries:
        labels = dict(entry.get("labels") or {})
        if entry["name"] in deny:
            labels[SETUP_LABEL] = owner
        labelled.append({**entry, "labels": labels})
    policies = [one for one in declaration.get("policies") or () if one["name"] != SETUP_POLICY]
    if any(SETUP_LABEL in entry["labels"] for entry in labelled):
        rules = {direction: [{"action": "deny"}] for direction in ("ingress", "egress")}
        policies.append({"name": SETUP_POLICY, "pods": {"labels": {SETUP_LABEL: owner}}, **rules})
    return {**declaration, "endpoints": labelled, "policies": policies}


@dataclass(frozen=True)
class PodState:
    """An owner's devices, and its declaration in the maps."""

    devices: State
    declaration: Mapping[str, Any]

    def entries(self) -> dict[str, Entry]:
        """Return the endpoints whose device exists, by Pod."""
        interfaces = {device.name: device.host_interface for device in self.devices.devices.values()}
        return {
            entry["name"]: entry
            for entry in self.declaration.get("endpoints") or ()
            if interfaces.get(entry["name"]) == entry["device"]
        }


def plan_stages(
    current: PodState, desired: PodState, recreated: Collection[str] = (), owner: str = "site"
) -> list[Stage]:
    """Return the stages from the current to the desired state.

    If the desired state has no endpoints, the programs are detached. ``recreated`` are the Pods whose device
    the kernel cannot change to the desired one.
    """
    known = current.entries()
    kept = {name: entry for name, entry in known.items() if name in desired.devices.devices}
    stages = _teardown(current, known, kept, owner) if len(kept) < len(known) else []
    wanted = desired.entries()
    final = SetEntries(desired.declaration, final=True)
    if not wanted:
        return [*stages, SetDevices(desired.devices), SetPrograms(()), final]
    created = not_up(current.devices, desired.devices, recreated) & wanted.keys()
    if created:
        opening = {
            name: down(device) if name in created else device
            for name, device in desired.devices.devices.items()
        }
        stages.append(SetDevices(replace(desired.devices, devices=opening)))
    if created or wanted.keys() - kept.keys():
        entries = _setup_entries(wanted, kept, created)
        denied = created - kept.keys()
        stages.append(SetEntries(_denying(current.declaration, entries, denied, owner)))
    attached = SetPrograms(tuple(entry["device"] for entry in wanted.values()))
    return [*stages, attached, SetDevices(desired.devices), final]


def _teardown(
    current: PodState, known: Mapping[str, Entry], kept: Mapping[str, Entry], owner: str
) -> list[Stage]:
    """Return the stages that remove the entries in ``known`` but not in ``kept``."""
    gone = known.keys() - kept.keys()
    closing = {
        key: _closed(device) if device.name in gone else device
        for key, device in current.devices.devices.items()
        if device.complete or device.name not in gone
    }
    return [
        SetEntries(_denying(current.declaration, known.values(), gone, owner)),
        SetDevices(replace(current.devices, devices=closing)),
        SetPrograms(tuple(entry["device"] for entry in kept.values())),
        SetEntries(_denying(current.declaration, kept.values(), (), owner)),
    ]


def _setup_entries(
    wanted: Mapping[str, Entry], kept: Mapping[str, Entry], created: Collection[str]
) -> list[Entry]:
    """Return the entries until the policy is committed: new ones as desired, others as they are."""
    entries = {**wanted, **kept}
    for name in kept.keys() & set(created):  # the entry of a replaced device keeps its labels
        entries[name] = {**wanted[name], "labels": kept[name].get("labels") or {}}
    new = set(created) | (wanted.keys() - kept.keys())
    moved = {_ip(text) for name in new for text in wanted[name]["addresses"]}
    for name in kept.keys() - set(created):
        remaining = [text for text in kept[name]["addresses"] if _ip(text) not in moved]
        entries[name] = {**kept[name], "addresses": remaining}
    return list(entries.values())
