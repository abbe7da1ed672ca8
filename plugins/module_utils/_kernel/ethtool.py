# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and write settings of a NIC with ethtool netlink and rtnetlink.

Netlink replies, unlike ioctl(2), omit unsupported settings, and errors carry a message of the kernel
(extack). Requires Linux 5.7.

Sources: Documentation/networking/ethtool-netlink.rst, linux/ethtool_netlink.h, linux/if_link.h, netlink(7);
net/core/rtnetlink.c (do_setlink(), for the GSO and GRO sizes).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Union

from .messages import control_type, ethtool_type, message_types
from .netlink import NETLINK_GENERIC, KernelRefusal, Socket, decode
from .rtnl import RTM_SETLINK, Rtnl, nested

Setting = Union[int, bool, str]

_CONTROL, _GETFAMILY, _VERSION = 16, 3, 1  # GENL_ID_CTRL, CTRL_CMD_GETFAMILY, ETHTOOL_GENL_VERSION

# ETHTOOL_MSG_*_GET; the number of the SET message is one more.
_FEATURES, _PRIV_FLAGS = 11, 13
_FEATURES_ATTRIBUTES = {2: "hw", 3: "wanted", 4: "active", 5: "nochange"}
_PRIV_FLAGS_ATTRIBUTES = {2: "flags"}

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

# do_setlink() applies the IPv4 sizes after the others, so that one message may set all.
SIZES = ("gso_max_size", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size")
# GSO_MAX_SIZE and GRO_MAX_SIZE of linux/netdevice.h, 8 * 65535: the maximum of any device.
_LARGEST_SIZE = 524280


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


@functools.cache
def _type(prefix: str) -> Any:
    """Return the message of a group."""
    bitsets = {"features": _FEATURES_ATTRIBUTES, "priv_flags": _PRIV_FLAGS_ATTRIBUTES}.get(prefix)
    if bitsets:
        return ethtool_type({number: (name, "bitset") for number, name in bitsets.items()})
    attributes = {}
    for word, field in GROUPS[prefix].fields.items():
        attributes[field.attribute] = (word, "uint8" if field.flag else "uint32")
        if field.maximum:
            attributes[field.maximum] = (f"{word}-max", "uint32")
    return ethtool_type(attributes)


def _bits(bitset: Any) -> dict[str, bool]:
    """Return the named bits of a verbose bitset. A bitset without a mask lists only bits that are set."""
    bits = bitset.get_attr("BITS") if bitset else None
    nomask = bool(bits) and bool(bitset.get_attr("NOMASK"))
    return {
        bit.get_attr("NAME"): nomask or bool(bit.get_attr("VALUE"))
        for bit in (bits.get_attrs("BIT") if bits else ())
    }


def _bitset(values: Mapping[str, Setting]) -> dict[str, Any]:
    """Return a bitset that sets or clears the named bits only."""
    bits = [
        ("BIT", nested(("NAME", name), *([("VALUE", True)] if value else [])))
        for name, value in values.items()
    ]
    return nested(("BITS", nested(*bits)))


def group_values(prefix: str, answer: Any) -> tuple[dict[str, Setting], dict[str, int]]:
    """Return the settings of a group and their maxima from a reply; none for no reply."""
    values: dict[str, Setting] = {}
    maximum: dict[str, int] = {}
    found = dict(answer["attrs"]) if answer else {}
    for word, field in GROUPS[prefix].fields.items():
        if word in found:
            values[f"{prefix}.{word}"] = found[word] == field.words[1] if field.flag else found[word]
        if f"{word}-max" in found:
            maximum[f"{prefix}.{word}"] = found[f"{word}-max"]
    # A driver that reports hds-thresh supports tcp-data-split; mlx5 omits the latter until it is set.
    if "rings.hds-thresh" in values:
        values.setdefault("rings.tcp-data-split", False)
    return values, maximum


class Ethtool:
    """Read and write NICs of the network namespace of the calling thread."""

    def __init__(self) -> None:
        self._route = Rtnl()
        self._generic = Socket(NETLINK_GENERIC)
        message = control_type()()
        message["cmd"], message["version"] = _GETFAMILY, _VERSION
        message["attrs"] = [("CTRL_ATTR_FAMILY_NAME", "ethtool")]
        answer = decode(type(message), self._generic.get(message, _CONTROL))
        self._family = answer.get_attr("CTRL_ATTR_FAMILY_ID")

    def close(self) -> None:
        """Close the sockets."""
        self._route.close()
        self._generic.close()

    def _message(self, prefix: str, command: int, index: int) -> Any:
        message = _type(prefix)()
        message["cmd"], message["version"] = command, _VERSION
        message["attrs"] = [("HEADER", nested(("DEV_INDEX", index)))]
        return message

    def _get(self, prefix: str, command: int, index: int) -> Any:
        """Return the reply; ``None`` if the driver does not support the group."""
        message = self._message(prefix, command, index)
        try:
            return decode(type(message), self._generic.get(message, self._family))
        except KernelRefusal as refusal:
            if refusal.errno == errno.EOPNOTSUPP:
                return None
            raise

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

        link = self._route.link(index=index)
        values["mtu"] = link.get_attr("IFLA_MTU")
        minimum["mtu"] = link.get_attr("IFLA_MIN_MTU") or 0
        if link.get_attr("IFLA_MAX_MTU"):
            maximum["mtu"] = link.get_attr("IFLA_MAX_MTU")
        for setting in SIZES:
            size = link.get_attr(f"IFLA_{setting.upper()}")
            if size is not None:
                values[setting] = size
                maximum[setting] = _LARGEST_SIZE
                if setting.startswith("gso"):
                    maximum[setting] = min(_LARGEST_SIZE, link.get_attr("IFLA_TSO_MAX_SIZE") or _LARGEST_SIZE)
        xdp = link.get_attr("IFLA_XDP")

        for prefix, group in GROUPS.items():
            current, limits = group_values(prefix, self._get(prefix, group.get, index))
            values.update(current)
            maximum.update(limits)

        answer = self._get("priv_flags", _PRIV_FLAGS, index)
        for word, on in _bits(answer.get_attr("flags") if answer else None).items():
            values[f"priv_flags.{word}"] = on

        answer = self._get("features", _FEATURES, index)
        changeable, wanted, active, never = (
            _bits(answer.get_attr(name) if answer else None) for name in _FEATURES_ATTRIBUTES.values()
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
            xdp=bool(xdp and xdp.get_attr("IFLA_XDP_ATTACHED")),
        )

    def write(self, index: int, group: str, values: Mapping[str, Setting]) -> None:
        """Write settings of one group in one message. Names are without the group.

        ``group`` is a key of ``GROUPS``, ``features``, ``priv_flags``, or ``link`` for MTU, GSO and GRO
        sizes. Raises ``KernelRefusal``.
        """
        if group == "link":
            message = message_types().link()
            message["index"] = index
            message["attrs"] = [(f"IFLA_{word.upper()}", value) for word, value in values.items()]
            self._route.request(message, RTM_SETLINK)
            return
        commands = {"features": _FEATURES, "priv_flags": _PRIV_FLAGS}
        command = commands.get(group) or GROUPS[group].get
        message = self._message(group, command + 1, index)
        if group == "features":
            message["attrs"].append(("wanted", _bitset(values)))
        elif group == "priv_flags":
            message["attrs"].append(("flags", _bitset(values)))
        else:
            for word, value in values.items():
                field = GROUPS[group].fields[word]
                message["attrs"].append((word, field.words[bool(value)] if field.flag else int(value)))
        self._generic.request(message, self._family)
