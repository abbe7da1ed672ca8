# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Describe the map entries and the declaration of an owner for Ansible's diff."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from typing import Any

from .image import Image
from .layout import number_of

_DEFAULTS: Mapping[str, Any] = {"labels": {}, "masquerade": False, "anti_spoof": True, "node": ""}


def describe(image: Image, options: Mapping[str, Any], owner: str, names: Mapping[int, str]) -> str:
    """Return a line for each endpoint and each declared object; ``names`` are devices by ifindex."""
    number = number_of(owner)
    lines = sorted(
        f"{ipaddress.ip_address(key)} at {_location(e.ifindex, names)}\n"
        for key, e in image.endpoints.items()
        if e.owner == number
    )
    for option in ("endpoints", "remote_pods", "policies", "services"):
        for one in options.get(option) or ():
            shown = {
                key: value
                for key, value in one.items()
                if key not in ("name", "device", "addresses")
                and (key not in _DEFAULTS or value != _DEFAULTS[key])
            }
            if shown:
                name = one.get("name", one.get("device"))
                lines.append(f"{option} {name}: {json.dumps(shown, sort_keys=True)}\n")
    if options.get("masquerade"):
        lines.append(f"masquerade: {json.dumps(options['masquerade'], sort_keys=True)}\n")
    return "".join(lines)


def _location(ifindex: int, names: Mapping[int, str]) -> str:
    if not ifindex:
        return "another node"
    return names.get(ifindex, f"a removed device (ifindex {ifindex})")
