# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Selection of the nodes that build a kernel module, its cache on the controller, and its installation."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail, AnsibleFilterError
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.action import kernel_module_build
from ansible_collections.podnet.datapath.plugins.filter.module_builders import module_builders
from ansible_collections.podnet.datapath.plugins.module_utils._kmod import delivery, files, loading

OLD, NEW = "6.1.0-56-amd64", "6.12.111+deb13-amd64"


def facts(
    release: str = OLD, missing: tuple[str, ...] = (), possible: bool = True, version: str = "#1"
) -> dict[str, Any]:
    """Return the facts of a node that the selection of builders depends on."""
    return {
        "kernel": {"release": release, "architecture": "x86_64", "version": version},
        "builder": {"possible": possible, "missing": list(missing), "packages": []},
    }


def test_twenty_nodes_with_two_kernels_have_two_builders() -> None:
    nodes = {f"node{n}": facts(OLD if n % 2 else NEW) for n in range(20)}
    plans = module_builders(nodes, list(nodes))
    assert sorted(plan["kernel"] for plan in plans.values()) == [OLD, NEW]
    assert sorted(name for plan in plans.values() for name in plan["nodes"]) == sorted(nodes)
    for plan in plans.values():
        assert plan["nodes"] == plan["candidates"] and len(plan["nodes"]) == 10


def test_nodes_with_compiler_come_first() -> None:
    nodes = {
        "bare": facts(missing=("headers", "gcc", "make")),
        "closed": facts(missing=("headers",), possible=False),
        "half": facts(missing=("headers",)),
        "ready": facts(),
    }
    plan = next(iter(module_builders(nodes, list(nodes)).values()))
    assert plan["candidates"] == ["ready", "half", "bare"]
    assert plan["nodes"] == list(nodes)


def test_node_of_an_earlier_batch_builds_if_the_batch_cannot() -> None:
    nodes = {"first": facts(), "second": facts(missing=("gcc",), possible=False)}
    plan = next(iter(module_builders(nodes, ["second"]).values()))
    assert plan["nodes"] == ["second"] and plan["candidates"] == ["first"]


def test_two_builds_of_one_release_are_two_kernels() -> None:
    nodes = {"a": facts(version="#1 Debian 6.1.192-1"), "b": facts(version="#1 Debian 6.1.192-2")}
    assert len(module_builders(nodes, list(nodes))) == 2


def test_invalid_facts_are_reported() -> None:
    with pytest.raises(AnsibleFilterError, match="node_info"):
        module_builders({"a": {}}, ["a"])


NODES = st.dictionaries(
    st.sampled_from([f"n{n}" for n in range(12)]),
    st.builds(
        facts,
        st.sampled_from([OLD, NEW]),
        st.lists(st.sampled_from(["headers", "gcc", "make"]), unique=True).map(tuple),
        st.booleans(),
        st.sampled_from(["#1", "#2"]),
    ),
)


@given(NODES, st.data())
def test_each_node_is_in_one_plan_and_each_candidate_has_its_kernel(
    nodes: dict[str, dict[str, Any]], data: st.DataObject
) -> None:
    batch = data.draw(st.lists(st.sampled_from(sorted(nodes)), unique=True)) if nodes else []
    plans = module_builders(nodes, batch)
    assert sorted(name for plan in plans.values() for name in plan["nodes"]) == sorted(batch)
    for key, plan in plans.items():
        able = {
            name
            for name in nodes
            if nodes[name]["builder"]["possible"] and delivery.kernel_key(nodes[name]) == key
        }
        assert set(plan["candidates"]) == able
        assert {delivery.kernel_key(nodes[name]) for name in plan["nodes"]} == {key}
        missing = [len(nodes[name]["builder"]["missing"]) for name in plan["candidates"]]
        assert missing == sorted(missing)


WANTED = delivery.Desired("meta", OLD, b"module")
THERE = delivery.Current(
    running=OLD,
    digest=WANTED.digest,
    srcversion="NEW",
    filename=files.delivered_file("meta", OLD),
    versions=(),
    loaded=loading.Loaded("NEW"),
    autoload=loading.autoload_text("meta"),
)


@pytest.mark.parametrize(
    ("change", "actions"),
    [
        ({}, []),
        ({"digest": "", "loaded": None, "autoload": ""}, ["install", "autoload", "load"]),
        ({"digest": "other", "loaded": loading.Loaded("OLD")}, ["install", "reload"]),
        ({"digest": "other"}, ["install"]),  # same source, for instance signed with another key
        ({"versions": ("0.0.9", "0.1.0")}, ["retire", "retire"]),
        ({"running": NEW, "loaded": None}, []),
        ({"loaded": loading.Loaded("OLD", 0, ("pn0",))}, []),
    ],
)
def test_plan_has_only_steps_for_differences(change: dict[str, Any], actions: list[str]) -> None:
    planned = delivery.plan(dataclasses.replace(THERE, **change), WANTED, "NEW")
    assert [step.action for step in planned.steps] == actions
    assert bool(planned.pending) == (change == {"loaded": loading.Loaded("OLD", 0, ("pn0",))})


MAGIC = f"{OLD} SMP preempt mod_unload modversions"


@pytest.mark.parametrize(
    ("fields", "serial", "word"),
    [
        ({"name": "meta", "vermagic": f"{MAGIC} "}, "", ""),
        ({"vermagic": MAGIC, "sig_key": "0A:BC"}, "ABC", ""),
        ({"name": "other", "vermagic": MAGIC}, "", "is the module other"),
        ({"vermagic": f"{NEW} SMP preempt mod_unload modversions"}, "", NEW),
        ({"vermagic": f"{OLD} SMP mod_unload"}, "", "vermagic"),
        ({"vermagic": MAGIC}, "ABC", "certificate (none)"),
        ({"vermagic": MAGIC, "sig_key": "0A:BD"}, "ABC", "ABD"),
        ({}, "", "another kernel"),
    ],
)
def test_module_for_another_kernel_or_key_is_rejected(fields: dict[str, str], serial: str, word: str) -> None:
    refusal = delivery.mismatch(dataclasses.replace(WANTED, serial=serial), fields, MAGIC)
    assert word in refusal and bool(refusal) == bool(word)


def test_cached_module_is_named_by_its_hash(tmp_path: Path) -> None:
    folder = str(tmp_path / "cache/one")
    assert kernel_module_build.cached_module(folder) == ""
    path = kernel_module_build.store_module(folder, b"module")
    assert kernel_module_build.cached_module(folder) == path and Path(path).read_bytes() == b"module"
    assert [name.name for name in Path(folder).iterdir()] == [Path(path).name]


def test_damaged_cached_module_is_rejected(tmp_path: Path) -> None:
    path = kernel_module_build.store_module(str(tmp_path), b"module")
    Path(path).write_bytes(b"modulf")
    with pytest.raises(AnsibleActionFail, match="damaged"):
        kernel_module_build.cached_module(str(tmp_path))


def test_two_nodes_must_build_for_nodes_that_share_a_kernel() -> None:
    shared, alone = {"a": facts(), "b": facts()}, {"c": facts(NEW)}
    plans = module_builders({**shared, **alone}, ["a", "c"])  # b is in another batch
    assert {plan["kernel"]: plan["agreement"] for plan in plans.values()} == {OLD: 2, NEW: 1}


def test_equal_builds_of_two_nodes_agree(tmp_path: Path) -> None:
    folder = str(tmp_path / "build")
    assert kernel_module_build.agreed(folder, "a", b"module", 1)
    assert not kernel_module_build.agreed(folder, "a", b"module", 2), "a node agrees with itself"
    assert kernel_module_build.agreed(folder, "b/../c", b"module", 2)
    assert (tmp_path / "build.builds").stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b%2F..%2Fc", "build.builds"]


def test_different_builds_are_refused_by_name(tmp_path: Path) -> None:
    folder = str(tmp_path / "build")
    kernel_module_build.agreed(folder, "node1", b"module", 2)
    for builder, content in (("node2", b"modulf"), ("node3", b"module")):
        with pytest.raises(AnsibleActionFail, match=f"{builder} and node[12] built different modules"):
            kernel_module_build.agreed(folder, builder, content, 2)


def test_candidates_build_in_turn_and_the_reason_of_each_failure_is_reported(tmp_path: Path) -> None:
    """All nodes are this machine, which has no headers for their kernels, so every build fails."""
    hosts = {f"n{n}": {"release": f"0.0.{n % 2}-none"} for n in range(6)}
    hosts["n0"]["unknown"] = "yes"  # not a candidate, because no package provides its headers
    inventory = {"all": {"hosts": hosts, "vars": {"ansible_connection": "local"}}}
    known = {
        "driver": "meta",
        "kernel": {"release": "{{ release }}", "architecture": "x86_64", "version": "#1"},
        "builder": {"possible": "{{ unknown is not defined }}", "missing": [], "packages": []},
    }
    play = {
        "hosts": "all",
        "gather_facts": False,
        "serial": [2, 4],
        "vars": {"meta_driver_cache": str(tmp_path / "cache"), "preflight_driver": "auto"},
        "pre_tasks": [{"ansible.builtin.set_fact": {"preflight_node": known}}],
        "roles": ["podnet.datapath.meta_driver"],
    }
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    command = ["ansible-playbook", "-i", "hosts.json", "play.yml", "-e", "ansible_become=false"]
    command += ["-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    # The first batch has two kernels, one of them without a candidate; the second has nodes for both.
    asked = re.findall(
        r"^fatal: \[(\w+)(?: -> (\w+))?\]: FAILED! => .*headers of kernel (\S+?):", said, re.MULTILINE
    )
    built: dict[str, list[str]] = {}
    for by, to, dummy in asked:
        built.setdefault(by, []).append(to or by)
    assert built == {"n1": ["n1"], "n2": ["n2", "n4"], "n3": ["n3", "n5", "n1"]}, said
    assert "0.0.0-none (candidates: none knows the package of the kernel headers)" in said
    assert "0.0.1-none (candidates: n3, n5, n1): missing: the headers of kernel 0.0.1-none" in said
    assert said.count("driver veth: fallback: meta is unavailable") == len(hosts)
    assert done.returncode == 0 and not (tmp_path / "cache").exists(), said
