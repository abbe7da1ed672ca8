# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire between the nodes: a bridge with one tap per node, in a network namespace per lab.

The taps pass virtio-net headers on (IFF_VNET_HDR), so that segmentation and checksum offloads work between
the nodes. The namespace separates the wire from the host's bridges and firewall.
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

# The maximum MTU of common hardware switches.
WIRE_MTU = 9216

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_TUNSETIFF = 0x400454CA  # linux/if_tun.h, as the flags below
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000

_NAMESPACES = Path("/run/netns")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Run the block in a named network namespace; only the current thread enters it (setns(2))."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(descriptor: int) -> None:
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise LabError(f"cannot enter network namespace {namespace}: {os.strerror(ctypes.get_errno())}")

    original = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        target = os.open(_NAMESPACES / namespace, os.O_RDONLY)
        try:
            enter(target)
        finally:
            os.close(target)
        try:
            yield
        finally:
            enter(original)
    finally:
        os.close(original)


def exists(namespace: str) -> bool:
    """Return whether the namespace exists."""
    return (_NAMESPACES / namespace).exists()


def create(namespace: str) -> None:
    """Create the namespace and its bridge, without STP and IPv6, so that only the nodes send frames."""
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
    """Create a tap on the wire and return its file descriptor; closing that removes the tap."""
    with inside(namespace):
        try:
            tap = os.open("/dev/net/tun", os.O_RDWR)
        except OSError as error:
            raise LabError(
                f"cannot open /dev/net/tun: {error.strerror}; load the kernel module tun"
            ) from error
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        try:
            fcntl.ioctl(tap, _TUNSETIFF, request)
        except OSError as error:
            os.close(tap)
            raise LabError(f"cannot create tap {name} in namespace {namespace}: {error.strerror}") from error
    run(["ip", "-n", namespace, "link", "set", name, "mtu", str(WIRE_MTU), "master", "wire", "up"])
    return tap


def remove(namespace: str) -> bool:
    """Remove the namespace with its bridge and taps; return whether it existed."""
    if not exists(namespace):
        return False
    run(["ip", "netns", "del", namespace])
    return True
