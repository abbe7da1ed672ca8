# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selection of paths between Pods: a ring of nodes, and two Pods on the same node."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.filter.pod_paths import pod_paths

HOSTS: dict[str, dict[str, Any]] = {
    "bare": {},
    "one": {
        "pods_endpoints": [
            {"name": "a", "addresses": ["10.31.1.11/24", "fd31:1::11"]},
            {"name": "b", "addresses": ["10.31.1.12"]},
        ]
    },
    "empty": {"pods_endpoints": []},
    "two": {"pods_endpoints": [{"name": "c", "netns": "elsewhere", "addresses": ["10.31.2.11"]}]},
}


class RecordingHostvars(dict[str, dict[str, Any]]):
    """hostvars that record which hosts are read, because each read costs the controller time."""

    def __init__(self) -> None:
        super().__init__(HOSTS)
        self.read: list[str] = []

    def __getitem__(self, name: str) -> dict[str, Any]:
        self.read.append(name)
        return super().__getitem__(name)


def paths(node: str, hosts: list[str] | None = None) -> list[tuple[str, str]]:
    found = pod_paths(hosts or list(HOSTS), HOSTS, node)
    return [(path["netns"], path["to"]) for path in found]


def test_paths_lead_to_the_second_pod_and_to_the_next_node_with_pods() -> None:
    assert paths("one") == [("a", "10.31.1.12"), ("a", "10.31.2.11")]
    assert paths("two") == [("elsewhere", "10.31.1.11"), ("elsewhere", "fd31:1::11")]


def test_node_without_pods_has_no_path_and_single_node_has_local_paths_only() -> None:
    assert paths("bare") == [] == paths("empty")
    assert paths("one", ["one", "bare"]) == [("a", "10.31.1.12")]
    assert paths("two", ["two"]) == []


def test_node_outside_the_list_sends_to_the_first_node() -> None:
    assert paths("two", ["one"]) == [("elsewhere", "10.31.1.11"), ("elsewhere", "fd31:1::11")]


def test_node_with_a_foreign_datapath_is_no_target() -> None:
    cilium = {**HOSTS["two"], "preflight_node": {"driver": "none"}}
    managed = {**HOSTS["two"], "preflight_node": {"driver": "meta"}}
    one = HOSTS["one"]
    local = [{"netns": "a", "to": "10.31.1.12"}]
    assert pod_paths(["one", "two"], {"one": one, "two": cilium}, "one") == local
    hosts = {"one": one, "other": cilium, "two": managed}
    assert pod_paths([*hosts], hosts, "one") == [*local, {"netns": "a", "to": "10.31.2.11"}]


@pytest.mark.parametrize(("driver", "read"), [("meta", {"two", "one"}), ("none", {"two"})])
def test_only_required_hosts_are_read(driver: str, read: set[str]) -> None:
    hosts = RecordingHostvars()
    hosts["two"] = {**HOSTS["two"], "preflight_node": {"driver": driver}}
    pod_paths(["two", "one", "bare", "empty"], hosts, "two")
    assert {*hosts.read} == read
