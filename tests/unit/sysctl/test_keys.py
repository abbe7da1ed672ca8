# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, plans and the window scale: what holds for any node."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Change, Problem
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import apply, keys, window, writers

RMEM, WMEM, RMEM_MAX = window.TCP_RMEM, window.TCP_WMEM, window.RMEM_MAX
INT_MAX = 2**31 - 1

part = st.text("abcxyz019_-.", min_size=1, max_size=8).filter(lambda s: s not in (".", ".."))
paths = st.tuples(st.sampled_from(["net", "kernel", "vm"]), part, part).map("/".join)
values = st.one_of(st.integers(0, INT_MAX).map(str), st.sampled_from(["", "cubic", "1 0", "4096 1 2"]))
sizes = st.integers(1, INT_MAX)
triples = st.lists(sizes, min_size=3, max_size=3).map(lambda n: " ".join(map(str, sorted(n))))


def last(triple: str) -> int:
    return int(triple.split()[2])


@given(paths)
def test_a_path_and_its_name_are_the_same_key(path: str) -> None:
    assert keys.path_of(keys.name_of(path)) == path == keys.path_of(path)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding"),
        ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding"),
    ],
)
def test_dots_and_slashes_are_read_as_sysctl_d_reads_them(key: str, path: str) -> None:
    assert keys.path_of(key) == path


@pytest.mark.parametrize(
    "key", ["", "net", "net..x", "/etc/passwd", "../../etc/passwd", "net.ipv4.*", "a.b c", "a.b=1"]
)
def test_what_cannot_be_a_key_is_refused(key: str) -> None:
    with pytest.raises(Problem, match="no name of a sysctl"):
        keys.parse({key: 1})


@pytest.mark.parametrize("value", [None, 1.5, [1, 2], {"a": 1}, "1\n2"])
def test_values_are_numbers_or_one_line(value: object) -> None:
    with pytest.raises(Problem, match=r"net\.ipv4\.x"):
        keys.parse({"net.ipv4.x": value})


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(Problem) as raised:
        keys.parse({"net": 1, "net.a.b": None, "net.c.d": 1, "net/c/d": 2})
    assert str(raised.value).count("sysctls:") == 3
    assert "net/c/d: 2 and net.c.d: 1 are the same key" in str(raised.value)


def test_one_key_spelled_twice_with_one_value_is_fine() -> None:
    assert keys.parse({"net.c.d": "1  2", "net/c/d": "1\t2 "}) == {"net/c/d": "1 2"}
    assert keys.parse({"net.c.d": True, "net.c.e": False}) == {"net/c/d": "1", "net/c/e": "0"}


@given(st.dictionaries(paths, st.tuples(values, values)))
def test_plan_leads_to_what_is_asked_and_back(states: dict[str, tuple[str, str]]) -> None:
    former = {path: before for path, (before, dummy) in states.items()}
    desired = {path: after for path, (dummy, after) in states.items()}
    kernel = dict(former)
    for change in keys.plan(kernel, desired):
        path = keys.path_of(change.name)
        assert kernel[path] == change.before
        kernel[path] = str(change.after)
    assert kernel == desired
    assert keys.plan(kernel, desired) == []
    for change in keys.plan(kernel, former):
        kernel[keys.path_of(change.name)] = str(change.after)
    assert kernel == former


def test_blanks_are_no_difference() -> None:
    assert keys.plan({RMEM: "4096\t131072\t6291456"}, {RMEM: "4096 131072 6291456"}) == []


def test_keys_for_all_interfaces_come_before_those_of_one() -> None:
    asked = ["conf/aa0/forwarding", "conf/all/forwarding", "conf/default/forwarding", "ip_forward"]
    found = sorted((f"net/ipv4/{name}" for name in asked), key=keys.order)
    assert [path[9:] for path in found] == [
        "ip_forward", "conf/all/forwarding", "conf/default/forwarding", "conf/aa0/forwarding",
    ]  # fmt: skip


def test_what_a_change_would_pass_over_is_written_again() -> None:
    aa0 = "net/ipv4/conf/aa0/forwarding"
    desired = {aa0: "0", keys.IP_FORWARD: "1", "net/ipv4/tcp_sack": "1"}
    changes = [Change("net.ipv4.ip_forward", "0", "1")]
    assert keys.steps(changes, desired) == [keys.IP_FORWARD, aa0]


# The window scale


def kernel_scale(tcp_rmem_max: int, rmem_max: int) -> int:
    """The kernel's own words: clamp_t(int, ilog2(space) - 15, 0, TCP_MAX_WSCALE)."""
    space = max(tcp_rmem_max, rmem_max)
    ilog2 = -1
    while space:
        space >>= 1
        ilog2 += 1
    return max(0, min(14, ilog2 - 15))


@given(sizes, sizes)
def test_scale_is_the_kernel_s(tcp_rmem_max: int, rmem_max: int) -> None:
    assert window.window_scale(tcp_rmem_max, rmem_max) == kernel_scale(tcp_rmem_max, rmem_max)


@pytest.mark.parametrize(
    ("size", "scale"),
    [(6 << 20, 7), (16 << 20, 9), (32 << 20, 10), (64 << 20, 11), ((128 << 20) - 1, 11), (128 << 20, 12),
     (268435455, 12), (256 << 20, 13), (512 << 20, 14), (INT_MAX, 14), (65535, 0)],
)  # fmt: skip
def test_known_sizes(size: int, scale: int) -> None:
    assert window.window_scale(size, 1) == scale


@given(st.integers(0, 14), triples, triples, st.one_of(st.none(), sizes))
def test_any_node_gets_the_wanted_scale_or_a_reason(
    scale: int, rmem: str, wmem: str, rmem_max: int | None
) -> None:
    low, high = window.window_bounds(scale)
    current = {RMEM: rmem, WMEM: wmem, window.WINDOW_SCALING: "0"}
    if rmem_max is not None:
        current[RMEM_MAX] = str(rmem_max)
    if (rmem_max or 0) > high:
        with pytest.raises(Problem, match=r"rmem_max.*ask for window_scale \d+"):
            window.solve_window(scale, {}, current)
        return
    solved = window.solve_window(scale, {}, current)
    after = {**current, **solved}
    assert kernel_scale(last(after[RMEM]), rmem_max or 0) == scale
    assert after[window.WINDOW_SCALING] == "1"
    assert sorted(map(int, after[RMEM].split())) == list(map(int, after[RMEM].split()))
    assert last(after[WMEM]) >= last(after[RMEM])
    assert last(after[WMEM]) >= last(wmem)  # Never lowered.
    if low <= last(rmem) <= high:
        assert after[RMEM] == rmem
    assert keys.plan(after, window.solve_window(scale, {}, after)) == []


@given(st.integers(0, 14), triples, sizes)
def test_given_values_are_kept_or_contradict(scale: int, rmem: str, rmem_max: int) -> None:
    current = {RMEM: "4096 131072 6291456", WMEM: "4096 16384 4194304", RMEM_MAX: "2147483647"}
    desired = {RMEM: rmem, RMEM_MAX: str(rmem_max)}
    if kernel_scale(last(rmem), rmem_max) == scale:
        assert not set(window.solve_window(scale, desired, current)) & set(desired)
    else:
        with pytest.raises(Problem, match=r"^window_scale: net\.(core\.rmem_max|ipv4\.tcp_rmem)"):
            window.solve_window(scale, desired, current)


def test_the_talk_s_value_is_the_smallest_for_12() -> None:
    current = {RMEM: "4096 131072 6291456", WMEM: "4096 16384 4194304", RMEM_MAX: "212992"}
    assert window.solve_window(12, {}, current) == {
        window.WINDOW_SCALING: "1",
        RMEM: "4096 131072 134217728",
        WMEM: "4096 16384 134217728",
    }


@pytest.mark.parametrize(
    ("scale", "desired", "words"),
    [
        (15, {}, "window_scale: 15 is not between 0 and 14"),
        (-1, {}, "window_scale: -1 is not between 0 and 14"),
        (12, {window.WINDOW_SCALING: "0"}, "needs net.ipv4.tcp_window_scaling 1"),
        (12, {RMEM: "a b c"}, "net.ipv4.tcp_rmem: 'a b c' is not 3 number"),
        (12, {RMEM: "4096 1 6291456"}, "gives 7, not 12: leave it out, or make its last number 134217728"),
        (12, {RMEM_MAX: "268435456"}, "gives 13: ask for window_scale 13, or set net.core.rmem_max"),
    ],
)
def test_contradictions_name_the_remedy(scale: int, desired: dict[str, str], words: str) -> None:
    current = {RMEM: "4096 131072 6291456", WMEM: "4096 16384 4194304", RMEM_MAX: "212992"}
    with pytest.raises(Problem) as raised:
        window.solve_window(scale, desired, current)
    assert words in str(raised.value)


# Files


@given(st.dictionaries(paths, values, min_size=1))
def test_the_drop_in_is_read_as_it_was_written(desired: dict[str, str]) -> None:
    text = writers.render(desired)
    assert text.startswith(writers.MARKER + "\n")
    assert dict(writers.assignments(text)) == desired
    assert text == writers.render(dict(reversed(desired.items())))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with other writers of sysctls."""
    for name, text in {
        "usr/lib/sysctl.d/10-masked.conf": "net.ipv4.tcp_sack = 0\n",
        "usr/lib/sysctl.d/50-default.conf": "-net.ipv4.conf.*.rp_filter = 2\n! nothing\n",
        "etc/sysctl.d/99-site.conf": "# a comment = 1\n; another = 2\nnet/ipv4/tcp_sack=0\nnet.core.x=1\n",
        "etc/sysctl.d/zzz.conf": "net.ipv4.tcp_rmem = 4096\t131072   1\n",
        "etc/sysctl.d/README": "net.ipv4.tcp_sack = 7\n",
        "etc/sysctl.conf": "net.ipv4.ip_forward=0\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "etc/sysctl.d/10-masked.conf").symlink_to("/dev/null")
    (tmp_path / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
    return tmp_path


def test_other_writers_are_found_by_the_order_of_reading(root: Path) -> None:
    own = str(root / "etc/sysctl.d/zz-podnet.conf")
    Path(own).write_text(f"{writers.MARKER}\nnet.ipv4.tcp_sack = 9\n")
    wanted = {
        "net/ipv4/tcp_sack": "1",
        "net/ipv4/conf/eth0/rp_filter": "0",
        RMEM: "4096 131072 2",
        keys.IP_FORWARD: "1",
        "net/core/x": "1",
    }
    found = writers.writers(wanted, own, str(root))
    assert [(w.file, keys.name_of(w.path), w.value, w.wins) for w in found] == [
        ("/usr/lib/sysctl.d/50-default.conf", "net.ipv4.conf.eth0.rp_filter", "2", False),
        ("/etc/sysctl.d/99-site.conf", "net.ipv4.tcp_sack", "0", False),
        ("/etc/sysctl.d/zzz.conf", "net.ipv4.tcp_rmem", "4096 131072 1", True),
        ("/etc/sysctl.conf", "net.ipv4.ip_forward", "0", True),
    ]
    assert writers.writer_warnings(found, own) == [
        f"/etc/sysctl.d/zzz.conf sets net.ipv4.tcp_rmem = 4096 131072 1 and is read after {own} at boot:"
        " remove it there",
        f"/etc/sysctl.conf sets net.ipv4.ip_forward = 0 and is read after {own} by `sysctl --system`:"
        " remove it there",
    ]


def test_same_values_elsewhere_are_no_news(root: Path) -> None:
    assert writers.writers({"net/core/x": "1"}, "", str(root)) == []
    assert [w.wins for w in writers.writers({"net/core/x": "2"}, "", str(root))] == [True]


def test_routers_learned_by_the_kernel() -> None:
    zero = "0" * 32
    gateway = "fe80000000000000000000000000000001"[:32]
    lines = [
        f"{zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00450003     eth0",
        f"{zero} 00 {zero} 00 {gateway} 00000400 00000001 00000000 00000003     eth1",
        f"fe80{zero[4:]} 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth2",
    ]
    assert apply.learned_routers("\n".join(lines)) == {"eth0"}
