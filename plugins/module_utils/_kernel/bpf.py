# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrap the commands of bpf(2) for programs, maps and links.

libbpf.py loads object files.
Source: bpf(2), include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.plan import Problem
from .mounts import filesystem

# bpf(2) has no wrapper in libc
SYSCALL_NUMBERS = {"x86_64": 321, "aarch64": 280}

ATTR_SIZE = 512  # bytes; more than any union bpf_attr (168 in Linux 6.18)

# enum bpf_cmd
BPF_MAP_CREATE = 0
BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM, BPF_MAP_GET_NEXT_KEY = 1, 2, 3, 4
BPF_PROG_LOAD, BPF_OBJ_PIN, BPF_OBJ_GET = 5, 6, 7
BPF_PROG_GET_FD_BY_ID, BPF_MAP_GET_FD_BY_ID, BPF_OBJ_GET_INFO_BY_FD = 13, 14, 15
BPF_PROG_QUERY, BPF_BTF_GET_FD_BY_ID = 16, 19
BPF_MAP_LOOKUP_BATCH, BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH = 24, 26, 27
BPF_LINK_CREATE, BPF_LINK_UPDATE, BPF_ITER_CREATE, BPF_LINK_DETACH = 28, 29, 33, 34

# enum bpf_attach_type, enum bpf_link_type
BPF_TCX_INGRESS, BPF_TCX_EGRESS, BPF_NETKIT_PRIMARY, BPF_NETKIT_PEER = 46, 47, 54, 55
BPF_LINK_TYPE_CGROUP, BPF_LINK_TYPE_TCX, BPF_LINK_TYPE_NETKIT = 3, 11, 13
BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT = 10, 11
BPF_CGROUP_UDP4_SENDMSG, BPF_CGROUP_UDP6_SENDMSG = 14, 15
BPF_CGROUP_UDP4_RECVMSG, BPF_CGROUP_UDP6_RECVMSG = 19, 20
BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_GETPEERNAME = 29, 30
BPF_TRACE_ITER = 28

# enum bpf_map_type
BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_LRU_HASH, BPF_MAP_TYPE_LPM_TRIE = 1, 2, 9, 11
BPF_MAP_TYPE_ARRAY_OF_MAPS = 12

BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_PROG_TYPE_TRACING = 3, 18, 26
BPF_F_ALLOW_MULTI = 2  # flag of an attachment to a cgroup
BPF_CALL, BPF_EXIT, BPF_MOV = 0x85, 0x95, 0xB7  # opcodes; of a constant to a register
# The newest helpers that programs of devices call (enum bpf_func_id): Linux 5.10 to 5.18, or backported.
HELPERS = {
    "bpf_redirect_neigh": 152,
    "bpf_redirect_peer": 155,
    "bpf_ktime_get_coarse_ns": 160,
    "bpf_check_mtu": 163,
    "bpf_skb_set_tstamp": 192,
}
# The newest one that programs of sockets call: since Linux 6.1 at all hooks that need it
SOCKET_HELPERS = {"bpf_set_retval": 187}

BPF_NOEXIST = 1  # update flag: fail if the key exists
_BATCH = 4096  # entries
_ITERATOR_BUFFER = 1 << 15  # bytes; the kernel returns at most that much (kernel/bpf/bpf_iter.c)
ENOTSUPP = 524  # include/linux/errno.h; map operations that a map type does not support return it

# Defaults of the modules
DEFAULT_PIN_PATH = "/sys/fs/bpf/podnet"
DEFAULT_OWNER = "site"

OBJECT_NAME = "podnet"  # independent of the file name, so that names of maps do not change
RODATA_MAP = f"{OBJECT_NAME}.rodata"


class BpfError(Problem):
    """A request that the BPF subsystem or libbpf rejects."""


# ---------------------------------------------------------------- the system call

_libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attr: bytes | bytearray) -> int:
    """Call bpf(2) and return its result; if ``attr`` is a bytearray, update it with the kernel's output.

    Raises OSError with the kernel's errno, and BpfError on an unsupported architecture.
    """
    try:
        number = SYSCALL_NUMBERS[platform.machine()]
    except KeyError:
        raise BpfError(f"bpf(2) is not supported on {platform.machine()}; use x86_64 or aarch64") from None
    # The kernel may write output fields of union bpf_attr beyond the size that was passed.
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
    """Return whether ``path``, which need not exist, is on a mounted BPF file system."""
    return filesystem(path) == "bpf"


def obj_pin(fd: int, path: str) -> None:
    """Pin a program, map or link at ``path``."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(BPF_OBJ_PIN, struct.pack("=QII", _address(name), fd, 0))


def obj_get(path: str) -> int:
    """Return a file descriptor of the object pinned at ``path``."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return bpf(BPF_OBJ_GET, struct.pack("=QII", _address(name), 0, 0))


def is_link(fd: int) -> bool:
    """Return whether a file descriptor is of a BPF link, not of a program or map."""
    return "link" in os.readlink(f"/proc/self/fd/{fd}")


# ---------------------------------------------------------------- object information


@dataclass(frozen=True)
class ProgramInfo:
    """A loaded program (struct bpf_prog_info)."""

    id: int
    name: str
    tag: str
    map_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """The properties that must be equal to replace one map with another. Sizes are in bytes."""

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
    """A link (struct bpf_link_info) of a device (tcx, netkit) or cgroup.

    ``target`` is the ifindex of the device or the ID of the cgroup, 0 after that was deleted.
    """

    id: int
    type: int
    program_id: int
    target: int
    attach_type: int


def _info(fd: int, buffer: Any) -> bytes:
    bpf(BPF_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, ctypes.sizeof(buffer), _address(buffer)))
    return bytes(buffer.raw)


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode()


def program_info(fd: int) -> ProgramInfo:
    """Return struct bpf_prog_info of a program."""
    ids = (ctypes.c_uint32 * 64)()
    buffer = ctypes.create_string_buffer(80)
    struct.pack_into("=IQ", buffer, 52, len(ids), _address(ids))
    raw = _info(fd, buffer)
    number, tag = struct.unpack_from("=I8s", raw, 4)
    (count,) = struct.unpack_from("=I", raw, 52)
    return ProgramInfo(number, _text(raw[64:80]), tag.hex(), tuple(ids[: min(count, len(ids))]))


def program_btf(fd: int) -> bytes:
    """Return the BTF of a loaded program, which ``btf.Btf`` reads."""
    number = struct.unpack_from("=I", _info(fd, ctypes.create_string_buffer(132)), 128)[0]
    with closing(bpf(BPF_BTF_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))) as btf:
        info = ctypes.create_string_buffer(16)  # struct bpf_btf_info: btf, btf_size, id
        size = struct.unpack_from("=I", _info(btf, info), 8)[0]
        raw = ctypes.create_string_buffer(size)
        struct.pack_into("=QI", info, 0, _address(raw), size)
        _info(btf, info)
    return raw.raw


def map_info(fd: int) -> MapInfo:
    """Return struct bpf_map_info of a map."""
    raw = _info(fd, ctypes.create_string_buffer(40))
    kind, number, key, value, entries, flags = struct.unpack_from("=6I", raw)
    return MapInfo(number, _text(raw[24:40]), Layout(kind, key, value, entries, flags))


def link_info(fd: int) -> LinkInfo:
    """Return struct bpf_link_info of a tcx, netkit or cgroup link."""
    raw = _info(fd, ctypes.create_string_buffer(32))
    kind, number, program = struct.unpack_from("=III", raw)
    target, attach = struct.unpack_from("=QI" if kind == BPF_LINK_TYPE_CGROUP else "=II", raw, 16)
    return LinkInfo(number, kind, program, target, attach)


def prog_get_fd_by_id(number: int) -> int:
    """Return a file descriptor of the program with this id."""
    return bpf(BPF_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))


def map_get_fd_by_id(number: int) -> int:
    """Return a file descriptor of the map with this id."""
    return bpf(BPF_MAP_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))


def describe_program(number: int) -> str:
    """Return name and id of a program for an error message."""
    try:
        with closing(prog_get_fd_by_id(number)) as fd:
            return f"program '{program_info(fd).name}' (id {number})"
    except OSError:
        return f"program id {number}"


# ---------------------------------------------------------------- links


def link_create(program: int, target: int, attach_type: int) -> int:
    """Attach a program to a hook of a device or cgroup; return the link's file descriptor.

    ``target`` is an ifindex, or the file descriptor of a cgroup's directory. Other programs of a cgroup stay
    attached and run as well. The kernel detaches the program when the last file descriptor is closed and no
    pin exists.
    """
    return bpf(BPF_LINK_CREATE, struct.pack("=IIII", program, target, attach_type, 0))


def link_update(link: int, program: int) -> None:
    """Replace the program of a link atomically."""
    bpf(BPF_LINK_UPDATE, struct.pack("=IIII", link, program, 0, 0))


def link_detach(link: int) -> None:
    """Detach a link at once, even if other file descriptors or pins of it exist."""
    bpf(BPF_LINK_DETACH, struct.pack("=I", link))


def iterate(program: int, target: int) -> bytes:
    """Run an iterator's program for all elements of the map ``target``; return what it writes."""
    info = ctypes.create_string_buffer(struct.pack("=I", target), 4)  # union bpf_iter_link_info
    attr = struct.pack("=IIIIQI", program, 0, BPF_TRACE_ITER, 0, _address(info), len(info))
    with (
        closing(bpf(BPF_LINK_CREATE, attr)) as link,
        closing(bpf(BPF_ITER_CREATE, struct.pack("=II", link, 0))) as fd,
    ):
        return b"".join(_parts(fd))


def _parts(fd: int) -> Iterator[bytes]:
    """Yield what can be read from an iterator, until its end."""
    while True:
        try:
            part = os.read(fd, _ITERATOR_BUFFER)
        except BlockingIOError:  # after a million elements without output
            continue
        if not part:
            return
        yield part


def has_hook(ifindex: int, attach_type: int) -> bool:
    """Return whether the kernel supports this hook on this device (tcx: Linux 6.6, netkit: 6.7)."""
    try:
        bpf(BPF_PROG_QUERY, struct.pack("=IIIIQI", ifindex, attach_type, 0, 0, 0, 0))
    except OSError as e:
        if e.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENXIO):
            return False
        raise
    return True


def cgroup_programs(fd: int, attach_type: int) -> tuple[list[int], bool]:
    """Return the IDs of the programs at a hook of a cgroup, and whether it takes further ones."""
    ids = (ctypes.c_uint32 * 64)()  # the kernel's limit, BPF_CGROUP_MAX_PROGS
    attr = bytearray(struct.pack("=IIIIQI", fd, attach_type, 0, 0, _address(ids), len(ids)))
    bpf(BPF_PROG_QUERY, attr)
    flags, _programs, count = struct.unpack_from("=IQI", attr, 12)
    return list(ids[:count]), not count or bool(flags & BPF_F_ALLOW_MULTI)


def has_helper(number: int) -> bool:
    """Return whether a tc program may call a helper, given by its number in enum bpf_func_id.

    Loads a program that calls the helper without arguments. The verifier returns EINVAL if the helper is
    unknown and EACCES for the missing arguments (kernel/bpf/verifier.c, check_helper_call()).
    """
    code = _instruction(BPF_CALL, constant=number) + _instruction(BPF_EXIT)
    return _load_error(code, BPF_PROG_TYPE_SCHED_CLS) != errno.EINVAL


def has_socket_programs() -> bool:
    """Return whether the kernel supports programs at connect() that set the error that the caller gets.

    This requires CONFIG_CGROUP_BPF and Linux 6.1.
    """
    code = b"".join(
        (
            _instruction(BPF_MOV, register=1),
            _instruction(BPF_CALL, constant=SOCKET_HELPERS["bpf_set_retval"]),
            _instruction(BPF_MOV, constant=1),  # allow
            _instruction(BPF_EXIT),
        )
    )
    return _load_error(code, BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT) == 0


def has_iterator(target: int) -> bool:
    """Return whether the kernel supports programs of an iterator, given by its BTF type id.

    This requires CONFIG_BPF_EVENTS.
    """
    code = _instruction(BPF_MOV) + _instruction(BPF_EXIT)
    try:
        return _load_error(code, BPF_PROG_TYPE_TRACING, BPF_TRACE_ITER, target) == 0
    except OSError:  # a security module rejects it
        return False


def _instruction(opcode: int, register: int = 0, constant: int = 0) -> bytes:
    """Return struct bpf_insn, of which ``register`` is the destination."""
    return struct.pack("=BBhi", opcode, register, 0, constant)


def _load_error(code: bytes, program_type: int, attach_type: int = 0, target: int = 0) -> int:
    """Load a program and unload it; return 0, or EINVAL or EACCES if the verifier rejects it."""
    buffer, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    attr = struct.pack(
        "=IIQQ44xI36xI",
        *(program_type, len(code) // 8, _address(buffer), _address(licence), attach_type, target),
    )
    try:
        os.close(bpf(BPF_PROG_LOAD, attr))
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.EACCES):
            raise
        return e.errno or errno.EINVAL
    return 0


# ---------------------------------------------------------------- map entries


def map_create(kind: int, key_size: int, value_size: int, entries: int, inner: int = 0) -> int:
    """Create a map and return its file descriptor; ``inner`` is the inner_map_fd of a map of maps."""
    return bpf(BPF_MAP_CREATE, struct.pack("=IIIIII", kind, key_size, value_size, entries, 0, inner))


def map_read(fd: int) -> dict[bytes, bytes]:
    """Return all entries of a hash, LPM trie or array map. Per-CPU maps are not supported."""
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
    """Return the number of entries of a hash map."""
    layout = map_info(fd).layout
    return sum(len(keys) for keys, dummy in _batches(fd, layout)) // layout.key_size


def array_read(fd: int) -> bytes:
    """Return all elements of an array map. Per-CPU arrays are not supported."""
    return b"".join(values for dummy, values in _batches(fd, map_info(fd).layout))


def _batches(fd: int, layout: Layout) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of all entries, one batch at a time."""
    count = min(layout.max_entries, _BATCH)
    # Start of the next batch: a bucket number for hash maps, otherwise a key.
    position = ctypes.create_string_buffer(max(layout.key_size, 4))
    start = 0
    while True:
        keys = ctypes.create_string_buffer(count * layout.key_size)
        values = ctypes.create_string_buffer(count * layout.value_size)
        batch = (start, _address(position), _address(keys), _address(values), count, fd, 0, 0)
        attr = bytearray(struct.pack("=QQQQIIQQ", *batch))
        more = True
        try:
            bpf(BPF_MAP_LOOKUP_BATCH, attr)
        except OSError as e:
            if e.errno == errno.ENOSPC:  # the next bucket has more entries than the buffer holds
                count *= 2
                continue
            if e.errno != errno.ENOENT:
                raise
            more = False  # the last batch; the kernel has set its count
        (returned,) = struct.unpack_from("=I", attr, 32)
        yield keys.raw[: returned * layout.key_size], values.raw[: returned * layout.value_size]
        if not more:
            return
        start = _address(position)


def _map_items(fd: int, layout: Layout) -> dict[bytes, bytes]:
    """Return all entries of a map whose type does not support batch operations."""
    items: dict[bytes, bytes] = {}
    key = ctypes.create_string_buffer(layout.key_size)
    value = ctypes.create_string_buffer(layout.value_size)
    previous = 0  # NULL returns the first key
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
    """Return the value of one entry.

    For a per-CPU map, ``value_size`` is the sum for all possible CPUs, each value rounded up to 8 bytes.
    """
    value = ctypes.create_string_buffer(value_size)
    where = ctypes.create_string_buffer(key, len(key))
    bpf(BPF_MAP_LOOKUP_ELEM, struct.pack("=IxxxxQQQ", fd, _address(where), _address(value), 0))
    return value.raw


def map_update(fd: int, items: Mapping[bytes, bytes]) -> None:
    """Write entries in one system call, or one by one if the map type does not support batches."""
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
    """Delete entries in one system call, or one by one if the map type does not support batches."""
    if not keys or _batch(BPF_MAP_DELETE_BATCH, fd, b"".join(keys), b"", len(keys)):
        return
    for key in keys:
        k = ctypes.create_string_buffer(key, len(key))
        bpf(BPF_MAP_DELETE_ELEM, struct.pack("=IxxxxQQQ", fd, _address(k), 0, 0))


def _batch(command: int, fd: int, keys: bytes, values: bytes, count: int) -> bool:
    """Run a batch command; return False if the map type does not support it."""
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
    """Return the number of possible CPUs, which is the number of values in an entry of a per-CPU map."""
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as f:
        ranges = [part.partition("-") for part in f.read().strip().split(",")]
    return sum(int(last or first) - int(first) + 1 for first, dummy, last in ranges)


def rodata_of(program: ProgramInfo) -> bytes:
    """Return the .rodata of a loaded program, empty if it has no map ``RODATA_MAP``."""
    for number in program.map_ids:
        with closing(map_get_fd_by_id(number)) as fd:
            info = map_info(fd)
            if info.name == RODATA_MAP:
                return map_lookup(fd, bytes(4), info.layout.value_size)
    return b""
