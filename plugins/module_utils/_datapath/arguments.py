# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Argument specs of Pods, policies and services, shared by several modules."""

from __future__ import annotations

from typing import Any

STRINGS = {"type": "list", "elements": "str"}
POD_SELECTOR = {
    "labels": {"type": "dict"},
    "expressions": {
        "type": "list",
        "elements": "dict",
        "options": {
            "key": {"type": "str", "required": True, "no_log": False},
            "operator": {
                "type": "str",
                "required": True,
                "choices": ["In", "NotIn", "Exists", "DoesNotExist"],
            },
            "values": STRINGS,
        },
    },
    "names": STRINGS,
}
PEERS = {
    "type": "list",
    "elements": "dict",
    "options": {**POD_SELECTOR, "cidr": {"type": "str"}, "except": STRINGS, "host": {"type": "bool"}},
}
RULE = {
    "ports": {
        "type": "list",
        "elements": "dict",
        "options": {
            "protocol": {"type": "str", "default": "tcp"},
            **{name: {"type": "int"} for name in ("port", "end_port", "type", "code")},
        },
    },
    "action": {"type": "str", "choices": ["allow", "deny"], "default": "allow"},
}
DEFAULT = {"type": "str", "choices": ["allow", "deny"]}
POD = {"addresses": {**STRINGS, "required": True}, "labels": {"type": "dict", "default": {}}}


def list_of(options: dict[str, Any], **more: object) -> dict[str, Any]:
    """Return the argument spec of a list of dictionaries with these options."""
    return {"type": "list", "elements": "dict", "options": options, **more}


POLICIES: dict[str, Any] = {
    "remote_pods": list_of(
        {
            **POD,
            "name": {"type": "str", "required": True},
            "node": {"type": "str", "default": ""},
        },
        default=[],
    ),
    "policies": list_of(
        {
            "name": {"type": "str", "required": True},
            "pods": {"type": "dict", "options": POD_SELECTOR},
            "ingress": list_of({"from": PEERS, **RULE}),
            "egress": list_of({"to": PEERS, **RULE}),
            "ingress_default": DEFAULT,
            "egress_default": DEFAULT,
            "optional": {"type": "bool", "default": False},
        },
        default=[],
    ),
    "services": list_of(
        {
            "name": {"type": "str", "required": True},
            "address": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "protocol": {"type": "str", "default": "tcp"},
            "affinity": {"type": "int", "default": 0},
            "backends": list_of(
                {
                    "address": {"type": "str"},
                    "labels": {"type": "dict"},
                    "names": STRINGS,
                    "port": {"type": "int"},
                    "weight": {"type": "int", "default": 1},
                },
                required=True,
            ),
        },
        default=[],
    ),
    "masquerade": {
        "type": "dict",
        "options": {"ipv4": {"type": "str"}, "ipv6": {"type": "str"}, "except": STRINGS},
    },
    "stack_services": {**STRINGS, "default": []},
}
