# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""BPF objects, programs, maps and links of the running kernel. Private to this collection.

ELF, BTF and relocation are libbpf's work (libbpf.so.1 by ctypes; nothing newer than its version 1.1).
Everything else is one bpf(2) system call a function.
Source: bpf(2), include/uapi/linux/bpf.h, libbpf.h of libbpf 1.1.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# bpf(2) has no wrapper in libc
SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}

ATTR_SIZE = 512  # bytes; more than any union bpf_attr (168 in Linux 6.18)

# enum bpf_cmd
BPF_MAP_CREATE = 0
BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM, BPF_MAP_GET_NEXT_KEY = 1, 2, 3, 4
BPF_OBJ_PIN, BPF_OBJ_GET = 6, 7
BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD = 13, 14, 15
BPF_PROG_QUERY, BPF_BTF_GET_FD_BY_ID = 16, 19
BPF_MAP_LOOKUP_BATCH, BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH = 24, 26, 27
BPF_LINK_CREATE, BPF_LINK_UPDATE, BPF_LINK_DETACH = 28, 29, 34

# enum bpf_attach_type, enum bpf_link_type
BPF_TCX_INGRESS, BPF_TCX_EGRESS, BPF_NETKIT_PRIMARY, BPF_NETKIT_PEER = 46, 47, 54, 55
BPF_LINK_TYPE_TCX, BPF_LINK_TYPE_NETKIT = 11, 13

# enum bpf_map_type
BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LPM_TRIE = 1, 2, 9, 11
BPF_MAP_TYPE_ARRAY_OF_MAPS = 12

BTF_KIND_ENUM, BTF_KIND_DATASEC = 6, 15
# Bytes after a struct btf_type: of each kind, and of each of its members (include/uapi/linux/btf.h)
_BTF_EXTRA = {1: 4, 3: 12, 14: 4, 17: 4}
_BTF_MEMBER = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
BPF_NOEXIST = 1  # of an update: only where there is no such entry
_BATCH = 4096  # entries
ENOTSUPP = 524  # the kernel's own, leaks out of map operations that a map type does not have

# Where modules look unless told otherwise, and whose what they make is
DEFAULT_PIN_PATH = "/sys/fs/bpf/podnet"
DEFAULT_OWNER = "site"

# An object that is loaded under another file name shall have maps of the same names.
OBJECT_NAME = b"podnet"
RODATA_MAP = "podnet.rodata"
LOG_SIZE = 8 << 20  # bytes for the verifier's log; before Linux 6.4 a longer one is an error
LOG_LINES = 20


class BpfError(Exception):
    """What was asked cannot be done; the text says why and what to do."""


# ---------------------------------------------------------------- the system call

_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attr: bytes | bytearray) -> int:
    """Call bpf(2) with ``attr`` (written back if it is a bytearray); return its result.

    Raises OSError with the kernel's errno.
    """
    try:
        number = SYSCALL_NUMBERS[platform.machine()]
    except KeyError:
        raise BpfError(f"no bpf(2) system call number is known for {platform.machine()}") from None
    # The kernel writes answers into any field of its union bpf_attr, beyond the size it was given too.
    buffer = ctypes.create_string_buffer(bytes(attr), ATTR_SIZE)
    result = int(_libc.syscall(number, command, ctypes.byref(buffer), len(attr)))
    code = ctypes.get_errno()
    if isinstance(attr, bytearray):
        attr[:] = buffer.raw[: len(attr)]
    if result < 0:
        remedy = ": bpf(2) needs root (become: true)" if code == errno.EPERM else ""
        raise OSError(code, os.strerror(code) + remedy)
    return result


def _address(buffer: Any) -> int:
    return ctypes.addressof(buffer)


@contextlib.contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close ``fd`` after the block."""
    try:
        yield fd
    finally:
        os.close(fd)


# ---------------------------------------------------------------- pins


def is_bpffs(path: str) -> bool:
    """Tell whether ``path``, or where it would be made, lies in a mounted BPF file system."""
    path = os.path.realpath(path)
    best, kind = "", ""
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        for line in f:
            # proc(5): the mount point is field 5; the type follows the separator "-"
            fields = line.split(" ")
            point = re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), fields[4])
            below = path == point or path.startswith(point.rstrip("/") + "/")
            if below and len(point) >= len(best):
                best, kind = point, fields[fields.index("-") + 1]
    return kind == "bpf"


def obj_pin(fd: int, path: str) -> None:
    """Pin a program, map or link at ``path``."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(BPF_OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


def obj_get(path: str) -> int:
    """Return a descriptor of what is pinned at ``path``."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return bpf(BPF_OBJ_GET, struct.pack("=QII", _address(name), 0, 0))


def is_link(fd: int) -> bool:
    """Tell a link's descriptor from a program's or map's."""
    return "link" in os.readlink(f"/proc/self/fd/{fd}")


# ---------------------------------------------------------------- what the kernel says of an object


@dataclass(frozen=True)
class ProgramInfo:
    """A loaded program (struct bpf_prog_info)."""

    id: int
    name: str
    tag: str
    map_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What must be equal for two maps to be interchangeable (sizes in bytes)."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True)
class MapInfo:
    """A map (struct bpf_map_info)."""

    id: int
    name: str
    layout: Layout


@dataclass(frozen=True)
class LinkInfo:
    """A tcx or netkit link (struct bpf_link_info); ``ifindex`` is 0 once its device is gone."""

    id: int
    type: int
    program_id: int
    ifindex: int
    attach_type: int


def _info(fd: int, buffer: Any) -> bytes:
    bpf(BPF_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, ctypes.sizeof(buffer), _address(buffer)))
    return bytes(buffer.raw)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode()


def program_info(fd: int) -> ProgramInfo:
    """Return what the kernel says of a program."""
    ids = (ctypes.c_uint32 * 64)()
    buffer = ctypes.create_string_buffer(80)
    struct.pack_into("=IQ", buffer, 52, len(ids), _address(ids))
    raw = _info(fd, buffer)
    number, tag = struct.unpack_from("=I8s", raw, 4)
    (count,) = struct.unpack_from("=I", raw, 52)
    return ProgramInfo(number, _text(raw[64:80]), tag.hex(), tuple(ids[: min(count, len(ids))]))


def program_enum(fd: int, name: str) -> dict[int, str]:
    """Return the members of an enum that a loaded program was compiled with, from its BTF, by their value."""
    number = struct.unpack_from("=I", _info(fd, ctypes.create_string_buffer(132)), 128)[0]
    with closing(bpf(BPF_BTF_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))) as btf:
        info = ctypes.create_string_buffer(16)  # struct bpf_btf_info: btf, btf_size, id
        size = struct.unpack_from("=I", _info(btf, info), 8)[0]
        raw = ctypes.create_string_buffer(size)
        struct.pack_into("=QI", info, 0, _address(raw), size)
        _info(btf, info)
    return _btf_enum(raw.raw, name)


def _btf_enum(raw: bytes, wanted: str) -> dict[int, str]:
    # struct btf_header: magic, version, flags, hdr_len, type_off, type_len, str_off, str_len
    header, types, size, strings = struct.unpack_from("=4xIIII", raw)

    def name(offset: int) -> str:
        start = header + strings + offset
        return raw[start : raw.index(b"\0", start)].decode()

    place = header + types
    while place < header + types + size:
        name_at, info, dummy = struct.unpack_from("=3I", raw, place)
        kind, count = info >> 24 & 0x1F, info & 0xFFFF
        place += 12
        if kind == BTF_KIND_ENUM and name(name_at) == wanted:
            members = struct.iter_unpack("=Ii", raw[place : place + 8 * count])
            return {value: name(at) for at, value in members}
        place += _BTF_EXTRA.get(kind, 0) + _BTF_MEMBER.get(kind, 0) * count
    return {}


def map_info(fd: int) -> MapInfo:
    """Return what the kernel says of a map."""
    raw = _info(fd, ctypes.create_string_buffer(40))
    kind, number, key, value, entries, flags = struct.unpack_from("=6I", raw)
    return MapInfo(number, _text(raw[24:40]), Layout(kind, key, value, entries, flags))


def link_info(fd: int) -> LinkInfo:
    """Return what the kernel says of a tcx or netkit link."""
    kind, number, program, ifindex, attach = struct.unpack_from(
        "=IIIxxxxII", _info(fd, ctypes.create_string_buffer(24))
    )
    return LinkInfo(number, kind, program, ifindex, attach)


def prog_get_fd_by_id(number: int) -> int:
    """Return a descriptor of the program with this id."""
    return bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))


def map_get_fd_by_id(number: int) -> int:
    """Return a descriptor of the map with this id."""
    return bpf(BPF_MAP_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))


def describe_program(number: int) -> str:
    """Return name and id of a program for an error message."""
    try:
        with closing(prog_get_fd_by_id(number)) as fd:
            return f"program '{program_info(fd).name}' (id {number})"
    except OSError:
        return f"program id {number}"


# ---------------------------------------------------------------- links


def link_create(program: int, ifindex: int, attach_type: int) -> int:
    """Attach a program to a device's tcx or netkit hook; the link lives as long as a descriptor or pin."""
    return bpf(BPF_LINK_CREATE, struct.pack("=IIII", program, ifindex, attach_type, 0))


def link_update(link: int, program: int) -> None:
    """Replace a link's program; each packet meets the old one or the new one."""
    bpf(BPF_LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0))


def link_detach(link: int) -> None:
    """Detach a link at once, whoever else holds it."""
    bpf(BPF_LINK_DETACH, struct.pack("=I", link))


def has_hook(ifindex: int, attach_type: int) -> bool:
    """Tell whether the kernel has this hook on this device (tcx: Linux 6.6, netkit: 6.7)."""
    try:
        bpf(BPF_PROG_QUERY, struct.pack("=IIIIQI", ifindex, attach_type, 0, 0, 0, 0))
    except OSError as e:
        if e.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENXIO):
            return False
        raise
    return True


# ---------------------------------------------------------------- entries of maps


def map_create(kind: int, key_size: int, value_size: int, entries: int, inner: int = 0) -> int:
    """Return a descriptor of a new map; ``inner`` is an example of what a map of maps holds."""
    return bpf(BPF_MAP_CREATE, struct.pack("=IIIIII", kind, key_size, value_size, entries, 0, inner))


def map_read(fd: int) -> dict[bytes, bytes]:
    """Return all entries of a hash, trie or array map whose values are not per processor."""
    layout = map_info(fd).layout
    items: dict[bytes, bytes] = {}
    try:
        for keys, values in _batches(fd, layout):
            for i in range(len(keys) // layout.key_size):
                key = keys[i * layout.key_size : (i + 1) * layout.key_size]
                items[key] = values[i * layout.value_size : (i + 1) * layout.value_size]
    except OSError as e:
        if items or e.errno not in (errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP):
            raise
        return _map_items(fd, layout)
    return items


def map_count(fd: int) -> int:
    """Return how many entries a hash map has now."""
    layout = map_info(fd).layout
    return sum(len(keys) for keys, dummy in _batches(fd, layout)) // layout.key_size


def array_read(fd: int) -> bytes:
    """Return all elements of an array whose values are not per processor."""
    return b"".join(values for dummy, values in _batches(fd, map_info(fd).layout))


def _batches(fd: int, layout: Layout) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of some entries, until there are none left."""
    count = min(layout.max_entries, _BATCH)
    # where the next batch begins: a bucket's number for hashes, else a key
    place = ctypes.create_string_buffer(max(layout.key_size, 4))
    start = 0
    while True:
        keys = ctypes.create_string_buffer(count * layout.key_size)
        values = ctypes.create_string_buffer(count * layout.value_size)
        batch = (start, _address(place), _address(keys), _address(values), count, fd, 0, 0)
        attr = bytearray(struct.pack("=QQQQIIQQ", *batch))
        more = True
        try:
            bpf(BPF_MAP_LOOKUP_BATCH, attr)
        except OSError as e:
            if e.errno == errno.ENOSPC:  # a bucket has more entries than there is room for
                count *= 2
                continue
            if e.errno != errno.ENOENT:
                raise
            more = False  # and the kernel has told how many there were
        (got,) = struct.unpack_from("=I", attr, 32)
        yield keys.raw[: got * layout.key_size], values.raw[: got * layout.value_size]
        if not more:
            return
        start = _address(place)


def _map_items(fd: int, layout: Layout) -> dict[bytes, bytes]:
    """Return all entries of a map whose type has no batches."""
    items: dict[bytes, bytes] = {}
    key = ctypes.create_string_buffer(layout.key_size)
    value = ctypes.create_string_buffer(layout.value_size)
    previous = 0  # no key: start at the first
    while True:
        try:
            bpf(BPF_MAP_GET_NEXT_KEY, struct.pack("=IxxxxQQQ", fd, previous, _address(key), 0))
        except OSError as e:
            if e.errno == errno.ENOENT:
                return items
            raise
        previous = _address(key)
        try:
            bpf(BPF_MAP_LOOKUP_ELEM, struct.pack("=IxxxxQQQ", fd, _address(key), _address(value), 0))
        except OSError as e:
            if e.errno != errno.ENOENT:  # deleted meanwhile
                raise
            continue
        items[key.raw] = value.raw


def map_lookup(fd: int, key: bytes, value_size: int) -> bytes:
    """Return one entry; ``value_size`` counts all processors of a per-CPU map (8-byte steps each)."""
    value = ctypes.create_string_buffer(value_size)
    where = ctypes.create_string_buffer(key, len(key))
    bpf(BPF_MAP_LOOKUP_ELEM, struct.pack("=IxxxxQQQ", fd, _address(where), _address(value), 0))
    return value.raw


def map_update(fd: int, items: Mapping[bytes, bytes]) -> None:
    """Write entries: in one system call, or one each where this map type has no batches."""
    if not items:
        return
    keys, values = b"".join(items), b"".join(items.values())
    if _batch(BPF_MAP_UPDATE_BATCH, fd, keys, values, len(items)):
        return
    for key, value in items.items():
        map_update_one(fd, key, value)


def map_update_one(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Write one entry."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    bpf(BPF_MAP_UPDATE_ELEM, struct.pack("=IxxxxQQQ", fd, _address(k), _address(v), flags))


def map_delete(fd: int, keys: Sequence[bytes]) -> None:
    """Delete entries: in one system call, or one each where this map type has no batches."""
    if not keys or _batch(BPF_MAP_DELETE_BATCH, fd, b"".join(keys), b"", len(keys)):
        return
    for key in keys:
        k = ctypes.create_string_buffer(key, len(key))
        bpf(BPF_MAP_DELETE_ELEM, struct.pack("=IxxxxQQQ", fd, _address(k), 0, 0))


def _batch(command: int, fd: int, keys: bytes, values: bytes, count: int) -> bool:
    k = ctypes.create_string_buffer(keys, len(keys))
    v = ctypes.create_string_buffer(values, max(len(values), 1))
    try:
        bpf(command, struct.pack("=QQQQIIQQ", 0, 0, _address(k), _address(v), count, fd, 0, 0))
    except OSError as e:
        if e.errno in (errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP):
            return False
        raise
    return True


def possible_cpus() -> int:
    """Return how many values an entry of a per-CPU map has."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as f:
        ranges = [part.partition("-") for part in f.read().strip().split(",")]
    return sum(int(last or first) - int(first) + 1 for first, dummy, last in ranges)


def rodata_of(program: ProgramInfo) -> bytes:
    """Return the read-only data that a loaded program of ours was loaded with."""
    for number in program.map_ids:
        with closing(map_get_fd_by_id(number)) as fd:
            info = map_info(fd)
            if info.name == RODATA_MAP:
                return map_lookup(fd, bytes(4), info.layout.value_size)
    return b""


# ---------------------------------------------------------------- libbpf


class _OpenOptions(ctypes.Structure):
    """struct bpf_object_open_opts of libbpf 1.1; later versions only append."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("object_name", ctypes.c_char_p),
        ("relaxed_maps", ctypes.c_bool),
        ("pin_root_path", ctypes.c_char_p),
        ("reserved", ctypes.c_uint32),
        ("kconfig", ctypes.c_char_p),
        ("btf_custom_path", ctypes.c_char_p),
        ("kernel_log_buf", ctypes.c_void_p),
        ("kernel_log_size", ctypes.c_size_t),
        ("kernel_log_level", ctypes.c_uint32),
    ]


class _TcHook(ctypes.Structure):
    """struct bpf_tc_hook."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("attach_point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    ]


class _TcOptions(ctypes.Structure):
    """struct bpf_tc_opts."""

    _fields_ = [
        ("sz", ctypes.c_size_t),
        ("prog_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("prog_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    ]


TC_INGRESS, TC_EGRESS = 1, 2  # enum bpf_tc_attach_point
_TC_REPLACE = 1  # enum bpf_tc_flags

# Functions that return something else than int, by name
_POINTERS = (
    "bpf_object__open_file",
    "bpf_object__next_map",
    "bpf_object__next_program",
    "bpf_object__btf",
    "bpf_map__initial_value",
    "btf__type_by_id",
)
_STRINGS = ("bpf_map__name", "bpf_program__name", "btf__name_by_offset")

_PRINTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _Libbpf:
    """libbpf.so.1, and what it last had to say."""

    def __init__(self) -> None:
        try:
            self.cdll = ctypes.CDLL("libbpf.so.1", use_errno=True)
        except OSError as e:
            raise BpfError(
                f"libbpf.so.1 cannot be loaded ({e}): install libbpf 1.x (Debian: apt install libbpf1)"
            ) from e
        for name in _POINTERS:
            getattr(self.cdll, name).restype = ctypes.c_void_p
        for name in _STRINGS:
            getattr(self.cdll, name).restype = ctypes.c_char_p
        self.messages: list[str] = []
        # Kept for as long as libbpf may call it.
        self._printer = _PRINTER(self._print)
        self.cdll.libbpf_set_print(self._printer)

    def _print(self, level: int, template: bytes, arguments: int) -> int:
        # A va_list reaches a function as a pointer on both architectures.
        if level == 0:  # LIBBPF_WARN
            buffer = ctypes.create_string_buffer(1024)
            _libc.vsnprintf(buffer, len(buffer), template, ctypes.c_void_p(arguments))
            self.messages.append(buffer.value.decode(errors="replace").strip())
        return 0


_loaded_library: list[_Libbpf] = []


def _libbpf() -> _Libbpf:
    if not _loaded_library:
        _loaded_library.append(_Libbpf())
    return _loaded_library[0]


class BpfObject:
    """A compiled object: opened by the constructor, loaded by ``load``, gone from the kernel by ``close``
    but for what was pinned or attached meanwhile.
    """

    def __init__(self, path: str, rodata: Mapping[str, int] | None = None) -> None:
        """Open ``path`` and set variables of its .rodata.

        Raises BpfError for a missing or unreadable object and for an unknown or unfitting variable.
        """
        self.path = path
        self._bpf = _libbpf()
        self._lib = self._bpf.cdll
        self._log = ctypes.create_string_buffer(LOG_SIZE)
        options = _OpenOptions(
            sz=ctypes.sizeof(_OpenOptions),
            object_name=OBJECT_NAME,
            kernel_log_buf=_address(self._log),
            kernel_log_size=LOG_SIZE,
        )
        if not os.path.isfile(path):
            raise BpfError(f"object: there is no file '{path}'; compile and copy the programs first")
        self._bpf.messages.clear()
        handle = self._lib.bpf_object__open_file(os.fsencode(path), ctypes.byref(options))
        if not handle:
            code = ctypes.get_errno()
            said = "; ".join(self._bpf.messages) or os.strerror(code)
            raise BpfError(f"object: '{path}' is no BPF object that libbpf can read: {said}")
        self._handle = ctypes.c_void_p(handle)
        self._maps = dict(self._each("bpf_object__next_map", "bpf_map__name"))
        self._programs = dict(self._each("bpf_object__next_program", "bpf_program__name"))
        try:
            self._set_rodata(rodata or {})
        except BpfError:
            self.close()
            raise

    def __enter__(self) -> BpfObject:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the object and its descriptors."""
        if self._handle:
            self._lib.bpf_object__close(self._handle)
            self._handle = ctypes.c_void_p(None)

    def _each(self, advance: str, name_of: str) -> Iterator[tuple[str, ctypes.c_void_p]]:
        item = ctypes.c_void_p(None)
        while True:
            item = ctypes.c_void_p(getattr(self._lib, advance)(self._handle, item))
            if not item:
                return
            yield getattr(self._lib, name_of)(item).decode(), item

    @property
    def rodata(self) -> bytes:
        """The read-only data as it will be, or was, loaded."""
        size = ctypes.c_size_t()
        if RODATA_MAP not in self._maps:
            return b""
        data = self._lib.bpf_map__initial_value(self._maps[RODATA_MAP], ctypes.byref(size))
        return ctypes.string_at(data, size.value)

    def _variables(self) -> dict[str, tuple[int, int]]:
        """Offset and size in bytes of each .rodata variable, from the object's BTF."""
        btf = ctypes.c_void_p(self._lib.bpf_object__btf(self._handle))
        section = self._lib.btf__find_by_name_kind(btf, b".rodata", BTF_KIND_DATASEC) if btf else -1
        if section < 0:
            return {}
        # struct btf_type, then a struct btf_var_secinfo for each variable (include/uapi/linux/btf.h)
        kind = self._lib.btf__type_by_id(btf, section)
        count = struct.unpack("=3I", ctypes.string_at(kind, 12))[1] & 0xFFFF
        found = {}
        for i in range(count):
            number, offset, size = struct.unpack("=3I", ctypes.string_at(kind + 12 * (i + 1), 12))
            name_at = struct.unpack("=I", ctypes.string_at(self._lib.btf__type_by_id(btf, number), 4))[0]
            found[self._lib.btf__name_by_offset(btf, name_at).decode()] = (offset, size)
        return found

    def _set_rodata(self, values: Mapping[str, int]) -> None:
        variables = self._variables()
        data = bytearray(self.rodata)
        for name, value in values.items():
            if name not in variables:
                known = ", ".join(sorted(variables)) or "none"
                raise BpfError(f"rodata: '{self.path}' has no variable '{name}'; it has {known}")
            offset, size = variables[name]
            if size not in (1, 2, 4, 8) or not 0 <= value < 1 << (8 * size):
                raise BpfError(f"rodata: {name}={value} does not fit the variable's {size} bytes")
            # the byte order of the machine, as the compiler laid it out
            data[offset : offset + size] = struct.pack("=" + "BHIQ"[size.bit_length() - 1], value)
        if values and self._lib.bpf_map__set_initial_value(
            self._maps[RODATA_MAP], bytes(data), ctypes.c_size_t(len(data))
        ):
            raise BpfError(f"rodata: libbpf refuses to set the read-only data of '{self.path}'")

    @property
    def layouts(self) -> dict[str, Layout]:
        """The layout of each map that is the object's own (not .rodata and the like)."""
        lib = self._lib
        return {
            name: Layout(
                lib.bpf_map__type(m),
                lib.bpf_map__key_size(m),
                lib.bpf_map__value_size(m),
                lib.bpf_map__max_entries(m),
                lib.bpf_map__map_flags(m),
            )
            for name, m in self._maps.items()
            if not name.startswith(OBJECT_NAME.decode() + ".")
        }

    def load(self, maps: Mapping[str, int] | None = None) -> None:
        """Load all programs into the kernel, taking ``maps`` (descriptors by name) instead of new ones.

        Raises BpfError with the end of the verifier's log where the kernel refuses a program.
        """
        for name, fd in (maps or {}).items():
            code = self._lib.bpf_map__reuse_fd(self._maps[name], fd)
            if code:
                raise BpfError(f"map '{name}' cannot be taken over: {os.strerror(-code)}")
        self._bpf.messages.clear()
        code = self._lib.bpf_object__load(self._handle)
        if not code:
            return
        said = "\n".join(self._bpf.messages)
        log = self._log.value.decode(errors="replace").strip().splitlines()
        failed = re.search(r"prog '([^']+)'", said)
        if failed and log:
            raise BpfError(
                f"object: the kernel's verifier rejects program '{failed[1]}' of '{self.path}'"
                f" ({os.strerror(-code)}). The end of its log:\n" + "\n".join(log[-LOG_LINES:])
            )
        remedy = " (root is needed)" if code == -errno.EPERM else ""
        detail = "\n".join(["", *said.splitlines()[-LOG_LINES:]])
        raise BpfError(f"object: '{self.path}' cannot be loaded: {os.strerror(-code)}{remedy}{detail}")

    @property
    def programs(self) -> dict[str, int]:
        """Descriptor of each loaded program; the object owns it."""
        return {name: self._lib.bpf_program__fd(p) for name, p in self._programs.items()}

    @property
    def maps(self) -> dict[str, int]:
        """Descriptor of each loaded map but the internal ones; the object owns it."""
        return {name: self._lib.bpf_map__fd(self._maps[name]) for name in self.layouts}


# ---------------------------------------------------------------- clsact filters


def _tc_hook(ifindex: int, point: int) -> _TcHook:
    return _TcHook(sz=ctypes.sizeof(_TcHook), ifindex=ifindex, attach_point=point)


def _tc_check(result: int) -> None:
    if result < 0:
        raise OSError(-result, "; ".join([os.strerror(-result), *_libbpf().messages[-1:]]))


def clsact_create(ifindex: int) -> bool:
    """Give a device the clsact qdisc; return False where it has it already."""
    bpf_ = _libbpf()
    result = bpf_.cdll.bpf_tc_hook_create(ctypes.byref(_tc_hook(ifindex, TC_INGRESS | TC_EGRESS)))
    if result != -errno.EEXIST:
        _tc_check(result)
    return bool(result == 0)


def clsact_destroy(ifindex: int) -> None:
    """Take the clsact qdisc from a device, with all filters in it."""
    _tc_check(_libbpf().cdll.bpf_tc_hook_destroy(ctypes.byref(_tc_hook(ifindex, TC_INGRESS | TC_EGRESS))))


def clsact_attach(
    ifindex: int, point: int, program: int, priority: int, handle: int, replace: bool = False
) -> None:
    """Add a direct-action BPF filter at this place, or replace the one there atomically."""
    options = _TcOptions(
        sz=ctypes.sizeof(_TcOptions),
        prog_fd=program,
        flags=_TC_REPLACE if replace else 0,
        handle=handle,
        priority=priority,
    )
    _tc_check(_libbpf().cdll.bpf_tc_attach(ctypes.byref(_tc_hook(ifindex, point)), ctypes.byref(options)))


def clsact_detach(ifindex: int, point: int, priority: int, handle: int) -> None:
    """Remove the filter at this place."""
    options = _TcOptions(sz=ctypes.sizeof(_TcOptions), handle=handle, priority=priority)
    _tc_check(_libbpf().cdll.bpf_tc_detach(ctypes.byref(_tc_hook(ifindex, point)), ctypes.byref(options)))
