# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and write settings of a NIC with ethtool netlink and rtnetlink.

Netlink replies, unlike ioctl(2), omit unsupported settings, and errors carry a message of the kernel
(extack). Requires Linux 5.7 and no library.

Sources: Documentation/networking/ethtool-netlink.rst, linux/ethtool_netlink.h, linux/if_link.h, netlink(7);
net/core/rtnetlink.c (do_setlink(), for the GSO and GRO sizes).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Union

from . import netlink

Setting = Union[int, bool, str]

_NETLINK_GENERIC, _SOL_NETLINK = 16, 270
_CAP_ACK, _EXT_ACK = 10, 11  # NETLINK_CAP_ACK, NETLINK_EXT_ACK
_NESTED = 0x8000
_RTM_SETLINK = 19
_ERROR_MESSAGE = 1  # NLMSGERR_ATTR_MSG
_GENL_CONTROL, _GETFAMILY, _FAMILY_ID, _FAMILY_NAME = 16, 3, 1, 2

_INTEGER = struct.Struct("=I")
_GENERIC = struct.Struct("=BBxx")  # genlmsghdr: command, version
_IFINFO = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change

# ETHTOOL_MSG_*_GET; the number of the SET message is one more.
_FEATURES, _PRIV_FLAGS = 11, 13
_HEADER, _DEVICE_INDEX = 1, 1  # ETHTOOL_A_*_HEADER, ETHTOOL_A_HEADER_DEV_INDEX
_FEATURES_HW, _FEATURES_WANTED, _FEATURES_ACTIVE, _FEATURES_NOCHANGE = 2, 3, 4, 5
_PRIV_FLAGS_FLAGS = 2
_BITSET_NOMASK, _BITSET_BITS, _BIT, _BIT_NAME, _BIT_VALUE = 1, 3, 1, 2, 3

_SIOCETHTOOL, _GDRVINFO = 0x8946, 3


@dataclass(frozen=True)
class Field:
    """A numeric setting: its attribute, the attribute of its maximum (0: none), and whether it is a flag.

    ``words`` are the values of a flag for off and on.
    """

    attribute: int
    maximum: int = 0
    flag: bool = False
    words: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Group:
    """Settings of one ethtool message, by their names in ethtool(8). ``get`` is the GET message."""

    get: int
    fields: Mapping[str, Field]


GROUPS = {
    "channels": Group(
        17,
        {"rx": Field(6, 2), "tx": Field(7, 3), "other": Field(8, 4), "combined": Field(9, 5)},
    ),
    "rings": Group(
        15,
        {
            "rx": Field(6, 2),
            "rx-mini": Field(7, 3),
            "rx-jumbo": Field(8, 4),
            "tx": Field(9, 5),
            "rx-buf-len": Field(10),
            # ETHTOOL_TCP_DATA_SPLIT_DISABLED and _ENABLED; absent if the driver does not support it.
            "tcp-data-split": Field(11, flag=True, words=(1, 2)),
            "cqe-size": Field(12),
            "tx-push": Field(13, flag=True),
            "rx-push": Field(14, flag=True),
            "tx-push-buf-len": Field(15, 16),
            "hds-thresh": Field(17, 18),
        },
    ),
    "coalesce": Group(
        19,
        {
            "rx-usecs": Field(2),
            "rx-frames": Field(3),
            "rx-usecs-irq": Field(4),
            "rx-frames-irq": Field(5),
            "tx-usecs": Field(6),
            "tx-frames": Field(7),
            "tx-usecs-irq": Field(8),
            "tx-frames-irq": Field(9),
            "stats-block-usecs": Field(10),
            "adaptive-rx": Field(11, flag=True),
            "adaptive-tx": Field(12, flag=True),
            "pkt-rate-low": Field(13),
            "rx-usecs-low": Field(14),
            "rx-frames-low": Field(15),
            "tx-usecs-low": Field(16),
            "tx-frames-low": Field(17),
            "pkt-rate-high": Field(18),
            "rx-usecs-high": Field(19),
            "rx-frames-high": Field(20),
            "tx-usecs-high": Field(21),
            "tx-frames-high": Field(22),
            "sample-interval": Field(23),
            "cqe-mode-tx": Field(24, flag=True),
            "cqe-mode-rx": Field(25, flag=True),
        },
    ),
    "pause": Group(
        21,
        {"autoneg": Field(2, flag=True), "rx": Field(3, flag=True), "tx": Field(4, flag=True)},
    ),
}

# IFLA_*. do_setlink() applies the IPv4 sizes after the others, so that one message may set all.
_MTU, _MIN_MTU, _MAX_MTU, _TSO_MAX_SIZE = 4, 50, 51, 59
_XDP, _XDP_ATTACHED = 43, 2
SIZES = {"gso_max_size": 41, "gro_max_size": 58, "gso_ipv4_max_size": 63, "gro_ipv4_max_size": 64}
# GSO_MAX_SIZE and GRO_MAX_SIZE of linux/netdevice.h, 8 * 65535: the maximum of any device.
_LARGEST_SIZE = 524280


class Refused(OSError):
    """The error with which the kernel rejected a request; its message is the extack if there is one."""


@dataclass(frozen=True)
class Nic:
    """The current settings of a NIC.

    Settings are named ``mtu``, ``gso_max_size`` and so on, ``rings.rx``, ``features.rx-gro``,
    ``priv_flags.<flag>``. Settings that driver or kernel do not support are missing. ``fixed`` features
    cannot be changed. ``wanted`` is the requested state (wanted_features) of a feature, which may be off
    because a feature that it depends on is off.
    """

    name: str
    index: int
    driver: str
    values: Mapping[str, Setting]
    minimum: Mapping[str, int]
    maximum: Mapping[str, int]
    fixed: frozenset[str]
    wanted: Mapping[str, bool]
    xdp: bool = False  # whether an XDP program is attached


def _each(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield type and payload of each attribute; a type may occur more than once."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if not 4 <= length <= len(data):
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def _nest(kind: int, *attributes: bytes) -> bytes:
    return netlink.attribute(kind | _NESTED, b"".join(attributes))


def _number(payload: bytes) -> int:
    """Return an unsigned integer in native byte order."""
    return int.from_bytes(payload, "little" if struct.pack("=H", 1)[0] else "big")


def _bits(payload: bytes) -> dict[str, bool]:
    """Return the named bits of a verbose bitset. A bitset without a mask lists only bits that are set."""
    attributes = dict(_each(payload))
    nomask = _BITSET_NOMASK in attributes
    found = {}
    for kind, bit in _each(attributes.get(_BITSET_BITS, b"")):
        if kind == _BIT:
            parts = dict(_each(bit))
            found[parts[_BIT_NAME].rstrip(b"\0").decode()] = nomask or _BIT_VALUE in parts
    return found


def _bitset(kind: int, values: Mapping[str, Setting]) -> bytes:
    """Return a bitset attribute that sets or clears the named bits only."""
    bits = [
        _nest(
            _BIT,
            netlink.attribute(_BIT_NAME, name.encode() + b"\0"),
            netlink.attribute(_BIT_VALUE, b"") if value else b"",
        )
        for name, value in values.items()
    ]
    return _nest(kind, _nest(_BITSET_BITS, *bits))


def group_values(prefix: str, answer: Mapping[int, bytes]) -> tuple[dict[str, Setting], dict[str, int]]:
    """Return the settings of a group and their maxima from the attributes of a reply."""
    values: dict[str, Setting] = {}
    maximum: dict[str, int] = {}
    for word, field in GROUPS[prefix].fields.items():
        if field.attribute in answer:
            number = _number(answer[field.attribute])
            values[f"{prefix}.{word}"] = number == field.words[1] if field.flag else number
        if field.maximum in answer:
            maximum[f"{prefix}.{word}"] = _number(answer[field.maximum])
    # A driver that reports hds-thresh supports tcp-data-split; mlx5 omits the latter until it is set.
    if "rings.hds-thresh" in values:
        values.setdefault("rings.tcp-data-split", False)
    return values, maximum


class _Socket:
    """A netlink socket for one request at a time."""

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, payload: bytes) -> list[bytes]:
        """Send a request and return the payloads of the replies. Raises ``Refused``."""
        header = struct.pack(
            "=IHHII", 16 + len(payload), kind, netlink.NLM_F_REQUEST | netlink.NLM_F_ACK, 1, 0
        )
        self._socket.send(header + payload)
        answers = []
        while True:
            for answer, body in netlink.messages(self._socket.recv(1 << 18)):
                if answer != netlink.NLMSG_ERROR:
                    answers.append(body)
                    continue
                error = -struct.unpack_from("=i", body)[0]
                if error:
                    words = dict(_each(body[20:])).get(_ERROR_MESSAGE, b"").rstrip(b"\0").decode()
                    raise Refused(error, words or os.strerror(error))
                return answers


class Ethtool:
    """Read and write NICs of the network namespace of the calling thread."""

    def __init__(self) -> None:
        self._route = _Socket(netlink.NETLINK_ROUTE)
        self._generic = _Socket(_NETLINK_GENERIC)
        self._family = _GENL_CONTROL
        (answer,) = self._ask(_GETFAMILY, netlink.attribute(_FAMILY_NAME, b"ethtool\0"))
        self._family = _number(answer[_FAMILY_ID])

    def close(self) -> None:
        """Close the sockets."""
        self._route.close()
        self._generic.close()

    def _ask(self, command: int, payload: bytes) -> list[dict[int, bytes]]:
        message = _GENERIC.pack(command, 1) + payload
        return [dict(_each(body[4:])) for body in self._generic.request(self._family, message)]

    def _device(self, index: int) -> bytes:
        return _nest(_HEADER, netlink.attribute(_DEVICE_INDEX, _INTEGER.pack(index)))

    def _get(self, command: int, index: int) -> dict[int, bytes]:
        """Return the attributes of the reply; empty if the driver does not support the group."""
        try:
            (answer,) = self._ask(command, self._device(index))
        except Refused as refusal:
            if refusal.errno == errno.EOPNOTSUPP:
                return {}
            raise
        return answer

    def driver(self, name: str) -> tuple[str, str]:
        """Return driver and bus address of a NIC, empty if it has none (ETHTOOL_GDRVINFO, not in netlink)."""
        buffer = ctypes.create_string_buffer(struct.pack("=I", _GDRVINFO), 196)
        request = struct.pack("16sP16x", name.encode(), ctypes.addressof(buffer))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                fcntl.ioctl(sock, _SIOCETHTOOL, request)
            except OSError:
                return "", ""
        words = [buffer.raw[at : at + 32].partition(b"\0")[0].decode() for at in (4, 100)]
        return words[0], words[1]

    def read(self, name: str) -> Nic:
        """Return all settings of the NIC ``name``. Raises ``OSError`` if it does not exist."""
        index = socket.if_nametoindex(name)
        values: dict[str, Setting] = {}
        minimum: dict[str, int] = {}
        maximum: dict[str, int] = {}

        answer = self._route.request(netlink.RTM_GETLINK, _IFINFO.pack(0, 0, index, 0, 0))[0]
        attached = dict(_each(dict(_each(answer[_IFINFO.size :])).get(_XDP, b""))).get(_XDP_ATTACHED, b"\0")
        link = {kind: _number(data) for kind, data in _each(answer[_IFINFO.size :]) if len(data) == 4}
        values["mtu"] = link[_MTU]
        minimum["mtu"] = link.get(_MIN_MTU, 0)
        if link.get(_MAX_MTU):
            maximum["mtu"] = link[_MAX_MTU]
        for setting, attribute in SIZES.items():
            if attribute in link:
                values[setting] = link[attribute]
                maximum[setting] = _LARGEST_SIZE
                if setting.startswith("gso"):
                    maximum[setting] = min(_LARGEST_SIZE, link.get(_TSO_MAX_SIZE, _LARGEST_SIZE))

        for prefix, group in GROUPS.items():
            current, limits = group_values(prefix, self._get(group.get, index))
            values.update(current)
            maximum.update(limits)

        attributes = self._get(_PRIV_FLAGS, index)
        for word, on in _bits(attributes.get(_PRIV_FLAGS_FLAGS, b"")).items():
            values[f"priv_flags.{word}"] = on

        attributes = self._get(_FEATURES, index)
        changeable, wanted, active, never = (
            _bits(attributes.get(kind, b""))
            for kind in (_FEATURES_HW, _FEATURES_WANTED, _FEATURES_ACTIVE, _FEATURES_NOCHANGE)
        )
        names = sorted({*changeable, *active, *never})
        values.update({f"features.{word}": active.get(word, False) for word in names})
        return Nic(
            name=name,
            index=index,
            driver=self.driver(name)[0],
            values=values,
            minimum=minimum,
            maximum=maximum,
            fixed=frozenset(
                f"features.{word}" for word in names if not changeable.get(word) or never.get(word)
            ),
            wanted={f"features.{word}": wanted.get(word, False) for word in names},
            xdp=attached != b"\0",
        )

    def write(self, index: int, group: str, values: Mapping[str, Setting]) -> None:
        """Write settings of one group in one message. Names are without the group.

        ``group`` is a key of ``GROUPS``, ``features``, ``priv_flags``, or ``link`` for MTU, GSO and GRO
        sizes. Raises ``Refused``.
        """
        if group == "link":
            attributes = {"mtu": _MTU, **SIZES}
            self._route.request(
                _RTM_SETLINK,
                _IFINFO.pack(0, 0, index, 0, 0)
                + b"".join(
                    netlink.attribute(attributes[word], _INTEGER.pack(value))
                    for word, value in values.items()
                ),
            )
        elif group == "features":
            self._ask(_FEATURES + 1, self._device(index) + _bitset(_FEATURES_WANTED, values))
        elif group == "priv_flags":
            self._ask(_PRIV_FLAGS + 1, self._device(index) + _bitset(_PRIV_FLAGS_FLAGS, values))
        else:
            payload = self._device(index)
            for word, value in values.items():
                field = GROUPS[group].fields[word]
                number = struct.pack("=B", field.words[bool(value)]) if field.flag else _INTEGER.pack(value)
                payload += netlink.attribute(field.attribute, number)
            self._ask(GROUPS[group].get + 1, payload)
