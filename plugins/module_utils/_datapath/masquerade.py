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
# Above the ports of well-known servers. NodePort services use 30000 to 32767.
_LOWEST, _NODE_PORTS, _HIGHEST = 10000, (30000, 32767), 65535


def masquerade_ports(local: tuple[int, int]) -> tuple[int, int]:
    """Return first and last port for masqueraded connections, (1, 0) if there are none.

    ``local`` are first and last port of the node's own connections, net.ipv4.ip_local_port_range.
    """
    below = (_LOWEST, min(_NODE_PORTS[0], local[0]) - 1)
    above = (max(_NODE_PORTS[1], local[1]) + 1, _HIGHEST)
    first, last = max(below, above, key=lambda ports: ports[1] - ports[0])
    return (first, last) if first <= last else (1, 0)


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


def encode_node(ipv4: Address | None, ipv6: Address | None, ports: tuple[int, int]) -> bytes:
    """Return struct node_config."""
    return NODE.pack(ipv4.packed if ipv4 else bytes(4), *ports, ipv6.packed if ipv6 else bytes(16))
