# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which namespaces are meant, which keys are theirs, and who else sets them."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netlink, sock_diag
from ansible_collections.podnet.datapath.plugins.module_utils._node import pod_netns
from ansible_collections.podnet.datapath.plugins.module_utils._node.pod_netns import Namespace
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import apply, window, writers

namespaces = st.lists(
    st.builds(
        Namespace,
        inode=st.tuples(st.just(4), st.integers(0, 99)),
        path=st.integers(0, 99).map(lambda n: f"/proc/{n}/ns/net"),
        name=st.text("abc", min_size=1, max_size=4),
        own=st.booleans(),
        foreign=st.booleans(),
        loopback_only=st.booleans(),
    ),
    max_size=8,
    unique_by=(lambda one: one.name, lambda one: one.path),
)
names = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


@given(namespaces, st.sampled_from(["managed", "all"]), names)
def test_a_pod_is_meant_by_the_rules_and_by_nothing_else(
    there: list[Namespace], select: str, excepted: list[str]
) -> None:
    meant, left = pod_netns.choose(there, select, [], excepted)
    for one in there:
        rule = one.own if select == "managed" else not (one.foreign or one.loopback_only)
        assert (one in meant) == (rule and one.name not in excepted)
        if select == "all":
            assert (one in meant) != (one.name in left)


@given(namespaces, names)
def test_named_pods_are_those_or_a_reason(there: list[Namespace], asked: list[str]) -> None:
    absent = set(asked) - {one.name for one in there}
    if absent:
        with pytest.raises(Problem, match="there is no network namespace"):
            pod_netns.choose(there, "named", asked, [])
        return
    meant, dummy = pod_netns.choose(there, "named", asked, [])
    assert {one.name for one in meant} == set(asked)


keys = st.sampled_from(["net/ipv4/tcp_rmem", "net/core/optmem_max", "net/core/rmem_max", "vm/swappiness"])
sets = st.dictionaries(keys, st.sampled_from(["1", "2"]))


@given(sets, st.sets(keys), sets)
def test_every_key_of_a_pod_is_written_there_or_true_on_the_node_or_named(
    asked: dict[str, str], own: set[str], host: dict[str, str]
) -> None:
    written, problems = apply.split(asked, own, host)
    wrong = {path for path in asked if path not in own and host.get(path) != asked[path]}
    assert set(written) == set(asked) & own
    assert len(problems) == len(wrong)
    assert all("one for the whole node" in problem for problem in problems)


def answer(family: int, ends: list[tuple[str, int]], options: int, scales: int) -> bytes:
    """An inet_diag_msg as the kernel lays it out, with the beginning of tcp_info."""
    ports = b"".join(struct.pack(">H", port) for dummy, port in ends)
    addresses = b"".join(socket.inet_pton(family, address).ljust(16, b"\0") for address, dummy in ends)
    head = struct.pack("=BBBB", family, 1, 0, 0) + ports + addresses
    info = bytes([1, 0, 0, 0, 0, options, scales, 0])
    return head.ljust(72, b"\0") + netlink.attribute(2, info)


@pytest.mark.parametrize(("options", "scales", "scale"), [(4, 0xC7, 12), (5, 0x7C, 7), (1, 0xC7, None)])
def test_a_connection_tells_the_scale_that_it_announces(options: int, scales: int, scale: int | None) -> None:
    one = sock_diag.parse(answer(socket.AF_INET6, [("fd31::1", 22), ("fd31::2", 40000)], options, scales))
    assert one == sock_diag.Connection("[fd31::1]:22", "[fd31::2]:40000", scale)
    two = sock_diag.parse(answer(socket.AF_INET, [("10.0.0.1", 22), ("10.0.0.2", 40000)], options, scales))
    assert two == sock_diag.Connection("10.0.0.1:22", "10.0.0.2:40000", scale)
    assert sock_diag.parse(bytes(72)) is None


def test_connections_are_counted_by_the_scale_that_is_not_wanted() -> None:
    found = [sock_diag.Connection("a", str(n), scale) for n, scale in enumerate([12, 7, 7, None, 0, 7])]
    assert sock_diag.by_scale(found, 12, examples=2) == [
        {"scale": 0, "count": 1, "examples": ["a 4"]},
        {"scale": 7, "count": 3, "examples": ["a 1", "a 2"]},
    ]
    assert [one["count"] for one in sock_diag.by_scale(found)] == [1, 1, 3, 1]


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A node with TuneD, whose profile includes another and overrides it."""
    for name, text in {
        "etc/tuned/active_profile": "mine\n",
        "etc/tuned/mine/tuned.conf": (
            "[main]\nsummary=x\ninclude=network-throughput\n[sysctl]\nnet.core.somaxconn = 2048\n"
        ),
        "usr/lib/tuned/network-throughput/tuned.conf": (
            '[sysctl]\n# no=1\nnet.ipv4.tcp_rmem="4096 131072 16777216"\nnet.core.somaxconn=>4096\n'
            "net.ipv4.udp_mem=3145728 4194304 16777216\nvm.swappiness=>10\n"
        ),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


WANTED = {
    window.TCP_RMEM: "4096 131072 134217728",
    "net/core/somaxconn": "4096",
    "vm/swappiness": "60",
    "net/ipv4/udp_mem": "3145728 4194304 16777216",
}
OWN = "/etc/sysctl.d/zz-podnet.conf"


@pytest.mark.parametrize("reapply", [None, "1", "0", "False"])
def test_tuned_is_a_writer_that_loses_unless_told_not_to_read_again(tuned: Path, reapply: str | None) -> None:
    if reapply:
        (tuned / "etc/tuned/tuned-main.conf").write_text(f"# x\nreapply_sysctl = {reapply}\n")
    found = writers.writers(WANTED, OWN, str(tuned))
    wins = reapply in ("0", "False")
    assert [(w.by, w.file, w.path, w.value, w.wins) for w in found] == [
        ("TuneD profile network-throughput", "/usr/lib/tuned/network-throughput/tuned.conf",
         window.TCP_RMEM, "4096 131072 16777216", wins),
        ("TuneD profile mine", "/etc/tuned/mine/tuned.conf", "net/core/somaxconn", "2048", wins),
    ]  # fmt: skip
    warnings = writers.writer_warnings(found, OWN)
    assert len(warnings) == (2 if wins else 0)
    assert all("set reapply_sysctl = 1" in warning for warning in warnings)


def test_tuned_reads_no_other_folder_again(tuned: Path) -> None:
    found = writers.writers(WANTED, "/usr/lib/sysctl.d/zz-podnet.conf", str(tuned))
    assert found and all(writer.wins for writer in found)


def test_profiles_that_include_each_other_end(tuned: Path) -> None:
    file = tuned / "usr/lib/tuned/network-throughput/tuned.conf"
    file.write_text("[main]\ninclude=mine\n" + file.read_text())
    assert len(writers.writers(WANTED, OWN, str(tuned))) == 2


def test_cilium_is_a_writer_where_it_runs(tmp_path: Path) -> None:
    wanted = {"net/ipv4/conf/all/rp_filter": "1", "net/core/bpf_jit_enable": "1"}
    assert writers.writers(wanted, OWN, str(tmp_path)) == []
    (tmp_path / "sys/class/net/cilium_host").mkdir(parents=True)
    file = tmp_path / "etc/sysctl.d/99-zzz-override_cilium.conf"
    file.parent.mkdir(parents=True)
    file.write_text("-net.ipv4.conf.*.rp_filter = 0\n")
    found = writers.writers(wanted, OWN, str(tmp_path))
    assert [(w.by, w.value, w.wins) for w in found] == [("Cilium", "0", False), ("cilium-agent", "0", True)]
    assert writers.writer_warnings(found, OWN) == [
        "cilium-agent sets net.ipv4.conf.all.rp_filter = 0 whenever it starts: ask for that value"
    ]
