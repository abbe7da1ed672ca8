# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of the programs' maps as declared. Private to this collection.

Every entry names its owner, so several can share the maps: each brings its own entries to its declared
state and leaves the others' alone. Source: roles/bpf_datapath/files/endpoints.h.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from ansible_collections.podnet.datapath.plugins.module_utils import _bpf
from ansible_collections.podnet.datapath.plugins.module_utils._bpf import BpfError

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]

MAPS = {4: "endpoints4", 6: "endpoints6"}
CONFIG = "config"
_ENDPOINT = struct.Struct("=II16x")  # struct endpoint: ifindex, owner; no identity, no policy


@dataclass(frozen=True)
class Endpoint:
    """Where an address lives: the host's side of the Pod's device, and whose entry it is."""

    ifindex: int
    owner: int


@dataclass(frozen=True)
class Changes:
    """What to write and what to delete."""

    update: Mapping[Address, Endpoint] = field(default_factory=dict)
    delete: Sequence[Address] = ()

    def __bool__(self) -> bool:
        return bool(self.update or self.delete)


def owner_id(name: str) -> int:
    """Return the number that stands for an owner in the maps."""
    return zlib.crc32(name.encode())


def parse_endpoints(endpoints: Sequence[Mapping[str, Any]]) -> dict[Address, str]:
    """Return the device of each address; a prefix length, as interfaces have it, is ignored.

    Raises BpfError naming every address that is none, and every one that two devices have.
    """
    found: dict[Address, str] = {}
    wrong = []
    for endpoint in endpoints:
        device = endpoint["device"]
        for text in endpoint["addresses"]:
            try:
                address = ipaddress.ip_interface(text).ip
            except ValueError:
                wrong.append(f"'{text}' of device {device} is no IPv4 or IPv6 address")
                continue
            if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
                wrong.append(f"'{text}' of device {device} is no address that packets are routed to")
            if found.setdefault(address, device) != device:
                wrong.append(f"{address} is given to both {found[address]} and {device}")
    if wrong:
        raise BpfError(f"endpoints: {'; '.join(wrong)}")
    return found


def resolve(wanted: Mapping[Address, str], owner: str) -> dict[Address, Endpoint]:
    """Return the entries for addresses and device names; raise BpfError naming every missing device."""
    indexes: dict[str, int] = {}
    missing = []
    for device in sorted(set(wanted.values())):
        try:
            indexes[device] = socket.if_nametoindex(device)
        except OSError:
            missing.append(device)
    if missing:
        raise BpfError(
            f"endpoints: no such device in this network namespace: {', '.join(missing)};"
            " give the host's end of the Pod's pair"
        )
    number = owner_id(owner)
    return {address: Endpoint(indexes[device], number) for address, device in wanted.items()}


def plan(
    current: Mapping[Address, Endpoint],
    desired: Mapping[Address, Endpoint],
    owner: int,
    capacity: Mapping[int, int],
) -> Changes:
    """Return what brings this owner's entries to ``desired``; other owners' entries stay.

    ``capacity`` is the number of entries a map holds, by IP version.
    Raises BpfError naming every address that belongs to another owner, and each map that would overflow.
    """
    wrong = [
        f"{address} belongs to another owner (its number is {current[address].owner:#010x})"
        for address in desired
        if address in current and current[address].owner != owner
    ]
    delete = [a for a, entry in current.items() if entry.owner == owner and a not in desired]
    for version, entries in capacity.items():
        left = sum(a.version == version for a in {*current, *desired}.difference(delete))
        if left > entries:
            wrong.append(f"{left} IPv{version} addresses are more than {MAPS[version]} holds ({entries})")
    if wrong:
        raise BpfError(f"endpoints: {'; '.join(wrong)}")
    return Changes({a: e for a, e in desired.items() if current.get(a) != e}, delete)


class EndpointMaps:
    """The two pinned maps of endpoints."""

    def __init__(self, pin_path: str, files: contextlib.ExitStack) -> None:
        """Open the maps; raise BpfError where they are not there or of another layout."""
        self._pin_path, self._files = pin_path, files
        self._fds = {version: self._open(name) for version, name in MAPS.items()}
        self._config = self._open(CONFIG)
        self.capacity = {}
        for version, fd in self._fds.items():
            layout = _bpf.map_info(fd).layout
            key = 4 if version == 4 else 16
            if (layout.key_size, layout.value_size) != (key, _ENDPOINT.size):
                raise BpfError(
                    f"pin_path: '{self._path(MAPS[version])}' has keys of {layout.key_size} and values of"
                    f" {layout.value_size} bytes, this version has {key} and {_ENDPOINT.size}: load its"
                    " programs (bpf_attach)"
                )
            self.capacity[version] = layout.max_entries

    def _path(self, name: str) -> str:
        return os.path.join(self._pin_path, "maps", name)

    def _open(self, name: str) -> int:
        try:
            fd = _bpf.obj_get(self._path(name))
        except OSError as e:
            raise BpfError(
                f"pin_path: there is no map at '{self._path(name)}' ({e.strerror}); load the programs first"
                " (bpf_attach), and mind that 'ip netns exec' hides /sys/fs/bpf"
            ) from e
        self._files.callback(os.close, fd)
        return fd

    def read(self) -> dict[Address, Endpoint]:
        """Return all entries, of all owners."""
        return {
            ipaddress.ip_address(key): Endpoint(*_ENDPOINT.unpack(value))
            for fd in self._fds.values()
            for key, value in _bpf.map_items(fd).items()
        }

    def apply(self, changes: Changes) -> None:
        """Delete, which makes room, then write."""
        for version, fd in self._fds.items():
            entries = {
                a.packed: _ENDPOINT.pack(e.ifindex, e.owner)
                for a, e in changes.update.items()
                if a.version == version
            }
            _bpf.map_delete(fd, [a.packed for a in changes.delete if a.version == version])
            _bpf.map_update(fd, entries)
        # Any number that was not used lately ends what programs decided by the entries as they were.
        now = time.monotonic_ns() >> 10 & 0xFFFFFFFF
        _bpf.map_update(self._config, {bytes(4): struct.pack("=II", now, 0)})


def describe(entries: Mapping[Address, Endpoint], owner: int) -> str:
    """Return this owner's entries as text for the diff, one a line."""

    def device(ifindex: int) -> str:
        try:
            return socket.if_indextoname(ifindex)
        except OSError:
            return f"a device that is gone (index {ifindex})"

    lines = sorted(f"{a} at {device(e.ifindex)}\n" for a, e in entries.items() if e.owner == owner)
    return "".join(lines)


@dataclass(frozen=True)
class Outcome:
    """What changed, or would, and this owner's entries before and after."""

    changes: Changes
    before: str
    after: str


def run(pin_path: str, owner: str, endpoints: Sequence[Mapping[str, Any]], check: bool = False) -> Outcome:
    """Bring this owner's endpoints to the declared state; with ``check`` only say what would change.

    Raises BpfError before anything is written where something is wrong with what was declared.
    """
    number = owner_id(owner)
    desired = resolve(parse_endpoints(endpoints), owner)
    with contextlib.ExitStack() as files:
        maps = EndpointMaps(pin_path, files)
        current = maps.read()
        changes = plan(current, desired, number, maps.capacity)
        if changes and not check:
            maps.apply(changes)
            left = plan(maps.read(), desired, number, maps.capacity)
            if left:
                raise BpfError(
                    "endpoints: written, yet not as declared (does something else write this owner's"
                    f" entries?): {', '.join(str(a) for a in [*left.update, *left.delete])}"
                )
    return Outcome(changes, describe(current, number), describe(desired, number))
