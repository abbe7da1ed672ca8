# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drift report: every difference is a row, and without one there is none."""

from __future__ import annotations

from typing import Any

from ansible_collections.podnet.datapath.plugins.filter.drift import drift


def change(name: str, before: Any, after: Any) -> dict[str, Any]:
    return {"name": name, "before": before, "after": after}


def test_every_difference_is_a_row_with_those_who_cause_it() -> None:
    sysctls = {
        "changed": True,
        "changes": [change("net.ipv4.tcp_rmem", "1 2 3", "1 2 4")],
        "pods": [{"netns": "pod1", "changes": [change("net.core.optmem_max", "1", "2")]}],
        "other_writers": [
            {
                "by": "TuneD profile x",
                "file": "/y",
                "key": "net.ipv4.tcp_rmem",
                "value": "1 2 3",
                "wins": True,
            },
            {"by": "cilium-agent", "file": "", "key": "a.b", "value": "1", "wins": True},
        ],
        "connections": [{"netns": "", "scale": 7, "count": 2, "examples": ["a b"]}],
        # Of every node from 6.12 on, and nothing that could be put right before there is such a Pod.
        "new_pod_defaults": {"net.core.optmem_max": "1"},
        "warnings": ["look"],
    }
    boot = {"changed": False, "changes": [], "missing": ["iommu=pt"], "stale": ["quiet"]}
    nics = {
        "changed": True,
        "nics": [{"name": "eth0", "changes": [change("mtu", 1500, 8264)]}],
        "files": ["/f"],
    }
    pods = {
        "changed": True,
        "changes": ["pod1: make device"],
        "warnings": ["mtu: they differ"],
    }
    rows = drift({"sysctls": sysctls, "boot_args": boot, "nics": nics, "pods": pods})
    assert [(row["where"], row["what"], row["now"], row["wanted"], row["others"]) for row in rows] == [
        ("node", "net.ipv4.tcp_rmem", "1 2 3", "1 2 4", ["TuneD profile x /y: 1 2 3"]),
        ("pod1", "net.core.optmem_max", "1", "2", []),
        ("node", "2 connections announce another window scale: a b", 7, None, []),
        ("warning", "look", None, None, []),
        ("boot", "running kernel", None, "iommu=pt", []),
        ("boot", "running kernel", "quiet", None, []),
        ("eth0", "mtu", 1500, 8264, []),
        ("boot", "/f is not what it is to be", None, None, []),
        ("Pods", "pod1: make device", None, None, []),
        ("warning", "mtu: they differ", None, None, []),
    ]


def test_a_node_as_wanted_has_no_rows() -> None:
    assert drift({"sysctls": {"changed": False}, "boot_args": {"changed": False}, "nics": {}}) == []


def test_what_cannot_be_is_a_row() -> None:
    (row,) = drift({"nics": {"failed": True, "msg": "nics: there is no eth7 here"}})
    assert (row["where"], row["what"]) == ("nics", "cannot be: nics: there is no eth7 here")
