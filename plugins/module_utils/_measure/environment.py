# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment of a measurement: kernel, CPU, NICs and sysctls of a node.

Private to this collection: may change in any release. Reads only; values that a node does not
report are None.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
from typing import Any

# Sysctls that affect the results of a TCP benchmark.
SYSCTLS = (
    "net.core.default_qdisc",
    "net.core.netdev_max_backlog",
    "net.core.optmem_max",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.ipv4.ip_forward",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
    "net.ipv6.conf.all.forwarding",
)

# include/uapi/linux/sockios.h and ethtool.h: commands that return an ethtool_value
SIOCETHTOOL = 0x8946
OFFLOADS = {
    "rx-checksum": 0x14,
    "tx-checksum": 0x16,
    "scatter-gather": 0x18,
    "tso": 0x1E,
    "gso": 0x23,
    "gro": 0x2B,
}
ETHTOOL_GFLAGS, ETH_FLAG_LRO = 0x25, 1 << 15


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read().strip()
    except OSError:
        return None


def run_tool(*command: str) -> str | None:
    """Return the output of a tool; None if it is not installed or prints nothing."""
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False, timeout=30
    )
    return done.stdout.strip() or None


def cpu_model(cpuinfo: str) -> str:
    """Return the CPU model from /proc/cpuinfo; its key depends on the architecture."""
    for key in ("model name", "Model", "cpu model", "cpu", "CPU part", "vendor_id"):
        for line in cpuinfo.splitlines():
            name, found, value = line.partition(":")
            if found and name.strip() == key and value.strip():
                return value.strip()
    return platform.machine()


def is_emulated(model: str, virtualization: str | None) -> bool:
    """Return whether the CPU is emulated in software.

    systemd-detect-virt(1) reports ``qemu`` only for QEMU without KVM; QEMU's default CPU models contain TCG.
    """
    return virtualization == "qemu" or "TCG" in model


def _ethtool_value(sock: socket.socket, device: str, command: int) -> int | None:
    """Return an ``ethtool_value`` (ethtool.h) of a device; None if the driver has none."""
    value = array.array("I", [command, 0])
    request = struct.pack("16sP", device.encode()[:15], value.buffer_info()[0])
    try:
        fcntl.ioctl(sock, SIOCETHTOOL, request)
    except OSError:
        return None
    return value[1]


def links(details: str | None) -> dict[str, dict[str, Any]]:
    """Return kind, MTU, GSO/GRO sizes and global addresses by device from ``ip -d -j address show``."""
    found = {}
    for link in json.loads(details) if details else []:
        if "ifname" in link:
            found[link["ifname"]] = {
                "kind": link.get("linkinfo", {}).get("info_kind"),
                "addresses": [
                    f"{address['local']}/{address['prefixlen']}"
                    for address in link.get("addr_info", [])
                    if address.get("scope") == "global" and "local" in address
                ],
                **{
                    key: link.get(key)
                    for key in (
                        "mtu",
                        "qdisc",
                        "gso_max_size",
                        "gro_max_size",
                        "gso_ipv4_max_size",
                        "gro_ipv4_max_size",
                    )
                },
            }
    return found


def read_links() -> dict[str, dict[str, Any]]:
    """Return the devices of the current namespace; empty if iproute2 is not installed."""
    return links(run_tool("ip", "-d", "-j", "address", "show"))


def nic(device: str, link: dict[str, Any]) -> dict[str, Any]:
    """Return driver, speed (Mbit/s) and offloads of a device, merged into its ``links`` entry."""
    base = os.path.join("/sys/class/net", device)
    driver = None
    with contextlib.suppress(OSError):
        driver = os.path.basename(os.readlink(os.path.join(base, "device/driver")))
    mtu, speed = _read(os.path.join(base, "mtu")), _read(os.path.join(base, "speed"))
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        offloads = {name: _ethtool_value(sock, device, command) for name, command in OFFLOADS.items()}
        flags = _ethtool_value(sock, device, ETHTOOL_GFLAGS)
    offloads["lro"] = None if flags is None else int(bool(flags & ETH_FLAG_LRO))
    return {
        **link,
        "driver": driver,
        "mtu": int(mtu) if mtu else None,
        "speed": int(speed) if speed and int(speed) > 0 else None,
        "offloads": {name: None if on is None else bool(on) for name, on in offloads.items()},
    }


def environment(devices: list[str]) -> dict[str, Any]:
    """Return the properties of this node that affect benchmark results."""
    model = cpu_model(_read("/proc/cpuinfo") or "")
    virtualization = run_tool("systemd-detect-virt", "--vm")
    memory = (_read("/proc/meminfo") or "").split()
    release = dict(
        line.split("=", 1) for line in (_read("/etc/os-release") or "").splitlines() if "=" in line
    )
    found = read_links()
    return {
        "hostname": platform.node(),
        "distribution": release.get("PRETTY_NAME", "").strip('"') or None,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cmdline": _read("/proc/cmdline"),
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": int(memory[1]) // 1024 if len(memory) > 1 else None,
        "virtualization": virtualization,
        "emulated": is_emulated(model, virtualization),
        "nics": {device: nic(device, found.get(device, {})) for device in devices},
        "sysctls": {
            key: " ".join(value.split())
            for key in SYSCTLS
            for value in (_read("/proc/sys/" + key.replace(".", "/")),)
            if value is not None
        },
    }
