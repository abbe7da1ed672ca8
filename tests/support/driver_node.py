# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Namespaces, rtnetlink, libbpf and traffic for the driver's checks on a node. Standard library only.

Starting a process takes most of a second on an emulated node, so the checks run in one process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import struct
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_libbpf = ctypes.CDLL("libbpf.so.1", use_errno=True)

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
NLM_F_REQUEST, NLM_F_ACK, NLM_F_ACK_TLVS = 0x1, 0x4, 0x200
NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_DUMP = 0x400, 0x200, 0x100, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_NET_NS_PID = 1, 3, 4, 18, 19
IFLA_STATS64, IFLA_NET_NS_FD, IFLA_LINK_NETNSID, IFLA_GSO_MAX_SIZE = 23, 28, 37, 41
IFLA_XDP, IFLA_TARGET_NETNSID = 43, 46
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFF_RUNNING, IFF_NOARP = 0x40, 0x80


class Meta:
    """Attributes and values of meta_uapi.h."""

    PEER_INFO, PRIMARY, POLICY, PEER_POLICY, MODE, SCRUB, PEER_SCRUB = range(1, 8)
    HEADROOM, TAILROOM, PAIRING = range(8, 11)
    PROG_FD, PEER_PROG_FD, PROG_ID, PEER_PROG_ID, PROG_TAG, PEER_PROG_TAG = range(32, 38)
    PASS, DROP = 0, 2
    L2, L3 = 0, 1
    PAIR, SINGLE = 0, 1


class Action:
    """enum action_type of driver.bpf.c."""

    VERDICT, REDIRECT, REDIRECT_INGRESS, REDIRECT_PEER, REDIRECT_NEIGH, REDIRECT_NEXTHOP = range(6)
    REDIRECT_FIB, SET_PKT_TYPE, SET_MARK, REDIRECT_PEER_L3, SET_TSTAMP = range(6, 11)


def run(*argv: str, stdin: str | None = None) -> str:
    """Run a program and return its output; raise AssertionError if it fails."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr or done.stdout}"
    return done.stdout


def run_in_child(function: Callable[[], None]) -> None:
    """Run a function in a child process, which may drop privileges; raise AssertionError if it fails."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        failure = pipe.read()
    os.waitpid(child, 0)
    assert not failure, failure


def enter_user_namespace() -> None:
    """Move this process to a new user namespace, with all capabilities there, and a new network namespace."""
    assert _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


class Namespace:
    """A named network namespace, which ip(8) can address."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Move the calling thread to the namespace during the block."""
        before = os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY)
        assert _libc.setns(self.fd, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert _libc.setns(before, CLONE_NEWNET) == 0
            os.close(before)

    def open(self, *arguments: int) -> socket.socket:
        """Return a socket of the namespace; every thread can use it."""
        with self.inside():
            return socket.socket(*arguments)

    def udp(self, address: str = "") -> socket.socket:
        """Return a UDP socket of the namespace, bound to port 9 of ``address`` if one is given."""
        made = self.open(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(20)
        if address:
            made.bind((address, 9))
        return made

    def raw(self) -> socket.socket:
        """Return a packet socket that sends complete frames."""
        return self.open(socket.AF_PACKET, socket.SOCK_RAW)

    def write(self, sysctl: str, value: object) -> None:
        with self.inside():
            Path("/proc/sys/net", sysctl).write_text(str(value))

    def ping(self, address: str, *options: str) -> None:
        """Ping an address from the namespace; raise AssertionError if a reply is missing."""
        with self.inside():
            output = run("ping", "-n", "-i", "0.05", "-c", "5", "-W", "5", *options, address)
        assert " 0% packet loss" in output, output


def attribute(kind: int, *values: bytes) -> bytes:
    """Return a netlink attribute; several values become nested attributes."""
    value = b"".join(values)
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def s32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=i", value))


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes of a message's payload by type."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


class NetlinkError(Exception):
    """The kernel refused a request."""

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(f"{os.strerror(errno)}: {message}")
        self.errno = errno
        self.message = message


@dataclass
class Link:
    """A device as the kernel reports it."""

    index: int
    flags: int
    attributes: dict[int, bytes]

    @property
    def name(self) -> str:
        return self.attributes[IFLA_IFNAME].rstrip(b"\0").decode()

    @property
    def info(self) -> dict[int, bytes]:
        return attributes(attributes(self.attributes[IFLA_LINKINFO])[IFLA_INFO_DATA])

    def number(self, kind: int) -> int | None:
        """Return an attribute of meta as a number of any width, or None if it is missing."""
        return int.from_bytes(self.info[kind], "little") if kind in self.info else None

    @property
    def stats(self) -> dict[str, int]:
        names = "rx_packets tx_packets rx_bytes tx_bytes rx_errors tx_errors rx_dropped tx_dropped"
        return dict(zip(names.split(), struct.unpack_from("=8Q", self.attributes[IFLA_STATS64]), strict=True))


class Rtnl:
    """rtnetlink of a namespace, without validation, so that checks can send malformed requests."""

    def __init__(self, namespace: Namespace | None = None) -> None:
        open_socket = namespace.open if namespace else socket.socket
        self.socket = open_socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self.socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self.socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self.socket.settimeout(60)

    def __enter__(self) -> Rtnl:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.socket.close()

    def request(self, kind: int, flags: int, payload: bytes) -> list[bytes]:
        """Send a request and return the payloads of its replies; raise NetlinkError if it is refused."""
        head = struct.pack("=IHHII", 16 + len(payload), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0)
        self.socket.send(head + payload)
        answers: list[bytes] = []
        while True:
            data = self.socket.recv(1 << 20)
            while data:
                length, answer, flags = struct.unpack_from("=IHH", data)
                body, data = data[16:length], data[(length + 3) & ~3 :]
                if answer == NLMSG_DONE:
                    return answers
                if answer == NLMSG_ERROR:
                    errno = -struct.unpack_from("=i", body)[0]
                    if errno == 0:
                        return answers
                    extended = attributes(body[20:]) if flags & NLM_F_ACK_TLVS else {}
                    raise NetlinkError(errno, extended.get(1, b"").rstrip(b"\0").decode())
                answers.append(body)

    def link_request(self, kind: int, flags: int, name: str, *more: bytes, index: int = 0) -> list[bytes]:
        message = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
        return self.request(kind, flags, message + text(IFLA_IFNAME, name) + b"".join(more))

    def create(
        self, name: str, *data: bytes, peer: bytes | None = None, more: bytes = b"", peer_index: int = 0
    ) -> None:
        """Create a pair with attributes of meta (``data``), the peer and the primary (``more``)."""
        if peer is not None:
            message = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, peer_index, 0, 0)
            data += (attribute(Meta.PEER_INFO, message, peer),)
        info = attribute(IFLA_LINKINFO, text(IFLA_INFO_KIND, "meta"), attribute(IFLA_INFO_DATA, *data))
        self.link_request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, name, more, info)

    def change(self, name: str, *data: bytes) -> None:
        info = attribute(IFLA_LINKINFO, text(IFLA_INFO_KIND, "meta"), attribute(IFLA_INFO_DATA, *data))
        self.link_request(RTM_NEWLINK, 0, name, info)

    def delete(self, name: str) -> None:
        self.link_request(RTM_DELLINK, 0, name)

    def get(self, name: str) -> Link:
        body = self.link_request(RTM_GETLINK, 0, name)[0]
        _family, _type, index, flags, _change = struct.unpack_from("=BxHiII", body)
        return Link(index, flags, attributes(body[16:]))

    def names(self) -> list[str]:
        message = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)
        return [
            attributes(body[16:])[IFLA_IFNAME].rstrip(b"\0").decode()
            for body in self.request(RTM_GETLINK, NLM_F_DUMP, message)
        ]


class Programs:
    """The loaded programs of driver.bpf.o."""

    FROM_POD, FROM_POD_ALT, TO_POD, INGRESS = range(4)  # records

    def __init__(self, path: str) -> None:
        self.path = path
        for name in ("bpf_object__open_file", "bpf_object__find_program_by_name"):
            getattr(_libbpf, name).restype = ctypes.c_void_p
        self.object = ctypes.c_void_p(_libbpf.bpf_object__open_file(path.encode(), None))
        assert self.object.value, f"libbpf cannot read {path}"
        assert _libbpf.bpf_object__load(self.object) == 0, f"the kernel refused the programs of {path}"

    def close(self) -> None:
        _libbpf.bpf_object__close(self.object)

    def fd(self, name: str) -> int:
        program = _libbpf.bpf_object__find_program_by_name(self.object, name.encode())
        return int(_libbpf.bpf_program__fd(ctypes.c_void_p(program)))

    def pin(self, name: str, path: str) -> None:
        Path(path).unlink(missing_ok=True)
        assert _libbpf.bpf_obj_pin(self.fd(name), path.encode()) == 0, os.strerror(ctypes.get_errno())

    def _map(self, name: str) -> int:
        return int(_libbpf.bpf_object__find_map_fd_by_name(self.object, name.encode()))

    def _update(self, name: str, key: int, value: bytes) -> None:
        result = _libbpf.bpf_map_update_elem(
            self._map(name), ctypes.byref(ctypes.c_uint32(key)), value, ctypes.c_uint64(0)
        )
        assert result == 0, f"map {name}: {os.strerror(ctypes.get_errno())}"

    def set_action(
        self, program: str, ifindex: int, action: int, argument: int = 0, nexthop: str = ""
    ) -> None:
        """Set the action of ``program`` for packets whose skb->ifindex is ``ifindex``."""
        family, address = 0, b""
        if nexthop:
            family = socket.AF_INET6 if ":" in nexthop else socket.AF_INET
            address = socket.inet_pton(family, nexthop)
        value = struct.pack("=III16s", action, argument & 0xFFFFFFFF, family, address)
        self._update(f"{program}_actions", ifindex, value)

    def clear_action(self, program: str, ifindex: int) -> None:
        """Remove the action of ``program`` for ``ifindex``."""
        key = ctypes.byref(ctypes.c_uint32(ifindex))
        assert _libbpf.bpf_map_delete_elem(self._map(f"{program}_actions"), key) == 0

    def record(self, program: int) -> dict[str, int]:
        """Return a program's packet count and the fields of its last packet."""
        value = ctypes.create_string_buffer(56)
        key = ctypes.byref(ctypes.c_uint32(program))
        assert _libbpf.bpf_map_lookup_elem(self._map("records"), key, value) == 0
        names = "packets arps tstamp ifindex mark priority protocol pkt_type longest dst4"
        return dict(zip(names.split(), struct.unpack("=QQQIIIIIII4x", value.raw), strict=True))

    def clear_records(self) -> None:
        for program in range(4):
            self._update("records", program, bytes(56))


def program_exists(number: int) -> bool:
    """Return whether a program with this ID is loaded."""
    descriptor = _libbpf.bpf_prog_get_fd_by_id(ctypes.c_uint32(number))
    if descriptor >= 0:
        os.close(descriptor)
    return bool(descriptor >= 0)


def watch_kernel_log() -> Callable[[], str]:
    """Return a function that returns the kernel's complaints since its last call."""
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(log, 0, os.SEEK_END)
    bad = re.compile(
        r"WARNING|BUG|Oops|general protection|unregister_netdevice|refcount|suspicious RCU|"
        r"possible|use-after-free|KASAN|hung|stall|hw csum failure|leak|Call Trace"
    )

    def complaints() -> str:
        lines = []
        with contextlib.suppress(BlockingIOError):
            while True:
                with contextlib.suppress(
                    BrokenPipeError
                ):  # records were overwritten; the next read continues with the oldest
                    record = os.read(log, 8192).decode(errors="replace")
                    lines.append(record.split(";", 1)[1].splitlines()[0])
        return "".join(f"kernel: {line}\n" for line in lines if bad.search(line))

    return complaints


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20) -> None:
    """Wait until ``condition()`` is true; raise AssertionError after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
