# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sysctls of kernel modules that are loaded after the files are read at boot."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import late

KEYS = ["net/netfilter/nf_conntrack_max", "net/nf_conntrack_max", "net/bridge/bridge-nf-call-iptables",
        "net/ipv4/tcp_sack"]  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node with nf_conntrack and br_netfilter as loaded modules."""
    for module in ("nf_conntrack", "br_netfilter"):
        (tmp_path / f"sys/module/{module}").mkdir(parents=True)
        (tmp_path / f"sys/module/{module}/initstate").write_text("live\n")
    (tmp_path / "lib/modules/6.1").mkdir(parents=True)
    (tmp_path / "lib/modules/6.1/modules.dep").write_text(
        "kernel/net/nf_nat.ko.xz: kernel/net/nf_conntrack.ko.xz kernel/net/nf_defrag_ipv4.ko.xz\n"
        "kernel/net/br_netfilter.ko: kernel/net/bridge.ko\n"
    )
    return tmp_path


def modules(root: Path) -> set[str]:
    return set(late.late_keys(KEYS, str(root), "6.1").values())


def test_modules_that_nothing_loads_early_are_reported(root: Path) -> None:
    assert modules(root) == {"nf_conntrack", "br_netfilter"}
    found = late.warnings(KEYS, "/etc/sysctl.d/zz-podnet.conf", str(root))
    assert found[0] == (
        "sysctls: net.netfilter.nf_conntrack_max, net.nf_conntrack_max: not kept for the next boot, as the"
        " module nf_conntrack is loaded after /etc/sysctl.d/zz-podnet.conf is read: list nf_conntrack in a"
        " file of /etc/modules-load.d"
    )


@pytest.mark.parametrize(
    ("file", "text", "remaining"),
    [
        ("etc/modules-load.d/a.conf", "# x\nnf-conntrack\n", {"br_netfilter"}),
        ("usr/lib/modules-load.d/k8s.conf", "br_netfilter\n", {"nf_conntrack"}),
        ("etc/modules", "nf_nat\n", {"br_netfilter"}),
        ("proc/cmdline", "ro modules-load=br_netfilter,nf_conntrack quiet\n", set()),
        ("etc/modules-load.d/README", "nf_conntrack\n", {"nf_conntrack", "br_netfilter"}),
    ],
)
def test_modules_that_are_loaded_early(root: Path, file: str, text: str, remaining: set[str]) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text)
    assert modules(root) == remaining


def test_a_module_in_the_kernel_is_not_late(root: Path) -> None:
    (root / "sys/module/nf_conntrack/initstate").unlink()
    assert modules(root) == {"br_netfilter"}


@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("dev/raid/speed_limit_max", "md_mod"),
        ("fs/nfs/nlm_tcpport", "lockd"),
        ("fs/nfs/nfs_callback_tcpport", "nfsv4"),
        ("net/ipv4/vs/conntrack", "ip_vs"),
        ("net/netfilter/nf_conntrack_tcp_timeout_established", "nf_conntrack"),
        ("net/rdma_ucm/max_backlog", "rdma_ucm"),
        ("net/sctp/sndbuf_policy", "sctp"),
    ],
)
def test_modules_that_provide_sysctls(tmp_path: Path, key: str, module: str) -> None:
    (tmp_path / f"sys/module/{module}").mkdir(parents=True)
    (tmp_path / f"sys/module/{module}/initstate").touch()
    assert late.late_keys([key], str(tmp_path), "6.1") == {key: module}
    (tmp_path / "etc/modules-load.d").mkdir(parents=True)
    (tmp_path / "etc/modules-load.d/a.conf").write_text(f" {module.replace('_', '-')} ")
    assert late.late_keys([key], str(tmp_path), "6.1") == {}
