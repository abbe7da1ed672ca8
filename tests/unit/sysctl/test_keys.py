# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and values of sysctls."""

from __future__ import annotations

import pytest
from hypothesis import given

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import (
    keys,
)
from tests.unit.sysctl.sysctl_values import paths


@given(paths)
def test_path_and_name_are_the_same_key(path: str) -> None:
    assert keys.path_of(keys.name_of(path)) == path == keys.path_of(path)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
    ],
)
def test_separators_are_parsed_as_in_sysctl_d(key: str, path: str) -> None:
    assert keys.path_of(key) == path


@pytest.mark.parametrize(
    "key", ["", "net", "net..x", "/etc/passwd", "../../etc/passwd", "net.ipv4.*", "a.b c", "a.b=1"]
)
def test_invalid_names_are_rejected(key: str) -> None:
    with pytest.raises(Problem, match="is not a valid sysctl name"):
        keys.parse({key: 1})


@pytest.mark.parametrize("value", [None, 1.5, [1, 2], {"a": 1}, "1\n2"])
def test_values_are_numbers_or_one_line(value: object) -> None:
    with pytest.raises(Problem, match=r"net\.ipv4\.x"):
        keys.parse({"net.ipv4.x": value})


def test_all_errors_are_reported_at_once() -> None:
    with pytest.raises(Problem) as raised:
        keys.parse({"net": 1, "net.a.b": None, "net.c.d": 1, "net/c/d": 2})
    assert str(raised.value).count("sysctls:") == 3
    assert "net/c/d: 2 and net.c.d: 1 are the same key" in str(raised.value)


def test_a_key_may_be_spelled_twice_with_one_value() -> None:
    assert keys.parse({"net.c.d": "1  2", "net/c/d": "1\t2 "}) == {"net/c/d": "1 2"}
    assert keys.parse({"net.c.d": True, "net.c.e": False}) == {"net/c/d": "1", "net/c/e": "0"}


@pytest.mark.parametrize(
    ("path", "written", "shown", "equal"),
    [
        ("net/ipv4/neigh/eth0/base_reachable_time_ms", "30001", "30004", True),
        ("net/ipv4/neigh/eth0/base_reachable_time_ms", "30001", "30010", True),
        ("net/ipv4/neigh/eth0/base_reachable_time_ms", "30001", "30005", False),
        ("net/ipv6/icmp/ratelimit", "1001", "1004", True),
        ("net/ipv4/neigh/eth0/locktime", "1", "0", True),
        ("net/ipv4/neigh/eth0/locktime", "99", "100", False),
        ("net/ipv4/tcp_fin_timeout", "30001", "30004", False),
        ("net/ipv4/tcp_fastopen_key", "A-0-0-1", "0000000a-00000000-00000000-00000001", True),
        ("net/ipv4/tcp_fastopen_key", "1-2-3-4,5-6-7-8", "1-2-3-4,5-6-7-9", False),
    ],
)
def test_values_that_the_kernel_shows_otherwise(path: str, written: str, shown: str, equal: bool) -> None:
    assert keys.same(path, written, shown) == keys.same(path, shown, written) == equal
