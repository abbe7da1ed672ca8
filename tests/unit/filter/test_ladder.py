# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of the benchmark: the plan for its nodes, and the summary of its runs."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.filter.ladder import ladder
from ansible_collections.podnet.datapath.plugins.filter.ladder_plan import ladder_plan


def run(
    rung: str, number: int, value: float, test: str = "tcp_stream", group: str = "wire"
) -> dict[str, Any]:
    """Return a run like the module netperf_ladder."""
    return {
        "round": number,
        "warmup": number == 0,
        "group": group,
        "rung": rung,
        "test": test,
        "start": 0.0,
        "elapsed": 1.0,
        "forwarded": 3,
        "mbits" if test == "tcp_stream" else "transactions": value,
    }


RUNGS = [{"group": "wire", "name": "host", "mtu": 8264}, {"group": "wire", "name": "meta"}]


def test_medians_ignore_the_warm_up_run() -> None:
    runs = [run("host", 0, 1.0), run("host", 1, 90.0), run("host", 2, 110.0), run("host", 3, 100.0)]
    summary = ladder(runs, RUNGS)[0]["rungs"][0]
    assert summary["mtu"] == 8264
    assert summary["tests"]["tcp_stream"]["metrics"]["mbits"] == {
        "samples": [90.0, 110.0, 100.0],
        "median": 100.0,
        "min": 90.0,
        "max": 110.0,
    }
    assert summary["tests"]["tcp_stream"]["metrics"]["forwarded"]["median"] == 3
    assert summary["tests"]["tcp_stream"]["variation"] == 0.1
    assert summary["tests"]["tcp_stream"]["ratio_to_first"] == 1
    assert summary["tests"]["tcp_stream"]["ratio_to_previous"] is None


def test_ratio_is_computed_within_each_round() -> None:
    # The machine halves its speed in each round; meta always reaches 80 % of host.
    runs = [run("host", n, 1000 / 2**n) for n in range(1, 4)] + [
        run("meta", n, 800 / 2**n) for n in (3, 1, 2)
    ]
    assert ladder(runs, RUNGS)[0]["rungs"][1]["tests"]["tcp_stream"]["ratio_to_first"] == 0.8


def test_previous_rung_is_the_one_listed_before() -> None:
    rungs = [{"group": "wire", "name": name} for name in ("host", "veth", "meta")]
    runs = [run("host", 1, 100.0), run("veth", 1, 50.0), run("meta", 1, 75.0)]
    meta = ladder(runs, rungs)[0]["rungs"][2]["tests"]["tcp_stream"]
    assert (meta["ratio_to_first"], meta["ratio_to_previous"]) == (0.75, 1.5)


def test_groups_and_tests_are_separate() -> None:
    rungs = [*RUNGS, {"group": "local", "name": "meta"}]
    runs = [run("meta", 1, 5.0), run("meta", 1, 7.0, "tcp_rr"), run("meta", 1, 9.0, group="local")]
    wire, local = ladder(runs, rungs)
    assert [group["name"] for group in (wire, local)] == ["wire", "local"]
    assert wire["rungs"][0]["tests"] == {}
    assert wire["rungs"][1]["tests"]["tcp_stream"]["metrics"]["mbits"]["median"] == 5
    assert wire["rungs"][1]["tests"]["tcp_stream"]["ratio_to_first"] is None
    assert wire["rungs"][1]["tests"]["tcp_rr"]["metrics"]["transactions"]["median"] == 7
    assert local["rungs"][0]["tests"]["tcp_stream"]["metrics"]["mbits"]["median"] == 9


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=9))
def test_median_lies_between_minimum_and_maximum(values: list[float]) -> None:
    metric = ladder([run("host", n, v) for n, v in enumerate(values, 1)], RUNGS)[0]["rungs"][0]["tests"][
        "tcp_stream"
    ]["metrics"]["mbits"]
    assert metric["min"] <= metric["median"] <= metric["max"]
    assert sorted(metric["samples"]) == sorted(values)


def test_rung_without_group_is_an_error() -> None:
    with pytest.raises(AnsibleFilterError, match="lacks 'group' or 'name'"):
        ladder([], [{"name": "host"}])


def nodes() -> list[dict[str, Any]]:
    """Return two nodes like those of the lab."""
    return [
        {
            "name": "node1",
            "uplink": "wire0",
            "addresses": ["172.31.0.1/30", "fd31::1/64"],
            "pods": [
                {"name": "pod1", "addresses": ["10.31.1.11/32", "fd31:1::11/128"]},
                {"name": "pod2", "netns": "two", "addresses": ["10.31.1.12/32"]},
            ],
        },
        {
            "name": "node2",
            "uplink": "wire0",
            "addresses": ["172.31.0.2/30", "fd31::2/64"],
            "pods": [{"name": "pod3", "addresses": ["fd31:2::11/128", "10.31.2.11/32"]}],
        },
    ]


ALL = ["host", "veth_stack", "veth_bpf", "pods"]


def test_rungs_between_nodes_and_within_the_client() -> None:
    plan = ladder_plan(nodes(), ALL)
    assert [tuple(rung.values()) for rung in plan["rungs"]] == [
        ("wire-ipv4", "host", None, "172.31.0.2"),
        ("wire-ipv4", "veth_stack", "benchmark-veth-stack-1", "198.18.1.11"),
        ("wire-ipv4", "veth_bpf", "benchmark-veth-bpf-1", "198.18.1.21"),
        ("wire-ipv4", None, "pod1", "10.31.2.11"),
        ("local-ipv4", "veth_stack", "benchmark-veth-stack-1", "198.18.0.12"),
        ("local-ipv4", "veth_bpf", "benchmark-veth-bpf-1", "198.18.0.22"),
        ("local-ipv4", None, "pod1", "10.31.1.12"),
    ]
    assert plan["nodes"]["node1"]["servers"][-1] == {"netns": "two", "address": "10.31.1.12"}
    assert plan["nodes"]["node2"]["servers"][0] == {"netns": None, "address": "172.31.0.2"}


@given(
    st.lists(st.sampled_from(ALL), min_size=1, unique=True),
    st.lists(st.sampled_from(["ipv4", "ipv6"]), min_size=1, unique=True),
    st.booleans(),
)
def test_each_rung_has_a_server_and_a_namespace(rungs: list[str], families: list[str], local: bool) -> None:
    plan = ladder_plan(nodes(), rungs, families, local)
    created = plan["nodes"]
    for node in ("node1", "node2"):
        assert len({pod["host_interface"] for pod in created[node]["pods"]}) == len(created[node]["pods"])
        devices = {pod["host_interface"] for pod in created[node]["pods"] if "bpf" in pod["name"]}
        assert {entry["device"] for entry in created[node]["endpoints"]} == devices
        assert {a["device"] for a in created[node]["attachments"]} == devices
        routed = {route["to"] for route in created[node]["host_routes"]}
        assert len(routed) == (len(families) if created[node]["pods"] else 0)
    for rung in plan["rungs"]:
        server = created["node1" if rung["group"].startswith("local") else "node2"]
        assert rung["target"] in [one["address"] for one in server["servers"]]
        clients = {pod["name"] for pod in created["node1"]["pods"]} | {None, "pod1"}
        assert rung["netns"] in clients
    servers = [tuple(one.values()) for node in created.values() for one in node["servers"]]
    assert len(set(servers)) == len(servers) == len(plan["rungs"])


def test_single_pod_has_no_local_rung() -> None:
    one = nodes()
    del one[0]["pods"][1]
    assert [rung["group"] for rung in ladder_plan(one, ["pods"])["rungs"]] == ["wire-ipv4"]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda n: n[1].update(pods=[]), {}, "needs a Pod with an ipv4 address on node2"),
        (
            lambda n: n[1].update(addresses=["fd31::2/64"]),
            {},
            "node2 has no global ipv4 address on its uplink 'wire0'",
        ),
        (lambda n: n[1].update(name="node1"), {}, "two different nodes"),
        (lambda n: n.pop(), {}, "two different nodes"),
        (
            lambda n: None,
            {"rungs": ["host", "mata"]},
            "rung 'mata' must be one of host, veth_stack, veth_bpf, pods",
        ),
        (lambda n: None, {"families": ["ipv5"]}, "family 'ipv5' must be one of ipv4, ipv6"),
    ],
)
def test_error_names_the_node_and_what_is_missing(
    change: Any, arguments: dict[str, Any], message: str
) -> None:
    changed = nodes()
    change(changed)
    with pytest.raises(AnsibleFilterError, match=message):
        ladder_plan(changed, **{"rungs": ALL, **arguments})
