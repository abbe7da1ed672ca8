# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse the option masquerade, and encode the entry of the map ``node``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .layout import NODE
from .model import Address, Masquerade
from .values import Problems, parse_address, parse_networks

# Source ports of masqueraded connections, outside of the default net.ipv4.ip_local_port_range
MASQUERADE_PORTS = (61000, 65535)


def parse_masquerade(options: Mapping[str, Any], problems: Problems) -> Masquerade:
    """Return the node's source addresses for masqueraded packets, by address family."""
    raw = options.get("masquerade") or {}
    addresses: dict[int, Any] = {}
    for version, option in ((4, "ipv4"), (6, "ipv6")):
        if raw.get(option):
            try:
                address = parse_address(raw[option])
            except ValueError as error:
                problems.add(f"masquerade: {option}", str(error))
                continue
            if address.version != version:
                problems.add(f"masquerade: {option}", f"{address} is an IPv{address.version} address")
            addresses[version] = address
    excluded = parse_networks(raw.get("except") or (), "masquerade: except", problems)
    return Masquerade(addresses.get(4), addresses.get(6), frozenset(excluded))


def encode_node(
    ipv4: Address | None, ipv6: Address | None, ports: tuple[int, int] = MASQUERADE_PORTS
) -> bytes:
    """Return struct node_config."""
    return NODE.pack(ipv4.packed if ipv4 else bytes(4), *ports, ipv6.packed if ipv6 else bytes(16))
