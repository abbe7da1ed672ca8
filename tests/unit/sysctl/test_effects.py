# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys that the kernel changes with others, and values that it prints in another form."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import effects, keys, writers

DROP_IN = "/etc/sysctl.d/zz-podnet.conf"


@pytest.mark.parametrize(
    ("written", "changed"),
    [
        ("net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"),
        ("net.ipv4.conf.all.forwarding", "net.ipv4.ip_forward"),
        ("net.ipv4.conf.all.forwarding", "net.ipv4.conf.eth0/100.forwarding"),
        ("net.ipv4.ip_forward", "net.ipv4.conf.all.accept_redirects"),
        ("net.ipv4.conf.default.rp_filter", "net.ipv4.conf.eth7.rp_filter"),
        ("net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.forwarding"),
        ("net.ipv6.conf.all.addr_gen_mode", "net.ipv6.conf.eth7.addr_gen_mode"),
        ("net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.lo.disable_ipv6"),
        ("net.ipv6.conf.all.ignore_routes_with_linkdown", "net.ipv6.conf.e.ignore_routes_with_linkdown"),
        ("net.ipv4.neigh.default.gc_stale_time", "net.ipv4.neigh.eth7.gc_stale_time"),
        ("net.ipv4.neigh.default.base_reachable_time", "net.ipv4.neigh.eth7.base_reachable_time_ms"),
        ("net.ipv6.neigh.eth7.retrans_time_ms", "net.ipv6.neigh.eth7.retrans_time"),
        ("net.nf_conntrack_max", "net.netfilter.nf_conntrack_max"),
        ("net.ipv6.route.gc_min_interval", "net.ipv6.route.gc_min_interval_ms"),
        ("net.ipv4.tcp_congestion_control", "net.ipv4.tcp_allowed_congestion_control"),
        ("vm.dirty_bytes", "vm.dirty_ratio"),
    ],
)
def test_keys_that_change_along_are_known(written: str, changed: str) -> None:
    found = [effect.pattern for effect in effects.effects(keys.path_of(written))]
    assert any(fnmatch.fnmatchcase(keys.path_of(changed), pattern) for pattern in found)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("net.ipv4.ip_forward=0", "net.ipv4.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.forwarding = 0", "net.ipv4.ip_forward", "1"),
        ("net/ipv4/ip_forward=0", "net.ipv4.conf.eth7.forwarding", "1"),
        ("-net.ipv4.conf.*.forwarding = 0", "net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding = 0", "net.ipv6.conf.eth7.forwarding", "1"),
        ("net.nf_conntrack_max = 1000", "net.netfilter.nf_conntrack_max", "2000"),
        ("vm.dirty_ratio = 20", "vm.dirty_bytes", "1000000"),
        (
            "net.ipv4.neigh.eth7.base_reachable_time = 30",
            "net.ipv4.neigh.eth7.base_reachable_time_ms",
            "40000",
        ),
        ("net.ipv4.conf.all.rp_filter = 1", "net.ipv4.conf.eth7.rp_filter", "0"),
        ("net.ipv6.conf.eth7.stable_secret = ::1", "net.ipv6.conf.eth7.addr_gen_mode", "0"),
    ],
)
def test_writers_are_found_by_effect(tmp_path: Path, line: str, key: str, value: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/sysctl.conf").write_text(f"{line}\n")
    found = writers.writers({keys.path_of(key): value}, DROP_IN, str(tmp_path))
    assert [keys.path_of(writer.affects) for writer in found] == [keys.path_of(key)]
    (warning,) = writers.writer_warnings(found, DROP_IN)
    assert f"which changes {key}, and is read after" in warning
    if "*" not in line:
        name = line.partition("=")[0].strip().replace("/", ".")
        assert warning.startswith(f"/etc/sysctl.conf sets {name} = ")


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("net.ipv4.ip_forward=1", "net.ipv4.conf.all.forwarding", "1"),
        ("net.ipv4.conf.default.rp_filter = 2", "net.ipv4.conf.eth7.rp_filter", "0"),
        ("net.ipv4.conf.all.rp_filter = 1", "net.ipv4.conf.eth7.rp_filter", "2"),
        (
            "net.ipv4.neigh.eth7.base_reachable_time = 30",
            "net.ipv4.neigh.eth7.base_reachable_time_ms",
            "30000",
        ),
        ("net.ipv4.ip_local_reserved_ports = 1-3", "net.ipv4.ip_local_reserved_ports", "1,2,3"),
        ("net.ipv6.conf.all.accept_ra = 0", "net.ipv6.conf.eth7.accept_ra", "2"),
    ],
)
def test_writers_with_the_same_effect_are_not_reported(
    tmp_path: Path, line: str, key: str, value: str
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/sysctl.conf").write_text(f"{line}\n")
    assert writers.writers({keys.path_of(key): value}, DROP_IN, str(tmp_path)) == []


def test_tuned_and_cilium_are_found_by_effect(tmp_path: Path) -> None:
    (tmp_path / "etc/tuned/mine").mkdir(parents=True)
    (tmp_path / "etc/tuned/active_profile").write_text("mine\n")
    (tmp_path / "etc/tuned/mine/tuned.conf").write_text("[sysctl]\nnet.ipv4.ip_forward=0\n")
    (writer,) = writers.writers({effects.FORWARDING4: "1"}, DROP_IN, str(tmp_path))
    assert (writer.by, writer.path, writer.affects) == (
        "TuneD profile mine", effects.IP_FORWARD, effects.FORWARDING4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("key", "given", "shown"),
    [
        (
            "net.ipv4.ip_local_reserved_ports",
            "11211,10051,10050,80,81,82",
            "80-82,10050-10051,11211",
        ),
        ("net.ipv4.ip_local_reserved_ports", "8080-8080", "8080"),
        ("net.ipv4.ip_local_reserved_ports", "", ""),
        ("kernel.sysrq", "0xb0", "176"),
        ("net.ipv4.tcp_rmem", "4096 131072 0x600000", "4096 131072 6291456"),
        ("net.ipv4.tcp_congestion_control", "cubic", "cubic"),
        ("net.ipv4.tcp_allowed_congestion_control", "cubic reno", "cubic reno"),
        ("net.ipv4.tcp_fastopen_key", "00000001-2", "00000001-2"),
    ],
)
def test_values_are_shown_as_the_kernel_prints_them(key: str, given: str, shown: str) -> None:
    assert keys.printed(keys.path_of(key), given) == shown


@pytest.mark.parametrize(
    ("key", "first", "second", "equal"),
    [
        ("net.ipv4.ip_local_reserved_ports", "10050,10051,11211", "10050-10051,11211", True),
        ("net.ipv4.ip_local_reserved_ports", "11211,10050-10051", "10050-10051,11211", True),
        ("net.ipv4.ip_local_reserved_ports", "8080-8080", "8080", True),
        ("net.ipv4.ip_local_reserved_ports", "8080,", "8080", True),
        ("net.ipv4.ip_local_reserved_ports", "8080", "8081", False),
        ("net.ipv4.ip_local_reserved_ports", "", "8080", False),
        ("net.core.rps_default_mask", "0f", "0000000f", True),
        ("net.core.flow_limit_cpu_bitmap", "00000000,00000003", "3", True),
        ("net.core.flow_limit_cpu_bitmap", "10", "16", False),
        ("kernel.sysrq", "0xb0", "176", True),
        ("kernel.core_uses_pid", "010", "8", True),
        ("net.ipv4.tcp_rmem", "04096 0x1 2", "2110 1 2", False),
        ("net.ipv4.tcp_rmem", "4096 131072 0x600000", "4096 131072 6291456", True),
        ("net.ipv4.tcp_allowed_congestion_control", "cubic reno", "reno cubic", True),
        ("net.ipv6.conf.eth0.stable_secret", "2001:DB8::1", "2001:0db8:0000:0000:0000:0000:0000:0001", True),
        ("kernel.core_pattern", "core", "Core", False),
        ("net.ipv4.tcp_sack", "1", "0", False),
        ("net.ipv4.tcp_sack", "-1", "1", False),
    ],
)
def test_values_are_compared_as_the_kernel_reads_them(key: str, first: str, second: str, equal: bool) -> None:
    assert keys.same(keys.path_of(key), first, second) is equal
    assert keys.same(keys.path_of(key), second, first) is equal
