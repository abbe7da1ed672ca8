# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire: a bridge with one tap a node, in a network namespace of the lab's own.

Taps carry virtio's header, so that segmentation and checksum offloads stay on between the nodes. The
machine's own bridges and firewall never see the wire.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from lablib.common import LabError, run

# Larger than every MTU a node may want: real switches stop here, too.
WIRE_MTU = 9216

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_TUNSETIFF = 0x400454CA  # linux/if_tun.h, as the flags below
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000

_NAMESPACES = Path("/run/netns")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Run the block in a named network namespace (setns(2), for this thread alone)."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(descriptor: int) -> None:
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise LabError(f"network namespace {namespace}: {os.strerror(ctypes.get_errno())}")

    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        other = os.open(_NAMESPACES / namespace, os.O_RDONLY)
        try:
            enter(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            enter(own)
    finally:
        os.close(own)


def exists(namespace: str) -> bool:
    """Tell whether the lab's namespace is there."""
    return (_NAMESPACES / namespace).exists()


def make(namespace: str) -> None:
    """Make the namespace and its bridge; neither speaks on the wire itself."""
    if exists(namespace):
        return
    run(["ip", "netns", "add", namespace])
    try:
        with inside(namespace):
            for scope in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
        bridge = ["type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0"]
        run(["ip", "-n", namespace, "link", "add", "wire", "mtu", str(WIRE_MTU), *bridge])
        run(["ip", "-n", namespace, "link", "set", "wire", "up"])
    except (LabError, OSError):
        remove(namespace)
        raise


def open_tap(namespace: str, name: str) -> int:
    """Make a tap on the wire and return its descriptor; the tap lives as long as that is open."""
    with inside(namespace):
        try:
            tap = os.open("/dev/net/tun", os.O_RDWR)
        except OSError as error:
            raise LabError(f"/dev/net/tun: {error.strerror}; load the module tun") from error
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        try:
            fcntl.ioctl(tap, _TUNSETIFF, request)
        except OSError as error:
            os.close(tap)
            raise LabError(f"tap {name} in namespace {namespace}: {error.strerror}") from error
    run(["ip", "-n", namespace, "link", "set", name, "mtu", str(WIRE_MTU), "master", "wire", "up"])
    return tap


def remove(namespace: str) -> bool:
    """Remove the namespace with all that is in it; return whether it was there."""
    if not exists(namespace):
        return False
    run(["ip", "netns", "del", namespace])
    return True
