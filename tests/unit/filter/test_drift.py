# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drift report has a row for each difference, and none for a converged node."""

from __future__ import annotations

from typing import Any

from ansible_collections.podnet.datapath.plugins.filter.drift import drift


def change(name: str, before: Any, after: Any) -> dict[str, Any]:
    return {"name": name, "before": before, "after": after}


def test_every_difference_is_a_row_with_its_other_writers() -> None:
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
        # Present on every node since Linux 6.12. Not drift, as no Pod has these values yet.
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
        "changes": ["pod1: create device"],
        "differences": {"endpoints": 2},
        "warnings": ["mtu: they differ"],
    }
    rows = drift({"sysctls": sysctls, "boot_args": boot, "nics": nics, "pods": pods})
    assert [tuple(row.values()) for row in rows] == [
        ("node", "net.ipv4.tcp_rmem", "1 2 3", "1 2 4", ["TuneD profile x /y: 1 2 3"]),
        ("pod1", "net.core.optmem_max", "1", "2", []),
        ("node", "2 connections use another window scale: a b", 7, None, []),
        ("warning", "look", None, None, []),
        ("boot", "running kernel", None, "iommu=pt", []),
        ("boot", "running kernel", "quiet", None, []),
        ("eth0", "mtu", 1500, 8264, []),
        ("boot", "/f is not up to date", None, None, []),
        ("Pods", "pod1: create device", None, None, []),
        ("Pods", "2 map entries of endpoints differ", None, None, []),
        ("warning", "mtu: they differ", None, None, []),
    ]


def test_a_converged_node_has_no_rows() -> None:
    assert drift({"sysctls": {"changed": False}, "boot_args": {"changed": False}, "nics": {}}) == []


def test_a_failed_result_is_a_row() -> None:
    (row,) = drift({"nics": {"failed": True, "msg": "nics: there is no eth7 here"}})
    assert (row["scope"], row["what"]) == ("nics", "check failed: nics: there is no eth7 here")
