# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Summarise the datapath of this node on one screen."""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .info import gather
from .layout import POD_SLOTS
from .node import read_interfaces

AGENT = "/run/podnet/agent.sock"
_TIMEOUT = 10.0  # seconds
_KINDS = {"pods": "Pods", "policies": "NetworkPolicy objects"}


def agent_state(path: str = AGENT) -> str:
    """Return ``ready``, or why the node agent cannot attach Pods; empty if this node has no agent.

    Sends the command STATUS as the CNI plugin does.
    """
    if not os.path.isdir(os.path.dirname(path)) or not os.path.exists("/etc/podnet/agent.json"):
        return ""
    request = b'CNI_COMMAND=STATUS\0\0{"cniVersion": "1.1.0", "name": "status"}'
    received = b""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_TIMEOUT)
            client.connect(path)
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(1 << 16):
                received += part
        status, _newline, body = received.partition(b"\n")
        return "ready" if status == b"0" else f"not available: {json.loads(body)['msg']}"
    except (OSError, ValueError, KeyError) as error:
        return f"does not respond: {error} (systemctl status podnet-agent)"


def agent_warnings(path: str = f"{AGENT}.warnings") -> list[str]:
    """Return the warnings of the node agent."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def cluster_summary(now: float, path: str = f"{AGENT}.cluster") -> str:
    """Return what the agent knows of the cluster; empty if it does not read its policies or services."""
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
        changed = max(0, round(now - found.pop("changed")))
    except (OSError, ValueError, KeyError):
        return ""
    counts = ", ".join(f"{count} {_KINDS.get(name, name)}" for name, count in found.items())
    return f"{counts}; last change {changed} s ago"


def uplinks(pin_path: str) -> list[str]:
    """Return the devices with an attached program for packets from other nodes."""
    pins = Path(pin_path).glob("links/*/*-ingress")
    return sorted(unquote(pin.name.removesuffix("-ingress")) for pin in pins)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "none"


def summary(
    info: Mapping[str, Any], kinds: Mapping[str, str], devices: Sequence[str], agent: str, cluster: str = ""
) -> list[str]:
    """Return the lines of the summary. Pure.

    ``info`` is that of ``info.gather``, ``kinds`` the kinds of devices by name, ``devices`` the uplinks.
    ``cluster`` is empty without one.
    """
    pods = info["pods"]
    drops: Counter[str] = Counter()
    for counted in (info["packets"], *(one for pod in pods for one in pod["packets"].values())):
        drops.update({name: n for name, n in counted.items() if name.startswith("DROP_")})
    largest = ", ".join(f"{name[5:].replace('_', ' ').lower()} {n}" for name, n in drops.most_common(5))
    programs = ", ".join(f"{program['name']} ({program['tag'][:8]})" for program in info["programs"])
    connections = info["connections"]
    lines = {
        "agent": agent or "not installed",
        **({"cluster": cluster} if cluster else {}),
        "programs": programs,
        "uplinks": ", ".join(devices) or "none: packets from other nodes pass the upper stack",
        "Pods": f"{len(pods)} of {POD_SLOTS - 1}: {_counted(Counter(pod['owner'] for pod in pods))}",
        "devices": _counted(Counter(kinds.get(pod["device"], "missing") for pod in pods)),
        "policies": f"{sum(any(pod['policy'].values()) for pod in pods)} Pods are selected",
        "services": str(len(info["services"])),
        "host ports": str(sum(len(pod["host_ports"]) for pod in pods)),
        "connections": f"{connections['entries']} of {connections['max']}",
        "drops": largest or "none",
    }
    return [f"{name + ':':13}{text}" for name, text in lines.items()]


def status(pin_path: str) -> str:
    """Return the summary of this node. Raises ``Problem``."""
    kinds = {name: interface.kind for name, interface in read_interfaces().items()}
    cluster = cluster_summary(time.time())
    lines = summary(gather(pin_path), kinds, uplinks(pin_path), agent_state(), cluster)
    lines += [f"{'warning:':13}{warning}" for warning in agent_warnings()]
    return "\n".join(lines) + "\n"
