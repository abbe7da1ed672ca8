# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Format the state of the datapath for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _label(value: object) -> str:
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def prometheus(info: Mapping[str, Any]) -> str:
    """Return the state of ``info.gather`` in the text format of node_exporter's textfile collector."""
    lines: list[str] = []

    def metric(name: str, kind: str, text: str) -> None:
        lines.extend((f"# HELP podnet_{name} {text}", f"# TYPE podnet_{name} {kind}"))

    def sample(name: str, value: object, **labels: object) -> None:
        inside = ",".join(f'{key}="{_label(one)}"' for key, one in labels.items())
        lines.append(f"podnet_{name}{{{inside}}} {value}" if inside else f"podnet_{name} {value}")

    metric("packets_total", "counter", "Packets by Pod, direction and reason.")
    for pod in info["pods"]:
        for direction, counted in pod["packets"].items():
            for reason, count in counted.items():
                sample(
                    "packets_total",
                    count,
                    pod=pod["name"],
                    owner=pod["owner"],
                    direction=direction,
                    reason=reason,
                )
    for reason, count in info["packets"].items():
        sample("packets_total", count, pod="", owner="", direction="", reason=reason)
    metric("connections", "gauge", "Entries of the connection tracking map.")
    sample("connections", info["connections"]["entries"])
    metric("connections_max", "gauge", "Capacity of the connection tracking map.")
    sample("connections_max", info["connections"]["max"])
    metric(
        "map_entries", "gauge", "Entries of the maps that are computed from declarations, in both buffers."
    )
    for name, size in info["maps"].items():
        sample("map_entries", size["entries"], map=name)
    metric("map_entries_max", "gauge", "Capacity of these maps.")
    for name, size in info["maps"].items():
        sample("map_entries_max", size["max"], map=name)
    metric("service_share", "gauge", "Share of a service's new connections by backend, in percent.")
    for service in info["services"]:
        for backend in service["backends"]:
            sample(
                "service_share",
                backend["share"],
                service=service["name"],
                address=backend["address"],
                port=backend["port"],
            )
    return "\n".join(lines) + "\n"
