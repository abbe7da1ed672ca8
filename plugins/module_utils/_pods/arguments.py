# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Argument specs of Pods' devices, shared by several modules."""

from __future__ import annotations

from typing import Any

from .model import SIZES

_DRIVERS = ["auto", "meta", "netkit", "veth"]

POD: dict[str, Any] = {
    "name": {"type": "str", "required": True},
    "netns": {"type": "str"},
    "interface": {"type": "str", "default": "eth0"},
    "host_interface": {"type": "str"},
    "addresses": {"type": "list", "elements": "str", "default": []},
    "driver": {"type": "str", "choices": _DRIVERS},
    "mtu": {"type": "int"},
}
DEVICES: dict[str, Any] = {
    "driver": {"type": "str", "choices": _DRIVERS, "default": "auto"},
    "trusted_pods": {"type": "bool", "default": True},
    "mtu": {"type": "int"},
    "mode": {"type": "str", "choices": ["l2", "l3"], "default": "l3"},
    "policy": {"type": "str", "choices": ["drop", "pass"], "default": "drop"},
    **{size: {"type": "int"} for size in SIZES},
    "ipv4_advmss": {"type": "int"},
    "host_routes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "to": {"type": "str", "required": True},
            "via": {"type": "str"},
            "dev": {"type": "str", "required": True},
        },
    },
}
