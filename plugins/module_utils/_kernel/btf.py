# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse BTF: structs and enums of an object file or a loaded program.

Source: include/uapi/linux/btf.h, Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# BTF_KIND_*
PTR, ARRAY, STRUCT, UNION, ENUM, ENUM64 = 2, 3, 4, 5, 6, 19
_REFERENCES = (8, 9, 10, 11, 14, 18)  # typedef, volatile, const, restrict, variable, type tag
DATASEC = 15
# Bytes that follow struct btf_type: per type and per member
_EXTRA = {1: 4, ARRAY: 12, 14: 4, 17: 4}
_MEMBER = {STRUCT: 12, UNION: 12, ENUM: 8, 13: 8, DATASEC: 12, ENUM64: 12}


@dataclass(frozen=True)
class Field:
    """A member of a struct: offset and size of an element in bytes, and number of elements."""

    offset: int
    size: int
    count: int = 1


@dataclass(frozen=True)
class _Type:
    name: str
    kind: int
    size: int  # in bytes; for references the id of the target type
    members: int
    bitfields: bool
    data: bytes  # follows struct btf_type


class Btf:
    """The types of a BTF blob, by their id."""

    def __init__(self, raw: bytes) -> None:
        # struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
        header, types, size, self._strings = struct.unpack_from("=4xIIII", raw)
        self._strings += header
        self._raw = raw
        self._types = [_Type("void", 0, 0, 0, False, b"")]
        offset, end = header + types, header + types + size
        while offset < end:
            name, info, type_size = struct.unpack_from("=3I", raw, offset)
            kind, members = info >> 24 & 0x1F, info & 0xFFFF
            offset += 12
            length = _EXTRA.get(kind, 0) + _MEMBER.get(kind, 0) * members
            data = raw[offset : offset + length]
            self._types.append(_Type(self._name(name), kind, type_size, members, bool(info >> 31), data))
            offset += length

    def _name(self, offset: int) -> str:
        start = self._strings + offset
        return self._raw[start : self._raw.index(b"\0", start)].decode()

    def _resolve(self, number: int) -> int:
        """Return the id of the type that a reference, or a section with one variable, refers to."""
        while True:
            one = self._types[number]
            if one.kind in _REFERENCES:
                number = one.size
            elif one.kind == DATASEC and one.members == 1:
                number = struct.unpack_from("=I", one.data)[0]
            else:
                return number

    def struct_id(self, name: str) -> int:
        """Return the type id of a struct; 0 if it does not exist."""
        return next((i for i, t in enumerate(self._types) if t.kind == STRUCT and t.name == name), 0)

    def size(self, number: int) -> int:
        """Return the size of a type in bytes."""
        one = self._types[self._resolve(number)]
        if one.kind == PTR:
            return 8
        if one.kind == ARRAY:
            element, dummy, count = struct.unpack("=3I", one.data)
            return self.size(element) * int(count)
        return one.size

    def fields(self, number: int) -> dict[str, Field]:
        """Return the fields of a struct or union.

        Fields of anonymous members are included. ``a.b`` is the field ``b`` of the field ``a``, of the first
        element if ``a`` is an array. A bit field has the offset of its first byte.
        """
        one = self._types[self._resolve(number)]
        found: dict[str, Field] = {}
        if one.kind not in (STRUCT, UNION):
            return found
        for name_offset, inner, bits in struct.iter_unpack("=3I", one.data):
            name = self._name(name_offset)
            offset = (bits & 0xFFFFFF if one.bitfields else bits) // 8
            element, count = self._resolve(inner), 1
            while self._types[element].kind == ARRAY:
                element, dummy, length = struct.unpack("=3I", self._types[element].data)
                element, count = self._resolve(element), count * int(length)
            if name:
                found[name] = Field(offset, self.size(element), count)
            for inner_name, field in self.fields(element).items():
                path = f"{name}.{inner_name}" if name else inner_name
                found[path] = Field(offset + field.offset, field.size, field.count)
        return found

    def enum(self, name: str) -> dict[str, int]:
        """Return the values of an enum of at most 32 bits by name; empty if there is no such enum."""
        for one in self._types:
            if one.kind == ENUM and one.name == name:
                return {self._name(at): value for at, value in struct.iter_unpack("=Ii", one.data)}
        return {}
