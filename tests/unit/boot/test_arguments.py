# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requested arguments, their risks, and the comparison with a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._boot import arguments, command_line
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem

words = st.text("abcxyz_019.,:=/@%+~-", min_size=1, max_size=8).filter(
    lambda w: not w.startswith("=") and w != "--"
)
lines = st.lists(words, max_size=6, unique_by=command_line.canonical)


def test_dictionaries_and_lists_are_equivalent() -> None:
    assert arguments.parse({"iommu": "pt", "quiet": None, "init_on_free": 0}) == arguments.parse(
        ["iommu=pt", "quiet", "init_on_free=0"]
    )


@pytest.mark.parametrize(
    "token",
    ['a="b c"', "a b", "a=$HOME", "a`id`", "a'b'", "a\\b", "a\nb", "", "=b", "a;b", "a&b", "(hd0)", "*", "ä"],
)
def test_characters_that_a_shell_interprets_are_rejected(token: str) -> None:
    with pytest.raises(Problem, match="has characters that a boot loader may interpret"):
        arguments.parse([token])


@pytest.mark.parametrize("args", ["iommu=pt", 1, None, {"a": True}, {"a": ["b"]}, [["a"], "b"]])
def test_other_types_are_rejected(args: object) -> None:
    with pytest.raises(Problem, match=r"^args: "):
        arguments.parse(args)


@pytest.mark.parametrize(
    "token",
    ["iommu=off", "iommu=noaperture,off", "intel_iommu=off", "amd_iommu=off", "init_on_alloc=0",
     "init_on_alloc=off", "init_on_alloc=N", "init-on-alloc=0", "intel-iommu=off", "amd-iommu=off"],
)  # fmt: skip
def test_disabled_protections_are_risks(token: str) -> None:
    assert list(arguments.risks(["quiet", token])) == [token]


def test_other_arguments_are_no_risks() -> None:
    assert (
        arguments.risks(["iommu=pt", "init_on_alloc=1", "init_on_alloc=on", "init_on_free=0", "off", "iommu"])
        == {}
    )


@given(lines, lines)
def test_appended_arguments_are_not_missing(tokens: list[str], line: list[str]) -> None:
    assert command_line.missing(tokens, [*line, *tokens]) == {}
    known = {*map(command_line.canonical, line)}
    absent = {token for token in tokens if command_line.canonical(token) not in known}
    assert set(command_line.missing(tokens, line)) >= absent


def test_a_later_value_overrides_an_earlier_one() -> None:
    assert command_line.missing(["iommu=pt"], ["ro", "iommu=pt", "iommu=off"]) == {"iommu=pt": "iommu=off"}
    assert command_line.missing(["iommu=pt"], ["ro", "iommu=off", "iommu=pt"]) == {}
    assert command_line.missing(["iommu=pt"], ["ro", "iommu=ptx", "xiommu=pt"]) == {"iommu=pt": ""}
    assert command_line.missing(["console=tty0"], ["console=tty0", "console=ttyS0"]) == {}


@given(lines, lines, lines)
def test_only_managed_arguments_are_replaced(line: list[str], managed: list[str], tokens: list[str]) -> None:
    current = [*line, *managed]
    after = command_line.replaced(current, managed, tokens)
    assert after == [*line, *tokens]
    assert command_line.replaced(after, tokens, managed) == current


def test_repeated_arguments_keep_number_and_order() -> None:
    huge = ["hugepagesz=1G", "hugepages=4", "hugepagesz=2M", "hugepages=4"]
    assert arguments.parse(huge) == huge
    assert arguments.parse(["console=tty0", "console=ttyS0", "console=tty0"])[2:] == ["console=tty0"]
    assert arguments.parse(["init_on_free=0", "init-on-free=0", "quiet", "quiet"]) == [
        "init_on_free=0",
        "quiet",
    ]
    assert command_line.missing(huge, huge) == {}
    assert command_line.missing(huge, huge[:3]) == {"hugepages=4": ""}
    assert (
        command_line.missing(["cgroup_enable=cpuset"], ["cgroup_enable=cpuset", "cgroup-enable=memory"]) == {}
    )


def test_the_end_of_the_kernels_arguments_is_no_argument() -> None:
    with pytest.raises(Problem, match="-- ends the arguments of the kernel"):
        arguments.parse(["quiet", "--"])


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ro  quiet\tiommu=pt\n", ["ro", "quiet", "iommu=pt"]),
        ("ro -- iommu=pt", ["ro"]),
        ('a "--" b', ["a"]),
        ('dyndbg="file a.c iommu=pt +p" ro', ['dyndbg="file a.c iommu=pt +p"', "ro"]),
        ('"dyndbg=file a.c -- +p" ro', ['"dyndbg=file a.c -- +p"', "ro"]),
        ('a="b -- c', ['a="b -- c']),
        ("a=-- b", ["a=--", "b"]),
        ("", []),
    ],
)
def test_words_are_separated_as_in_the_kernel(line: str, found: list[str]) -> None:
    assert command_line.words(line) == found


@pytest.mark.parametrize(
    "spelled", ["init_on_alloc=1", "init-on-alloc=1", 'init_on-alloc="1"', '"init-on_alloc=1"']
)
def test_names_and_quotes_are_compared_as_in_the_kernel(spelled: str) -> None:
    assert command_line.missing(["init_on_alloc=1"], [spelled]) == {}
    assert command_line.missing(["init_on_alloc=1"], ["init_on_alloc=1", spelled.replace("1", "0")]) == {
        "init_on_alloc=1": spelled.replace("1", "0")
    }
    assert arguments.stale(["init_on_alloc=1"], [], [spelled]) == ["init_on_alloc=1"]
    assert arguments.stale(["init_on_alloc=1"], [spelled], [spelled]) == []
