# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load BPF object files and attach clsact filters with libbpf.so.1, through ctypes.

Only functions of libbpf 1.1 are used.
Source: libbpf.h of libbpf 1.1, include/uapi/linux/btf.h.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import struct
from collections.abc import Iterator, Mapping

from .bpf import (
    BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
    BPF_PROG_TYPE_TRACING,
    BPF_TRACE_ITER,
    OBJECT_NAME,
    RODATA_MAP,
    BpfError,
    Layout,
    has_iterator,
    has_socket_programs,
)
from .btf import Btf

_BTF_KIND_DATASEC = 15

DATA_SECTION = ".data."  # precedes the name of a map that is declared as a section

LOG_SIZE = 8 << 20  # bytes; before Linux 6.4 the verifier fails if its log is longer than the buffer
LOG_LINES = 20


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

# Functions that do not return int
_POINTERS = (
    "bpf_object__open_mem",
    "bpf_object__next_map",
    "bpf_object__next_program",
    "bpf_object__btf",
    "btf__raw_data",
    "bpf_map__initial_value",
    "btf__type_by_id",
)
_STRINGS = ("bpf_map__name", "bpf_program__name", "btf__name_by_offset")

_PRINTER = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


class _Libbpf:
    """libbpf.so.1 and its recent warnings."""

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
        # ctypes requires a reference while libbpf may call it.
        self._printer = _PRINTER(self._print)
        self.cdll.libbpf_set_print(self._printer)

    def _print(self, level: int, template: bytes, arguments: int) -> int:
        # x86_64 and aarch64 pass a va_list as a pointer.
        if level == 0:  # LIBBPF_WARN
            buffer = ctypes.create_string_buffer(1024)
            _libc.vsnprintf(buffer, len(buffer), template, ctypes.c_void_p(arguments))
            self.messages.append(buffer.value.decode(errors="replace").strip())
        return 0


_libc = ctypes.CDLL(None)
_loaded_library: list[_Libbpf] = []


def _libbpf() -> _Libbpf:
    if not _loaded_library:
        _loaded_library.append(_Libbpf())
    return _loaded_library[0]


def has_socket_iterator() -> bool:
    """Return whether the kernel supports programs that iterate over the storage of sockets.

    This requires its BTF and CONFIG_BPF_EVENTS.
    """
    target = _libbpf().cdll.libbpf_find_vmlinux_btf_id(b"bpf_sk_storage_map", BPF_TRACE_ITER)
    return target > 0 and has_iterator(target)


class BpfObject:
    """A BPF object file. The constructor opens it and ``load`` loads it.

    ``close`` releases it. Objects that were pinned or attached stay in the kernel.
    """

    def __init__(self, path: str, rodata: Mapping[str, int] | None = None) -> None:
        """Open ``path`` and set variables in its .rodata.

        Raises BpfError if the file is missing or invalid, a variable is unknown or a value out of range.
        """
        self.path = path
        self.loaded = False
        self._bpf = _libbpf()
        self._lib = self._bpf.cdll
        self._log = ctypes.create_string_buffer(LOG_SIZE)
        options = _OpenOptions(
            sz=ctypes.sizeof(_OpenOptions),
            object_name=OBJECT_NAME.encode(),
            kernel_log_buf=ctypes.addressof(self._log),
            kernel_log_size=LOG_SIZE,
        )
        if not os.path.isfile(path):
            raise BpfError(
                f"object: file '{path}' does not exist; compile the programs and copy them to the node"
            )
        self._bpf.messages.clear()
        with open(path, "rb") as file:
            contents = file.read()
        self.digest = hashlib.sha256(contents).hexdigest()
        size = ctypes.c_size_t(len(contents))
        handle = self._lib.bpf_object__open_mem(contents, size, ctypes.byref(options))
        if not handle:
            code = ctypes.get_errno()
            detail = "; ".join(self._bpf.messages) or os.strerror(code)
            raise BpfError(f"object: libbpf cannot open '{path}': {detail}")
        self._handle = ctypes.c_void_p(handle)
        self._maps = {
            name.removeprefix(DATA_SECTION): item
            for name, item in self._each("bpf_object__next_map", "bpf_map__name")
        }
        self._programs = dict(self._each("bpf_object__next_program", "bpf_program__name"))
        self._exclude_unsupported()
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
        """Release the object and its file descriptors."""
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
        """Return the contents of .rodata."""
        size = ctypes.c_size_t()
        if RODATA_MAP not in self._maps:
            return b""
        data = self._lib.bpf_map__initial_value(self._maps[RODATA_MAP], ctypes.byref(size))
        return ctypes.string_at(data, size.value)

    def _variables(self) -> dict[str, tuple[int, int]]:
        """Return offset and size in bytes of each .rodata variable, from the object's BTF."""
        btf = ctypes.c_void_p(self._lib.bpf_object__btf(self._handle))
        section = self._lib.btf__find_by_name_kind(btf, b".rodata", _BTF_KIND_DATASEC) if btf else -1
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

    def _exclude_unsupported(self) -> None:
        """Exclude the programs of sockets, or only their iterator, if the kernel does not support them."""
        types = {name: self._lib.bpf_program__type(program) for name, program in self._programs.items()}
        excluded: tuple[int, ...] = ()
        if BPF_PROG_TYPE_CGROUP_SOCK_ADDR in types.values() and not has_socket_programs():
            excluded = (BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_PROG_TYPE_TRACING)
        elif BPF_PROG_TYPE_TRACING in types.values() and not has_socket_iterator():
            excluded = (BPF_PROG_TYPE_TRACING,)
        for name, kind in types.items():
            if kind in excluded:
                self._lib.bpf_program__set_autoload(self._programs.pop(name), False)

    def _set_rodata(self, values: Mapping[str, int]) -> None:
        variables = self._variables()
        data = bytearray(self.rodata)
        for name, value in values.items():
            if name not in variables:
                known = ", ".join(sorted(variables)) or "none"
                raise BpfError(f"rodata: '{self.path}' has no variable '{name}'; it has {known}")
            offset, size = variables[name]
            if size not in (1, 2, 4, 8) or not 0 <= value < 1 << (8 * size):
                raise BpfError(f"rodata: {name}={value} is out of range for a variable of {size} bytes")
            data[offset : offset + size] = struct.pack("=" + "BHIQ"[size.bit_length() - 1], value)
        if values and self._lib.bpf_map__set_initial_value(
            self._maps[RODATA_MAP], bytes(data), ctypes.c_size_t(len(data))
        ):
            raise BpfError(f"rodata: libbpf cannot set the .rodata of '{self.path}'")

    @property
    def layouts(self) -> dict[str, Layout]:
        """Return the layout of each map that the object declares, without .rodata and other internal maps."""
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
            if not name.startswith(OBJECT_NAME + ".")
        }

    @property
    def map_types(self) -> dict[str, tuple[int, int]]:
        """Return the BTF type ids of key and value of each map; 0 for a type without BTF."""
        lib = self._lib
        return {
            name: (lib.bpf_map__btf_key_type_id(m), lib.bpf_map__btf_value_type_id(m))
            for name, m in self._maps.items()
        }

    @property
    def btf(self) -> Btf:
        """Return the BTF of the object. Raises BpfError if it has none."""
        handle = ctypes.c_void_p(self._lib.bpf_object__btf(self._handle))
        size = ctypes.c_uint32()
        data = self._lib.btf__raw_data(handle, ctypes.byref(size)) if handle else None
        if not data:
            raise BpfError(f"object: '{self.path}' has no BTF; compile it with -g")
        return Btf(ctypes.string_at(data, size.value))

    def load(self, maps: Mapping[str, int] | None = None) -> None:
        """Load all programs into the kernel. ``maps`` are file descriptors of existing maps to reuse, by
        name.

        Raises BpfError with the end of the verifier's log if the kernel rejects a program.
        """
        for name, fd in (maps or {}).items():
            code = self._lib.bpf_map__reuse_fd(self._maps[name], fd)
            if code:
                raise BpfError(f"map '{name}' cannot be reused: {os.strerror(-code)}")
        self._bpf.messages.clear()
        code = self._lib.bpf_object__load(self._handle)
        if not code:
            self.loaded = True
            return
        messages = "\n".join(self._bpf.messages)
        log = self._log.value.decode(errors="replace").strip().splitlines()
        failed = re.search(r"prog '([^']+)'", messages)
        if failed and log:
            raise BpfError(
                f"object: the kernel's verifier rejects program '{failed[1]}' of '{self.path}'"
                f" ({os.strerror(-code)}). The end of its log:\n" + "\n".join(log[-LOG_LINES:])
            )
        remedy = " (requires root: set become: true)" if code == -errno.EPERM else ""
        detail = "\n".join(["", *messages.splitlines()[-LOG_LINES:]])
        raise BpfError(f"object: '{self.path}' cannot be loaded: {os.strerror(-code)}{remedy}{detail}")

    @property
    def programs(self) -> dict[str, int]:
        """Return the file descriptor of each loaded program; the object owns it."""
        return {name: self._lib.bpf_program__fd(p) for name, p in self._programs.items()}

    @property
    def maps(self) -> dict[str, int]:
        """Return the file descriptor of each loaded map without internal maps; the object owns it."""
        return {name: self._lib.bpf_map__fd(self._maps[name]) for name in self.layouts}


# ---------------------------------------------------------------- clsact filters


def _tc_hook(ifindex: int, point: int) -> _TcHook:
    return _TcHook(sz=ctypes.sizeof(_TcHook), ifindex=ifindex, attach_point=point)


def _tc_check(result: int) -> None:
    if result < 0:
        raise OSError(-result, "; ".join([os.strerror(-result), *_libbpf().messages[-1:]]))


def clsact_create(ifindex: int) -> bool:
    """Add the clsact qdisc to a device; return False if it exists."""
    bpf_ = _libbpf()
    result = bpf_.cdll.bpf_tc_hook_create(ctypes.byref(_tc_hook(ifindex, TC_INGRESS | TC_EGRESS)))
    if result != -errno.EEXIST:
        _tc_check(result)
    return bool(result == 0)


def clsact_destroy(ifindex: int) -> None:
    """Delete the clsact qdisc of a device with all its filters."""
    _tc_check(_libbpf().cdll.bpf_tc_hook_destroy(ctypes.byref(_tc_hook(ifindex, TC_INGRESS | TC_EGRESS))))


def clsact_attach(
    ifindex: int, point: int, program: int, priority: int, handle: int, replace: bool = False
) -> None:
    """Add a direct-action BPF filter with this priority and handle, or replace it atomically.

    The parameters are those of bpf_tc_attach().
    """
    options = _TcOptions(
        sz=ctypes.sizeof(_TcOptions),
        prog_fd=program,
        flags=_TC_REPLACE if replace else 0,
        handle=handle,
        priority=priority,
    )
    _tc_check(_libbpf().cdll.bpf_tc_attach(ctypes.byref(_tc_hook(ifindex, point)), ctypes.byref(options)))


def clsact_detach(ifindex: int, point: int, priority: int, handle: int) -> None:
    """Delete the filter with this priority and handle."""
    options = _TcOptions(sz=ctypes.sizeof(_TcOptions), handle=handle, priority=priority)
    _tc_check(_libbpf().cdll.bpf_tc_detach(ctypes.byref(_tc_hook(ifindex, point)), ctypes.byref(options)))
