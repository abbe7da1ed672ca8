# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read what Cilium's settings require of a node, and the devices of its Pods."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .._kernel import link_kinds, netlink, netns
from .._node import bpf_helpers
from .._node.host import Host
from .model import Node

_IFINFO = bytes(16)  # struct ifinfomsg: all devices
_OFFSET = 16 + len(_IFINFO)  # struct nlmsghdr
_INFO_KIND, _INFO_DATA = 1, 2
_GSO_MAX_SIZE, _TSO_MAX_SIZE, _GSO_IPV4_MAX_SIZE = 41, 59, 63
LEGACY_SIZE = 65536  # bytes; the limit of kernels that do not report one


@dataclass(frozen=True)
class Device:
    """A device of the current namespace; sizes in bytes, 0 where the kernel does not report them.

    ``limit`` is the largest GSO packet of the device; ``netns_id`` identifies the other end's namespace, -1
    if it has none.
    """

    name: str
    kind: str
    gso: int
    gso_ipv4: int
    limit: int
    netns_id: int


def read() -> dict[str, Device]:
    """Return the devices of the current network namespace by name."""
    with netlink.Socket(netlink.NETLINK_ROUTE) as rtnl:
        found = [_device(message) for message in rtnl.dump_bytes(_IFINFO, netlink.RTM_GETLINK)]
    return {device.name: device for device in found}


def _device(message: bytes) -> Device:
    values = netlink.attributes(message[_OFFSET:])
    info = netlink.attributes(values.get(netlink.IFLA_LINKINFO, b""))
    kind = netlink.text(info.get(_INFO_KIND, b""))
    settings = link_kinds.readable(kind, netlink.attributes(info.get(_INFO_DATA, b"")))
    raw = values.get(netlink.IFLA_LINK_NETNSID)
    return Device(
        netlink.text(values[netlink.IFLA_IFNAME]),
        # As Cilium names the mode of its devices.
        "netkit-l2" if kind == "netkit" and settings.get("mode") == "l2" else kind,
        netlink.number(values.get(_GSO_MAX_SIZE, b"")),
        netlink.number(values.get(_GSO_IPV4_MAX_SIZE, b"")),
        netlink.number(values.get(_TSO_MAX_SIZE, b"")) or LEGACY_SIZE,
        -1 if raw is None else int.from_bytes(raw, sys.byteorder, signed=True),
    )


def support(names: Sequence[str], host: Host | None = None) -> dict[str, Any]:
    """Return what the node supports, as the fields of ``model.Node``; ``names`` are the devices of Cilium."""
    host = host or Host()
    found = read()
    native = [found[name] for name in names if name in found]
    release = os.uname().release
    netkit = netlink.has_link_kind("netkit")
    # The kernel added both attributes together with BIG TCP, and reports them for each device.
    loopback = found["lo"]
    return asdict(
        Node(
            kernel=release,
            netkit=netkit,
            netkit_scrub=netkit and "scrub" in netlink.known_attributes("netkit", ("SCRUB",)),
            missing_helpers=bpf_helpers.missing(),
            ipv4_big_tcp=loopback.gso_ipv4 > 0,
            ipv6_big_tcp=loopback.limit > LEGACY_SIZE,
            gso_limit=min((device.limit for device in native), default=0),
            bbr=_has_bbr(host, release),
            fq=_has_fq(host, release),
        )
    )


def _has_bbr(host: Host, release: str) -> bool:
    """Return whether the congestion control bbr is available, or its module is installed."""
    if "bbr" in host.read("/proc/sys/net/ipv4/tcp_available_congestion_control").split():
        return True
    return _is_installed(host, release, "tcp_bbr")


def _has_fq(host: Host, release: str) -> bool:
    """Return whether the agent's bandwidth manager can make fq the default qdisc.

    Only the first network namespace has the sysctl: without it, the agent disables its bandwidth manager.
    """
    current = host.read("/proc/sys/net/core/default_qdisc")
    return current == "fq" or (current != "" and _is_installed(host, release, "sch_fq"))


def _is_installed(host: Host, release: str, module: str) -> bool:
    """Return whether the kernel has a module, built in or as a file."""
    files = (host.read(f"/lib/modules/{release}/modules.{name}") for name in ("dep", "builtin"))
    return any(f"/{module}.ko" in text for text in files)


def add_kinds(endpoints: Iterable[Mapping[str, Any]], found: Mapping[str, Device]) -> list[dict[str, Any]]:
    """Return the endpoints, each with the kind of its device; empty if the device does not exist."""
    return [{**one, "kind": found[one["device"]].kind if one["device"] in found else ""} for one in endpoints]


def by_kind(endpoints: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return the number of Pods by kind of their device."""
    counts: dict[str, int] = {}
    for one in endpoints:
        if one["kind"]:
            counts[one["kind"]] = counts.get(one["kind"], 0) + 1
    return counts


def namespace_of(device: Device) -> str:
    """Return the path of the network namespace of a device's other end; empty if there is none."""
    if device.netns_id < 0:
        return ""
    for path in netns.others():
        try:
            if netlink.netns_id(path) == device.netns_id:
                return path
        except OSError:  # the process has ended
            continue
    return ""
