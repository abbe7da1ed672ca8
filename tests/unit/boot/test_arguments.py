# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requested arguments, their risks, and the comparison with a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._boot import arguments, bootloader
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem

words = st.text("abcxyz_019.,:=/@%+~-", min_size=1, max_size=8).filter(lambda w: not w.startswith("="))
lines = st.lists(words, max_size=6, unique=True)


def test_dictionaries_and_lists_are_equivalent() -> None:
    assert arguments.parse({"iommu": "pt", "quiet": None, "init_on_free": 0}) == arguments.parse(
        ["iommu=pt", "quiet", "init_on_free=0"]
    )
    assert arguments.parse(["console=tty0", "console=ttyS0", "console=tty0"]) == [
        "console=tty0",
        "console=ttyS0",
    ]


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
     "init_on_alloc=off", "init_on_alloc=N"],
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
    assert bootloader.missing(tokens, [*line, *tokens]) == {}
    assert set(bootloader.missing(tokens, line)) >= set(tokens) - set(line)


def test_a_later_value_overrides_an_earlier_one() -> None:
    assert bootloader.missing(["iommu=pt"], ["ro", "iommu=pt", "iommu=off"]) == {"iommu=pt": "iommu=off"}
    assert bootloader.missing(["iommu=pt"], ["ro", "iommu=off", "iommu=pt"]) == {}
    assert bootloader.missing(["iommu=pt"], ["ro", "iommu=ptx", "xiommu=pt"]) == {"iommu=pt": ""}
    assert bootloader.missing(["console=tty0"], ["console=tty0", "console=ttyS0"]) == {}


@given(lines, lines, lines)
def test_only_managed_arguments_are_replaced(line: list[str], managed: list[str], tokens: list[str]) -> None:
    current = [*line, *managed]
    after = bootloader.replaced(current, managed, tokens)
    assert after == [*line, *tokens]
    assert bootloader.replaced(after, tokens, managed) == current
