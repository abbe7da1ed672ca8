# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse addresses, networks and rates of a declaration."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from .model import Address, Network

RATE_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
# A packet of 64 KiB takes half a second at the minimum; fq drops packets that depart in more than ten
# seconds.
MIN_RATE, MAX_RATE = 10**6, 10**12  # bit/s


class Problems(list[str]):
    """Problems found so far."""

    def add(self, option: str, message: str) -> None:
        """Add a problem with the path of its option, as in ``services[0] (web): port``."""
        self.append(f"{option}: {message}")


def parse_address(text: str) -> Address:
    """Return a unicast address; a prefix length is ignored. Raises ``ValueError``."""
    try:
        address = ipaddress.ip_interface(text).ip
    except ValueError:
        raise ValueError(f"'{text}' is not a valid IPv4 or IPv6 address") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_link_local:
        raise ValueError(f"'{text}' is not a routable unicast address")
    return address


def parse_network(text: str) -> Network:
    """Return a network. Raises ``ValueError``."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"'{text}' is not a valid IPv4 or IPv6 network") from None
        raise ValueError(f"'{text}' has host bits set; use {network}") from None


def parse_networks(texts: Iterable[str], option: str, problems: Problems) -> list[Network]:
    """Return the valid networks, which must not overlap."""
    networks: list[Network] = []
    for text in texts:
        try:
            network = parse_network(text)
        except ValueError as error:
            problems.add(option, str(error))
            continue
        for other in networks:
            if network.version == other.version and network.overlaps(other):
                problems.add(option, f"{network} and {other} overlap; remove the smaller one")
        networks.append(network)
    return networks


def parse_rate(text: str | int) -> int:
    """Return bytes per second. Raises ``ValueError``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]?bit)", str(text).strip().lower())
    if not match:
        raise ValueError(f"'{text}' is not a rate like 100mbit; the units are {', '.join(RATE_UNITS)}")
    rate = round(float(match[1]) * RATE_UNITS[match[2]])
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"'{text}' is outside of 1mbit to 1000gbit")
    return rate // 8
