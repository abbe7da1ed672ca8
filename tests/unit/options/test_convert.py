# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conversion of option values to the types of the argument specs, and unknown variables."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.plugin_utils import options

NICS: dict[str, Any] = {
    "type": "list",
    "elements": "raw",
    "options": {
        "name": {"type": "str", "required": True},
        "mtu": {"type": "int"},
        "persist": {"type": "bool"},
        "steering": {"type": "dict", "options": {"rfs": {"type": "int"}}},
    },
}


@pytest.mark.parametrize(
    ("spec", "value", "expected"),
    [
        ({"type": "bool"}, "false", False),
        ({"type": "bool"}, "True", True),
        ({"type": "bool"}, "no", False),
        ({"type": "bool"}, 0, False),
        ({"type": "int"}, "0", 0),
        ({"type": "int", "choices": [-1, 0]}, " -1 ", -1),
        ({"type": "float"}, "2", 2.0),
        ({"type": "str"}, 198.18, "198.18"),
        ({"type": "str"}, 7, "7"),
        ({"type": "list", "elements": "str"}, "a, b", ["a", "b"]),
        ({"type": "list", "elements": "str"}, '["a,b"]', ["a,b"]),
        ({"type": "list", "elements": "str"}, "", []),
        ({"type": "list", "elements": "raw"}, "1,10%,100%", ["1", "10%", "100%"]),
        ({"type": "list", "elements": "raw"}, '[1, "10%"]', [1, "10%"]),
        ({"type": "list", "elements": "int"}, 1, [1]),
        ({"type": "dict"}, '{"a": [1, null]}', {"a": [1, None]}),
        ({"type": "raw"}, '{"iommu": "pt"}', {"iommu": "pt"}),
        ({"type": "raw"}, ["iommu=pt"], ["iommu=pt"]),
        ({"type": "raw"}, "web[0:2]", "web[0:2]"),
        (
            NICS,
            '[{"name": "a", "mtu": "9000", "persist": "no", "steering": {"rfs": "8"}}]',
            [{"name": "a", "mtu": 9000, "persist": False, "steering": {"rfs": 8}}],
        ),
        (NICS, [{"name": "a", "mtu": None}], [{"name": "a", "mtu": None}]),
    ],
)
def test_text_means_what_json_means(spec: dict[str, Any], value: object, expected: object) -> None:
    converted, problems = options.convert("x", spec, value)
    assert not problems
    assert (converted, type(converted)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("spec", "value", "message"),
    [
        ({"type": "bool"}, "maybe", "x: 'maybe' is not a boolean; set true or false"),
        ({"type": "bool"}, 2, "x: 2 is not a boolean; set true or false"),
        ({"type": "bool"}, "", "x: '' is not a boolean; set true or false"),
        ({"type": "int"}, "1.5", "x: '1.5' is not a non-negative integer; set a whole number from 0"),
        ({"type": "int"}, 1.5, "x: 1.5 is not a non-negative integer; set a whole number from 0"),
        ({"type": "int"}, True, "x: true is not a non-negative integer; set a whole number from 0"),
        ({"type": "int"}, None, "x: null is not a non-negative integer; set a whole number from 0"),
        ({"type": "int"}, -1, "x: -1 is not a non-negative integer; set a whole number from 0"),
        ({"type": "float"}, "-1", "x: '-1' is not a non-negative number; set a number from 0"),
        ({"type": "float"}, "nan", "x: 'nan' is not a non-negative number; set a number from 0"),
        ({"type": "str"}, True, "x: true is not a string; write it in quotes"),
        ({"type": "str"}, ["a"], 'x: ["a"] is not a string; write it in quotes'),
        (
            {"type": "list", "elements": "str"},
            {"a": 1},
            'x: {"a": 1} is not a list; write a YAML or JSON list',
        ),
        ({"type": "list", "elements": "str"}, "[a", "x: '[a' is not a list; write a YAML or JSON list"),
        ({"type": "list", "elements": "int"}, "1,b", "x[1]: 'b' is not a non-negative integer"),
        ({"type": "dict"}, "a=1", "x: 'a=1' is not a dictionary; write a YAML or JSON dictionary"),
        ({"type": "dict"}, "[1]", "x: '[1]' is not a dictionary"),
        ({"type": "raw"}, "{a", "x: '{a' is not valid JSON; correct the text"),
        (NICS, "eth0", "x: 'eth0' is not a list"),
        (NICS, [{"name": "a", "mtuu": 1}], "x[0]: unknown option 'mtuu'; did you mean mtu?"),
        (NICS, [{"name": "a", "z": 1}], "x[0]: unknown option 'z'; options: name, mtu, persist, steering"),
        (NICS, [{"mtu": 1}], "x[0]: option 'name' is required; add it"),
        (
            NICS,
            [{"name": "a", "steering": {"rfs": "b"}}],
            "x[0].steering.rfs: 'b' is not a non-negative integer",
        ),
        (
            {"type": "str", "choices": ["none", "throughput"]},
            "throughputt",
            "x: 'throughputt' is not one of none, throughput; did you mean throughput?",
        ),
        (
            {"type": "list", "elements": "str", "choices": ["host"]},
            "host,zzz",
            "x: 'zzz' is not one of host; set one of them",
        ),
        ({"type": "int", "choices": [1, 2]}, "3", "x: 3 is not one of 1, 2; set one of them"),
    ],
)
def test_other_type_is_refused(spec: dict[str, Any], value: object, message: str) -> None:
    problems = options.convert("x", spec, value)[1]
    assert len(problems) == 1 and problems[0].startswith(message)


def test_all_problems_are_reported() -> None:
    problems = options.convert("x", NICS, [{"mtu": "a"}, {"name": ["b"]}])[1]
    assert [problem.partition(":")[0] for problem in problems] == ["x[0]", "x[0].mtu", "x[1].name"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(value=JSON, kind=st.sampled_from(["bool", "int", "list", "dict"]))
def test_value_and_its_json_text_have_the_same_result(value: Any, kind: str) -> None:
    """Text is ambiguous only for strings: a string and its JSON text differ by the quotes."""
    spec = {"type": kind, "elements": "raw"}
    if isinstance(value, str) or (kind == "list" and not isinstance(value, list)):
        return
    first, second = (options.convert("x", spec, form) for form in (value, json.dumps(value)))
    assert bool(first[1]) == bool(second[1])
    assert first[1] or first[0] == second[0]


@pytest.mark.parametrize(
    ("name", "error", "warning"),
    [
        ("fleet_bathces", "did you mean fleet_batches?", ""),
        ("node_tuning_profil", "did you mean node_tuning_profile?", ""),
        ("podnet_host", "did you mean podnet_hosts?", ""),
        ("revert_forced", "did you mean revert_force?", ""),
        ("pods_network", "", "role pods has no such option"),
        ("audit_log_path", "", ""),
    ],
)
def test_unknown_variables(name: str, error: str, warning: str) -> None:
    assert options.is_reserved(name) and options.spec_of(name) is None
    found = options.unknown(name)
    assert bool(found[0]) == bool(error) and error in found[0]
    assert bool(found[1]) == bool(warning) and warning in found[1]


def test_other_variables_are_ignored() -> None:
    for name in ("ansible_host", "podsx", "preflight_node", "__pods_all_endpoints", "my_fleet_bathces"):
        assert not options.is_reserved(name)
