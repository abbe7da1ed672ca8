# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which paths of Pods are tried: a ring of nodes, and the neighbour."""

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


class Asked(dict[str, dict[str, Any]]):
    """Hosts' variables that remember who was asked, as each costs the controller time."""

    def __init__(self) -> None:
        super().__init__(HOSTS)
        self.asked: list[str] = []

    def __getitem__(self, name: str) -> dict[str, Any]:
        self.asked.append(name)
        return super().__getitem__(name)


def paths(node: str, hosts: list[str] | None = None) -> list[tuple[str, str]]:
    found = pod_paths(hosts or list(HOSTS), HOSTS, node)
    return [(path["netns"], path["to"]) for path in found]


def test_to_the_neighbour_and_to_the_next_node_that_has_pods() -> None:
    assert paths("one") == [("a", "10.31.1.12"), ("a", "10.31.2.11")]
    assert paths("two") == [("elsewhere", "10.31.1.11"), ("elsewhere", "fd31:1::11")]


def test_a_node_without_pods_sends_nothing_and_one_alone_only_at_home() -> None:
    assert paths("bare") == [] == paths("empty")
    assert paths("one", ["one", "bare"]) == [("a", "10.31.1.12")]
    assert paths("two", ["two"]) == []


def test_a_node_that_is_not_in_question_itself_begins_at_the_first() -> None:
    assert paths("two", ["one"]) == [("elsewhere", "10.31.1.11"), ("elsewhere", "fd31:1::11")]


def test_a_node_whose_datapath_is_anothers_is_no_target() -> None:
    cilium = {**HOSTS["two"], "preflight_node": {"driver": "none"}}
    ours = {**HOSTS["two"], "preflight_node": {"driver": "meta"}}
    one = HOSTS["one"]
    at_home = [{"netns": "a", "to": "10.31.1.12"}]
    assert pod_paths(["one", "two"], {"one": one, "two": cilium}, "one") == at_home
    hosts = {"one": one, "other": cilium, "two": ours}
    assert pod_paths([*hosts], hosts, "one") == [*at_home, {"netns": "a", "to": "10.31.2.11"}]


@pytest.mark.parametrize(("driver", "asked"), [("meta", {"two", "one"}), ("none", {"two"})])
def test_no_more_hosts_are_asked_than_it_takes(driver: str, asked: set[str]) -> None:
    hosts = Asked()
    hosts["two"] = {**HOSTS["two"], "preflight_node": {"driver": driver}}
    pod_paths(["two", "one", "bare", "empty"], hosts, "two")
    assert {*hosts.asked} == asked
