# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attributes of the link kinds meta and netkit, and their classes for pyroute2.

Source: roles/meta_driver/files/meta_uapi.h, linux/if_link.h.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

# IFLA_INFO_DATA: name without prefix, number, and pyroute2's name of the data type.
_COMMON = (
    ("PEER_INFO", 1, "peer"),
    ("PRIMARY", 2, "uint8"),
    ("POLICY", 3, "uint32"),
    ("PEER_POLICY", 4, "uint32"),
    ("MODE", 5, "uint32"),
    ("SCRUB", 6, "uint32"),
    ("PEER_SCRUB", 7, "uint32"),
    ("HEADROOM", 8, "uint16"),
    ("TAILROOM", 9, "uint16"),
    ("PAIRING", 10, "uint32"),
)
ATTRIBUTES = {
    "netkit": _COMMON,
    "meta": (
        *_COMMON,
        ("PROG_FD", 32, "int32"),
        ("PEER_PROG_FD", 33, "int32"),
        ("PROG_ID", 34, "uint32"),
        ("PEER_PROG_ID", 35, "uint32"),
        ("PROG_TAG", 36, "hex"),
        ("PEER_PROG_TAG", 37, "hex"),
    ),
}
META = {name: number for name, number, _type in ATTRIBUTES["meta"]}
PRIMARY = META["PRIMARY"]  # of both kinds

ALIAS = "podnet:"  # prefix of IFLA_IFALIAS on the host's end of a managed pair: podnet:<owner>/<Pod>

POLICIES = {"pass": 0, "drop": 2}
MODES = {"l2": 0, "l3": 1}
_WORDS = {
    "policy": {number: word for word, number in POLICIES.items()},
    "mode": {number: word for word, number in MODES.items()},
    "scrub": {0: "none", 1: "default"},
}


def readable(kind: str, attributes: Mapping[int, bytes]) -> dict[str, Any]:
    """Return the IFLA_INFO_DATA attributes of a device by name, enum values by their names."""
    shown: dict[str, Any] = {}
    for name, number, coding in ATTRIBUTES.get(kind, ()):
        raw = attributes.get(number)
        if raw is None or coding == "peer":
            continue
        key = name.lower()
        value: Any = raw.hex() if coding == "hex" else int.from_bytes(raw, sys.byteorder)
        words = _WORDS.get(key[len("peer_") :] if key.startswith("peer_") else key, {})
        shown[key] = bool(value) if key == "primary" else words.get(value, value)
    return shown


def register(link: Any, nla: Any, veth_peer: Any) -> None:
    """Register both kinds with pyroute2, whose ``IPRoute`` supports them afterwards.

    The parameters are pyroute2's ``ifinfmsg``, ``nla``, and its class for the peer of a veth.
    """

    class pair(nla):  # type: ignore[misc]
        @staticmethod
        def peer(_message: Any, *args: Any, **kwargs: Any) -> Any:
            return veth_peer

    classes = {}
    for kind, attributes in ATTRIBUTES.items():
        prefix = f"IFLA_{kind.upper()}_"
        table = tuple((number, prefix + name, coding) for name, number, coding in attributes)
        classes[kind] = type(kind, (pair,), {"prefix": prefix, "nla_map": table})
    link.ifinfo.register_link_kind(module=classes)
