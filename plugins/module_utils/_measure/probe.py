# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""ICMP and TCP probes between network namespaces, and the IP counters of the host.

Private to this collection: may change in any release.

A socket stays in the namespace that it was created in. The process therefore enters a namespace only
to create a socket, then returns.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Union

from .._core.plan import Problem
from .._kernel import netns as _netns

Address = Union[IPv4Address, IPv6Address]

# include/uapi/linux/in.h and in6.h; missing in Python's socket module
IP_MTU_DISCOVER, IP_RECVERR, IP_MTU, IP_PMTUDISC_DO = 10, 11, 14, 2
IPV6_MTU_DISCOVER, IPV6_MTU, IPV6_RECVERR = 23, 24, 25
# ICMP (RFC 792) and ICMPv6 (RFC 4443) echo types
ECHO4_REQUEST, ECHO4_REPLY = 8, 0
ECHO6_REQUEST, ECHO6_REPLY = 128, 129
IP4_HEADER, IP6_HEADER, ICMP_HEADER = 20, 40, 8

# A burst keeps WINDOW packets in flight, and sends one per INTERVAL if no replies arrive.
WINDOW = 8
INTERVAL = 0.01  # seconds
CHUNK = 256 * 1024  # bytes per read or write of a stream


class ProbeError(Problem):
    """An invalid probe, or a TCP transfer that failed."""


def parse_address(option: str, text: str) -> Address:
    """Parse an address; raise ProbeError with the option's name if it is invalid."""
    try:
        return ip_address(text)
    except ValueError:
        raise ProbeError(
            f"{option}: '{text}' is not an IPv4 or IPv6 address; specify an address without prefix length"
        ) from None


@contextlib.contextmanager
def netns(name: str | None) -> Iterator[None]:
    """Run the block in the network namespace ``name``, ``None`` for the current one.

    Raises ProbeError if the namespace does not exist or entering it fails.
    """
    with contextlib.ExitStack() as stack:
        if name is not None:
            path = _netns.path_of(name)
            try:
                stack.enter_context(_netns.entered(path))
            except FileNotFoundError:
                raise ProbeError(
                    f"netns: '{name}' does not exist ({path}); 'ip netns list' shows the existing namespaces"
                ) from None
            except OSError as e:
                raise ProbeError(f"netns: cannot enter '{name}': {e.strerror}; run as root") from e
        yield


# IP counters of the host's network stack


@dataclass(frozen=True)
class HostCounters:
    """The IP layer's counters of one namespace (/proc/net/snmp and snmp6, RFC 4293)."""

    ip4_in_receives: int = 0
    ip4_forwarded: int = 0
    ip6_in_receives: int = 0
    ip6_forwarded: int = 0
    # IPv6 only: the kernel keeps no IPv4 counters by interface
    interfaces: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def since(self, before: HostCounters) -> HostCounters:
        """Return the increase of each counter since ``before``."""
        return HostCounters(
            self.ip4_in_receives - before.ip4_in_receives,
            self.ip4_forwarded - before.ip4_forwarded,
            self.ip6_in_receives - before.ip6_in_receives,
            self.ip6_forwarded - before.ip6_forwarded,
            {
                name: (received - old[0], forwarded - old[1])
                for name, (received, forwarded) in self.interfaces.items()
                for old in (before.interfaces.get(name, (0, 0)),)
            },
        )

    @property
    def forwarded(self) -> int:
        """Packets that the IP layer forwarded between devices."""
        return self.ip4_forwarded + self.ip6_forwarded

    def as_dict(self) -> dict[str, Any]:
        """Return the counters as a module returns them."""
        return {
            "ipv4": {"in_receives": self.ip4_in_receives, "forwarded": self.ip4_forwarded},
            "ipv6": {"in_receives": self.ip6_in_receives, "forwarded": self.ip6_forwarded},
            "interfaces": {
                name: {"ipv6_in_receives": received, "ipv6_forwarded": forwarded}
                for name, (received, forwarded) in sorted(self.interfaces.items())
                if received or forwarded
            },
        }


def parse_snmp(text: str) -> dict[str, int]:
    """Return the ``Ip:`` counters of /proc/net/snmp: a line of names, then a line of values."""
    names: list[str] = []
    for line in text.splitlines():
        if line.startswith("Ip:"):
            words = line.split()[1:]
            if names:
                return {name: int(value) for name, value in zip(names, words)}
            names = words
    raise ProbeError("/proc/net/snmp has no 'Ip:' lines; is this a Linux kernel with IPv4?")


def parse_snmp6(text: str) -> dict[str, int]:
    """Return the counters of /proc/net/snmp6 or of one file of /proc/net/dev_snmp6."""
    pairs = (line.split() for line in text.splitlines())
    return {words[0]: int(words[1], 0) for words in pairs if len(words) == 2}


def read_host_counters(proc: str = "/proc/thread-self/net") -> HostCounters:
    """Read the counters of the current namespace; the IPv6 counters are 0 if the kernel has no IPv6."""

    def read(name: str) -> str:
        with open(os.path.join(proc, name), encoding="ascii") as f:
            return f.read()

    ip4 = parse_snmp(read("snmp"))
    ip6: dict[str, int] = {}
    interfaces: dict[str, tuple[int, int]] = {}
    with contextlib.suppress(FileNotFoundError):
        ip6 = parse_snmp6(read("snmp6"))
        for name in os.listdir(os.path.join(proc, "dev_snmp6")):
            # A device may disappear while the directory is read.
            with contextlib.suppress(OSError):
                counters = parse_snmp6(read(os.path.join("dev_snmp6", name)))
                interfaces[name] = (counters.get("Ip6InReceives", 0), counters.get("Ip6OutForwDatagrams", 0))
    return HostCounters(
        ip4["InReceives"],
        ip4["ForwDatagrams"],
        ip6.get("Ip6InReceives", 0),
        ip6.get("Ip6OutForwDatagrams", 0),
        interfaces,
    )


# Bursts of echo requests


@dataclass(frozen=True)
class Probe:
    """A burst of ``count`` echo requests of ``size`` bytes each (including IP header, DF set)."""

    to: Address
    netns: str | None = None
    count: int = 200
    size: int = 84
    timeout: float = 2.0  # seconds to wait after the last packet

    def __post_init__(self) -> None:
        minimum = self.overhead + 8
        if not minimum <= self.size <= 65535:
            raise ProbeError(f"size: {self.size} for {self.to} is not between {minimum} and 65535 bytes")
        if not 1 <= self.count <= 65535:
            raise ProbeError(f"count: {self.count} for {self.to} is not between 1 and 65535")

    @property
    def overhead(self) -> int:
        """Size of the IP and ICMP headers in bytes."""
        return (IP4_HEADER if self.to.version == 4 else IP6_HEADER) + ICMP_HEADER


@dataclass
class ProbeResult:
    """The result of a burst; ``rtts`` are round-trip times in milliseconds."""

    probe: Probe
    sent: int = 0
    rtts: list[float] = field(default_factory=list)
    ttl: int | None = None
    path_mtu: int | None = None
    errors: list[str] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """Percentage of packets without a valid reply."""
        return round(100 * (1 - len(self.rtts) / self.probe.count), 2)

    def note(self, text: str) -> None:
        """Add an error unless it is already recorded."""
        if text not in self.errors:
            self.errors.append(text)

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a module returns it."""
        rtts = self.rtts
        return {
            "netns": self.probe.netns,
            "to": str(self.probe.to),
            "size": self.probe.size,
            "sent": self.sent,
            "received": len(rtts),
            "loss": self.loss,
            "rtt": {
                "min": round(min(rtts), 3) if rtts else None,
                "avg": round(sum(rtts) / len(rtts), 3) if rtts else None,
                "max": round(max(rtts), 3) if rtts else None,
            },
            "ttl": self.ttl,
            "path_mtu": self.path_mtu,
            "errors": self.errors,
        }

    def describe(self) -> str:
        """Return the result as a one-line message."""
        where = f"from {self.probe.netns or 'the host'} to {self.probe.to}, {self.probe.size} bytes"
        text = f"{where}: {self.sent} sent, {len(self.rtts)} received ({self.loss} % loss)"
        return text + (f": {'; '.join(self.errors)}" if self.errors else "")


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_request(version: int, ident: int, seq: int, payload: bytes) -> bytes:
    """Build an echo request; the kernel fills in the ICMPv6 checksum (RFC 3542, 3.1)."""
    kind = ECHO4_REQUEST if version == 4 else ECHO6_REQUEST
    head = struct.pack("!BBHHH", kind, 0, 0, ident, seq)
    if version == 4:
        head = struct.pack("!BBHHH", kind, 0, checksum(head + payload), ident, seq)
    return head + payload


def parse_echo_reply(version: int, packet: bytes) -> tuple[int, int, int | None, bytes] | None:
    """Return (identifier, sequence, TTL, payload) of an echo reply; None for any other packet.

    A raw IPv4 socket returns the IP header, a raw IPv6 socket does not; TTL is None for IPv6.
    """
    ttl: int | None = None
    if version == 4:
        if len(packet) < IP4_HEADER:
            return None
        ttl = packet[8]
        packet = packet[(packet[0] & 15) * 4 :]
    if len(packet) < ICMP_HEADER:
        return None
    kind, _code, _sum, ident, seq = struct.unpack("!BBHHH", packet[:ICMP_HEADER])
    if kind != (ECHO4_REPLY if version == 4 else ECHO6_REPLY):
        return None
    return ident, seq, ttl, packet[ICMP_HEADER:]


def _echo_socket(probe: Probe) -> socket.socket:
    """Open a raw ICMP socket in the probe's namespace, with DF set and IP_RECVERR enabled."""
    v4 = probe.to.version == 4
    with netns(probe.netns):
        try:
            if v4:
                sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            else:
                sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        except OSError as e:
            raise ProbeError(f"probes: cannot open a raw ICMP socket: {e.strerror}; run as root") from e
    level = socket.IPPROTO_IP if v4 else socket.IPPROTO_IPV6
    sock.setsockopt(level, IP_MTU_DISCOVER if v4 else IPV6_MTU_DISCOVER, IP_PMTUDISC_DO)
    sock.setsockopt(level, IP_RECVERR if v4 else IPV6_RECVERR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    sock.setblocking(False)
    return sock


def run_probe(probe: Probe) -> ProbeResult:
    """Send the burst and wait for replies, for at most ``count * INTERVAL + timeout`` seconds.

    Errors of the path (no route, packet too big, unreachable) are in the result, not raised.
    """
    result = ProbeResult(probe)
    version = probe.to.version
    payload = bytes(i & 0xFF for i in range(probe.size - probe.overhead))
    ident = int.from_bytes(os.urandom(2), "big")
    in_flight: dict[int, int] = {}  # sequence number -> send time in ns
    with contextlib.closing(_echo_socket(probe)) as sock, selectors.DefaultSelector() as ready:
        try:
            sock.connect((str(probe.to), 0))
        except OSError as e:
            result.note(_explain(e, probe))
            return result
        ready.register(sock, selectors.EVENT_READ)
        next_send = time.monotonic()
        deadline = next_send + probe.timeout
        while True:
            now = time.monotonic()
            if result.sent < probe.count and (len(in_flight) < WINDOW or now >= next_send):
                in_flight[result.sent] = time.monotonic_ns()
                try:
                    sock.send(echo_request(version, ident, result.sent, payload))
                except OSError as e:
                    if e.errno in (errno.EMSGSIZE, errno.ENETUNREACH, errno.EINVAL, errno.EPERM):
                        # Later packets would fail the same way.
                        result.note(_explain(e, probe))
                        break
                    if e.errno not in (errno.EAGAIN, errno.ENOBUFS):
                        # With IP_RECVERR, this may be the error of an earlier packet.
                        result.note(_explain(e, probe))
                result.sent += 1
                next_send = now + INTERVAL
                deadline = now + probe.timeout
            _receive(sock, ident, payload, in_flight, result)
            if result.sent == probe.count and (not in_flight or time.monotonic() >= deadline):
                break
            if len(in_flight) >= WINDOW or result.sent == probe.count:
                until = next_send if result.sent < probe.count else deadline
                ready.select(max(0.0, until - time.monotonic()))
        with contextlib.suppress(OSError):
            level, option = (socket.IPPROTO_IP, IP_MTU) if version == 4 else (socket.IPPROTO_IPV6, IPV6_MTU)
            result.path_mtu = int(sock.getsockopt(level, option))
        _read_error_queue(sock, result)
    if any("too big" in text for text in result.errors) and result.path_mtu:
        result.note(f"the path MTU is {result.path_mtu} bytes")
    return result


def _receive(
    sock: socket.socket, ident: int, payload: bytes, in_flight: dict[int, int], result: ProbeResult
) -> None:
    """Read all pending replies without blocking."""
    while True:
        try:
            packet = sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as e:
            result.note(_explain(e, result.probe))
            # Empty the error queue, otherwise select() returns at once forever.
            _read_error_queue(sock, result)
            return
        reply = parse_echo_reply(result.probe.to.version, packet)
        if reply is None or reply[0] != ident or reply[1] not in in_flight:
            continue
        began = in_flight.pop(reply[1])
        if reply[3] != payload:
            result.note("the payload of a reply differs from the request")
            continue
        result.ttl = reply[2]
        result.rtts.append((time.monotonic_ns() - began) / 1e6)


def _read_error_queue(sock: socket.socket, result: ProbeResult) -> None:
    """Drain the error queue and record the path MTU (ip(7), struct sock_extended_err)."""
    with contextlib.suppress(OSError):
        while True:
            for level, kind, data in sock.recvmsg(1, 4096, socket.MSG_ERRQUEUE)[1]:
                if (level, kind) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
                    code, _origin, _type, _code, info = struct.unpack_from("=IBBBxI", data)
                    if code == errno.EMSGSIZE:
                        result.path_mtu = min(info, result.path_mtu or info)


def _explain(e: OSError, probe: Probe) -> str:
    if e.errno == errno.EMSGSIZE:
        return "too big for the path's MTU"
    if e.errno == errno.ENETUNREACH:
        return "no route (ENETUNREACH)"
    return f"{os.strerror(e.errno or 0)} ({errno.errorcode.get(e.errno or 0, e.errno)})"


# TCP transfers between two namespaces of this node


@dataclass(frozen=True)
class Stream:
    """A TCP transfer of ``size`` bytes from one namespace of this node to another."""

    from_netns: str | None
    to_netns: str | None
    to: Address
    size: int = 16 * 1024 * 1024
    timeout: float = 60.0  # seconds for the entire transfer


@dataclass
class StreamResult:
    """The result of a transfer; the receiver announced ``window_scale`` (RFC 7323, 2.2)."""

    stream: Stream
    seconds: float
    window_scale: int
    mss: int

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a module returns it."""
        s = self.stream
        return {
            "from_netns": s.from_netns,
            "to_netns": s.to_netns,
            "to": str(s.to),
            "bytes": s.size,
            "seconds": round(self.seconds, 3),
            "mbits": round(s.size * 8 / 1e6 / self.seconds, 1),
            "window_scale": self.window_scale,
            "mss": self.mss,
        }


def run_stream(stream: Stream) -> StreamResult:
    """Transfer the bytes and compare checksums.

    Raises ProbeError if the connection fails or times out, or if the received data differs.
    """
    what = (
        f"streams: from {stream.from_netns or 'the host'} to {stream.to} in {stream.to_netns or 'the host'}"
    )
    family = socket.AF_INET if stream.to.version == 4 else socket.AF_INET6
    with netns(stream.to_netns):
        listener = socket.socket(family, socket.SOCK_STREAM)
    with contextlib.closing(listener):
        try:
            listener.bind((str(stream.to), 0))
        except OSError as e:
            raise ProbeError(
                f"{what}: cannot bind to {stream.to} ({e.strerror}); assign the address to the receiver"
            ) from e
        listener.listen(1)
        listener.settimeout(stream.timeout)
        with netns(stream.from_netns):
            sender = socket.socket(family, socket.SOCK_STREAM)
        with contextlib.closing(sender):
            sender.settimeout(min(stream.timeout, 10.0))
            try:
                sender.connect(listener.getsockname()[:2])
                receiver = listener.accept()[0]
            except OSError as e:
                raise ProbeError(f"{what}: connection failed ({e.strerror or 'timed out'})") from e
            with contextlib.closing(receiver):
                return _transfer(stream, sender, receiver, what)


def _transfer(stream: Stream, sender: socket.socket, receiver: socket.socket, what: str) -> StreamResult:
    pattern = memoryview(bytes(range(251)) * (CHUNK // 251 + 1))[:CHUNK]
    sent = got = sum_sent = sum_got = 0
    buffer = memoryview(bytearray(CHUNK))
    # Read before the connection closes: struct tcp_info, include/uapi/linux/tcp.h
    info = receiver.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    began = time.monotonic()
    sender.setblocking(False)
    receiver.setblocking(False)
    with selectors.DefaultSelector() as ready:
        ready.register(sender, selectors.EVENT_WRITE)
        ready.register(receiver, selectors.EVENT_READ)
        while got < stream.size:
            remaining = began + stream.timeout - time.monotonic()
            if remaining <= 0:
                raise ProbeError(f"{what}: {got} of {stream.size} bytes received within {stream.timeout:g} s")
            for key, _events in ready.select(remaining):
                try:
                    if key.fileobj is sender:
                        n = sender.send(pattern[: min(CHUNK, stream.size - sent)])
                        sum_sent = zlib.crc32(pattern[:n], sum_sent)
                        sent += n
                        if sent == stream.size:
                            ready.unregister(sender)
                    else:
                        n = receiver.recv_into(buffer)
                        if n == 0:
                            raise ProbeError(f"{what}: connection closed after {got} of {stream.size} bytes")
                        sum_got = zlib.crc32(buffer[:n], sum_got)
                        got += n
                except BlockingIOError:
                    continue
                except OSError as e:
                    raise ProbeError(
                        f"{what}: connection failed after {got} of {stream.size} bytes ({e.strerror})"
                    ) from e
    seconds = time.monotonic() - began
    if sum_sent != sum_got:
        raise ProbeError(f"{what}: the received data differs from the sent data")
    # tcpi_snd_wscale:4, tcpi_rcv_wscale:4 share byte 6
    mss = sender.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    return StreamResult(stream, seconds, info[6] >> 4, mss)
