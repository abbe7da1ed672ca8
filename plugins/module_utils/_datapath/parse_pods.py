# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse Pods of a declaration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .model import Pod
from .values import Problems, parse_address, parse_rate


def parse_pods(options: Mapping[str, Any], owner: str, problems: Problems) -> list[Pod]:
    """Return the Pods of this node (``endpoints``) and of other nodes (``remote_pods``)."""
    node = options.get("node") or ""
    return [
        _pod(raw, owner, node, f"{option}[{index}] ({raw.get('name') or raw.get('device') or ''})", problems)
        for option in ("endpoints", "remote_pods")
        for index, raw in enumerate(options.get(option) or ())
    ]


def _pod(raw: Mapping[str, Any], owner: str, node: str, option: str, problems: Problems) -> Pod:
    addresses = []
    for text in raw.get("addresses") or ():
        try:
            addresses.append(parse_address(text))
        except ValueError as error:
            problems.add(f"{option}: addresses", str(error))
    rate = 0
    if raw.get("rate"):
        try:
            rate = parse_rate(raw["rate"])
        except ValueError as error:
            problems.add(f"{option}: rate", str(error))
    return Pod(
        name=raw.get("name") or raw.get("device") or "",
        owner=owner,
        addresses=tuple(addresses),
        labels={key: str(value) for key, value in (raw.get("labels") or {}).items()},
        node=raw.get("node") or node,
        device=raw.get("device") or "",
        rate=rate,
        masquerade=bool(raw.get("masquerade")),
        anti_spoof=raw.get("anti_spoof") is not False,
    )
