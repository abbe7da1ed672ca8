# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the sysctls that the kernel changes along with another one.

The tables serve predictions: other writers, and the journal before a change. What a change reached is read.

Sources: devinet_conf_proc() and inet_forward_change() of net/ipv4/devinet.c; addrconf_sysctl_*() of
net/ipv6/addrconf.c; neigh_proc_update() of net/core/neighbour.c; tcp_set_default_congestion_control() of
net/ipv4/tcp_cong.c; dirty_bytes_handler() and others of mm/; Documentation/networking/ip-sysctl.rst.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from .keys import same

IP_FORWARD, FORWARDING4 = "net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"
FORWARDING6 = "net/ipv6/conf/all/forwarding"

# Returns the value that a key gets when another one is written, ``None`` if that is unknown.
Transform = Callable[[str], "str | None"]


def _equal(value: str) -> str | None:
    return value


def _unknown(value: str) -> str | None:
    return None


def _inverse(value: str) -> str | None:
    return "0" if value != "0" else "1"


def _seconds(value: str) -> str | None:
    return str(int(value) * 1000) if value.isdecimal() else None


def _milliseconds(value: str) -> str | None:
    return str(int(value) // 1000) if value.isdecimal() else None


def _ticks(value: str) -> str | None:
    return str(int(value) * 10) if value.isdecimal() else None  # USER_HZ is 100


def _tick_count(value: str) -> str | None:
    return str(int(value) // 10) if value.isdecimal() else None


def _zero(value: str) -> str | None:
    return "0"


@dataclass(frozen=True)
class Effect:
    """The kernel sets keys that match ``pattern`` to ``value_of`` the written value."""

    pattern: str
    value_of: Transform = _equal


# Pairs of keys for one value; with the value of the second after a write of the first, and vice versa.
_PAIRS: tuple[tuple[str, str, Transform, Transform], ...] = (
    (IP_FORWARD, FORWARDING4, _equal, _equal),
    ("net/nf_conntrack_max", "net/netfilter/nf_conntrack_max", _equal, _equal),
    ("vm/dirty_bytes", "vm/dirty_ratio", _zero, _zero),
    ("vm/dirty_background_bytes", "vm/dirty_background_ratio", _zero, _zero),
    ("vm/overcommit_kbytes", "vm/overcommit_ratio", _zero, _zero),
    ("vm/nr_hugepages", "vm/nr_hugepages_mempolicy", _equal, _equal),
    ("net/ipv4/route/gc_min_interval", "net/ipv4/route/gc_min_interval_ms", _seconds, _milliseconds),
    ("net/ipv6/route/gc_min_interval", "net/ipv6/route/gc_min_interval_ms", _seconds, _milliseconds),
)
_NEIGHBOUR_PAIRS: tuple[tuple[str, str, Transform, Transform], ...] = (
    ("base_reachable_time", "base_reachable_time_ms", _seconds, _milliseconds),
    ("retrans_time", "retrans_time_ms", _ticks, _tick_count),
    ("unres_qlen", "unres_qlen_bytes", _unknown, _unknown),
)
# IPv6 keys that the kernel copies from "all" to every interface and to "default".
_COPIED6 = ("addr_gen_mode", "disable_ipv6", "forwarding", "ignore_routes_with_linkdown")
# The kernel uses the larger of the values for "all" and for the interface.
_LARGER = (
    "accept_local", "arp_announce", "arp_filter", "arp_ignore", "log_martians", "proxy_arp", "rp_filter",
    "secure_redirects", "send_redirects", "shared_media",
)  # fmt: skip


def effects(path: str) -> Iterator[Effect]:
    """Yield what the kernel changes along with a key, without the key itself."""
    for first, second, after_first, after_second in _PAIRS:
        if path == first:
            yield Effect(second, after_first)
        elif path == second:
            yield Effect(first, after_second)
    if path in (IP_FORWARD, FORWARDING4):
        yield Effect("net/ipv4/conf/*/forwarding")
        yield Effect("net/ipv4/conf/all/accept_redirects", _inverse)
    if path == "net/ipv4/tcp_congestion_control":
        yield Effect("net/ipv4/tcp_allowed_congestion_control", _unknown)
    match = re.fullmatch(r"net/ipv([46])/(conf|neigh)/(.+)/([^/]+)", path)
    if not match:
        return
    version, group, name, key = match.groups()
    folder = f"net/ipv{version}/{group}"
    if group == "neigh":
        for first, second, after_first, after_second in _NEIGHBOUR_PAIRS:
            if key == first:
                yield Effect(f"{folder}/{name}/{second}", after_first)
                yield from _copied(name, folder, second, after_first)
            elif key == second:
                yield Effect(f"{folder}/{name}/{first}", after_second)
                yield from _copied(name, folder, first, after_second)
        yield from _copied(name, folder, key, _equal)
    elif version == "4" and key != "forwarding":
        yield from _copied(name, folder, key, _equal)
    elif version == "6" and name == "all" and key in _COPIED6:
        yield Effect(f"{folder}/*/{key}")
    elif version == "6" and key == "stable_secret":
        everywhere = "*" if name == "default" else name
        yield Effect(f"{folder}/{everywhere}/addr_gen_mode", _unknown)


def aliases(path: str) -> set[str]:
    """Return the keys that show the same value in another form."""
    patterns = {effect.pattern for effect in effects(path)}
    return {other for other in patterns if path in {effect.pattern for effect in effects(other)}}


def _copied(name: str, folder: str, key: str, value_of: Transform) -> Iterator[Effect]:
    """Yield the copies from "default" to interfaces for which nobody has set the key."""
    if name == "default":
        yield Effect(f"{folder}/*/{key}", value_of)


def conflicts(pattern: str, value: str, desired: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield written and desired key for each key of ``desired`` that a write to ``pattern`` changes.

    ``pattern`` is a path or, as in sysctl.d, a glob. Copies from "default" are no conflict, as the kernel
    copies only to interfaces without a value of their own.
    """
    for path in desired:
        if fnmatch.fnmatchcase(path, pattern):
            if not same(path, value, desired[path]):
                yield path, path
            continue
        for source in _sources(path):
            if fnmatch.fnmatchcase(source, pattern) and _differs(source, value, path, desired[path]):
                yield source, path
                break


def _sources(path: str) -> Iterable[str]:
    """Return keys whose write changes a key, or how the kernel uses it."""
    candidates = [key for pair in _PAIRS for key in pair[:2]] + ["net/ipv4/tcp_congestion_control"]
    match = re.fullmatch(r"(net/ipv[46]/(?:conf|neigh))/(.+)/([^/]+)", path)
    if match:
        folder, name, key = match.groups()
        candidates += [f"{folder}/all/{key}", f"{folder}/{name}/stable_secret"]
        candidates += [f"{folder}/{name}/{other}" for pair in _NEIGHBOUR_PAIRS for other in pair[:2]]
    return [source for source in dict.fromkeys(candidates) if source != path]


def _differs(source: str, value: str, path: str, desired: str) -> bool:
    """Return whether a write of ``value`` to ``source`` gives another effect than ``desired``."""
    for effect in effects(source):
        if fnmatch.fnmatchcase(path, effect.pattern):
            result = effect.value_of(value)
            return result is None or not same(path, result, desired)
    key = path.rpartition("/")[2]
    larger = source.startswith("net/ipv4/conf/all/") and key in _LARGER and source.endswith(f"/{key}")
    return larger and value.isdecimal() and desired.isdecimal() and int(value) > int(desired)
