# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that a compiled object and this collection agree on maps, structs and constants.

Private to this collection. An object of another version may have fields of the same total size in another
order: its programs would read other values than the collection writes.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._kernel.bpf import BpfError
from .._kernel.btf import Btf
from .._kernel.libbpf import BpfObject
from . import layout
from .layout import Record

SHOWN = 8  # differences in a message
MARK = "layout"  # the map that only the datapath's object has


def check(obj: BpfObject) -> None:
    """Raise BpfError, with all differences, unless this collection knows the object's maps and constants.

    Objects without the datapath's maps are not checked.
    """
    if MARK not in obj.map_types:
        return
    found = list(_maps(obj)) + list(_structs(obj.btf)) + list(_enums(obj.btf))
    if found:
        more = [f"and {len(found) - SHOWN} more differences"] if len(found) > SHOWN else []
        raise BpfError(
            f"object: '{obj.path}' and this collection are of different versions: "
            + "; ".join(found[:SHOWN] + more)
            + ". Compile the object again with this collection's role bpf_datapath."
        )


def _maps(obj: BpfObject) -> Iterator[str]:
    btf, types, layouts = obj.btf, obj.map_types, obj.layouts
    for name, (key, value) in layout.MAPS.items():
        if name not in types:
            yield f"map {name}: it is not in the object"
            continue
        yield from _record(f"map {name}", "key", btf, types[name][0], key)
        yield from _record(f"map {name}", "value", btf, types[name][1], value)
    for name, entries in layout.ENTRIES.items():
        there = layouts[name].max_entries if name in layouts else entries
        if there != entries:
            what = "layout number" if name == MARK else f"map {name}: max_entries"
            yield f"{what} is {there} in the object and {entries} in this collection"


def _structs(btf: Btf) -> Iterator[str]:
    for name, record in layout.STRUCTS.items():
        number = btf.struct_id(name)
        if number:
            yield from _record(f"struct {name}", "struct", btf, number, record)
        else:
            yield f"struct {name}: it is not in the object"


def _record(where: str, part: str, btf: Btf, number: int, record: Record) -> Iterator[str]:
    fields = btf.fields(number)
    for name, own in record.fields.items():
        if not name:  # a scalar has only a size
            continue
        field = fields.get(name)
        if field is None:
            yield f"{where}: field `{name}` of the {part} is not in the object"
        elif field.offset != own.offset:
            yield (
                f"{where}: field `{name}` is at offset {field.offset} in the object and at {own.offset}"
                " in this collection"
            )
        # bytes are declared without the size of an element
        elif field.size * field.count != own.size * own.count or own.size not in (1, field.size):
            yield (
                f"{where}: field `{name}` has {field.count} * {field.size} bytes in the object and"
                f" {own.count} * {own.size} in this collection"
            )
    size = btf.size(number)
    if size != record.size:
        yield f"{where}: the {part} has {size} bytes in the object and {record.size} in this collection"


def _enums(btf: Btf) -> Iterator[str]:
    for name, constants in layout.ENUMS.items():
        there = btf.enum(name)
        if not there:
            yield f"enum {name}: it is not in the object"
            continue
        for constant, value in constants.items():
            if there.get(constant) != value:
                given = there.get(constant, "missing")
                yield f"enum {name}: {constant} is {given} in the object and {value} in this collection"
    reasons = btf.enum("reason")
    for constant in layout.INBOUND_REASONS:
        if constant not in reasons:
            yield f"enum reason: {constant} is missing in the object"
    if reasons.get("REASON_MAX", 0) > layout.REASONS:
        yield f"enum reason: it has {reasons['REASON_MAX']} values, more than {layout.REASONS} counters"
