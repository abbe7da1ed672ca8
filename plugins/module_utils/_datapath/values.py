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


# parse.h: ipv4_is_link_scope() and parse_ipv6() pass these to the stack. Pods have no link-local addresses.
_NOT_ROUTED = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
        *("::/32", "fe80::/10", "ff00::/8"),
    )
]


def parse_address(text: str) -> Address:
    """Return a unicast address; a prefix length is ignored. Raises ``ValueError``."""
    try:
        address = ipaddress.ip_interface(text).ip
    except ValueError:
        raise ValueError(f"'{text}' is not a valid IPv4 or IPv6 address{_hint(text)}") from None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        raise ValueError(f"'{text}' is an IPv4-mapped address; write it as {address.ipv4_mapped}")
    if any(address in network for network in _NOT_ROUTED):
        raise ValueError(f"'{text}' is not a routable unicast address")
    return address


def _hint(text: str) -> str:
    """Return what an address contains that other parsers accept, empty if nothing is known."""
    if re.search(r"(^|\.)0\d", text):
        return "; remove leading zeros, which some programs read as octal"
    return "; remove the zone" if "%" in text else ""


def parse_network(text: str) -> Network:
    """Return a network like Kubernetes: without host bits, an IPv4-mapped one as IPv4.

    Raises ``ValueError``.
    """
    try:
        given = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f"'{text}' is not a valid IPv4 or IPv6 network{_hint(text)}") from None
    if "%" in text:
        raise ValueError(f"'{text}' is not a valid IPv6 network{_hint(text)}")
    mapped = given.ip.ipv4_mapped if isinstance(given.ip, ipaddress.IPv6Address) else None
    if mapped is None:
        return given.network
    length = given.network.prefixlen - 96
    if length < 0:
        raise ValueError(
            f"'{text}' is an IPv4-mapped address with a prefix length below 96, which is neither an IPv4 nor"
            f" an IPv6 network; use {mapped}/32 or {given.network}"
        )
    return ipaddress.ip_network((mapped, length), strict=False)


def parse_networks(texts: Iterable[str], option: str, problems: Problems) -> list[Network]:
    """Return the valid networks, which may overlap."""
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(parse_network(text))
        except ValueError as error:
            problems.add(option, str(error))
    return networks


def parse_number(value: object, option: str, limit: int, problems: Problems) -> int | None:
    """Return a number from 0 to ``limit``, None for None and for an invalid value."""
    if value is None:
        return None
    try:
        number = int(str(value))
    except ValueError:
        problems.add(option, f"'{value}' is not a number; names are not supported")
        return None
    if not 0 <= number <= limit:
        problems.add(option, f"{number} is outside of 0 to {limit}")
        return None
    return number


def parse_rate(text: str | int) -> int:
    """Return bytes per second. Raises ``ValueError``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmg]?bit)", str(text).strip().lower())
    if not match:
        raise ValueError(f"'{text}' is not a rate like 100mbit; the units are {', '.join(RATE_UNITS)}")
    rate = round(float(match[1]) * RATE_UNITS[match[2]])
    if not MIN_RATE <= rate <= MAX_RATE:
        raise ValueError(f"'{text}' is outside of 1mbit to 1000gbit")
    return rate // 8
