# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The drop-in file, and other files and programs that set sysctls."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import effects, keys, window, writers
from tests.unit.sysctl.sysctl_values import RMEM, paths, values


@given(st.dictionaries(paths, values, min_size=1))
def test_the_drop_in_file_is_parsed_as_it_was_rendered(desired: dict[str, str]) -> None:
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


def test_files_that_are_read_later_win(root: Path) -> None:
    drop_in = str(root / "etc/sysctl.d/zz-podnet.conf")
    Path(drop_in).write_text(f"{writers.MARKER}\nnet.ipv4.tcp_sack = 9\n")
    desired = {
        "net/ipv4/tcp_sack": "1",
        "net/ipv4/conf/eth0/rp_filter": "0",
        RMEM: "4096 131072 2",
        effects.IP_FORWARD: "1",
        "net/core/x": "1",
    }
    found = writers.writers(desired, drop_in, str(root))
    assert [(w.file, keys.name_of(w.path), w.value, w.wins) for w in found] == [
        ("/usr/lib/sysctl.d/50-default.conf", "net.ipv4.conf.eth0.rp_filter", "2", False),
        ("/etc/sysctl.d/99-site.conf", "net.ipv4.tcp_sack", "0", False),
        ("/etc/sysctl.d/zzz.conf", "net.ipv4.tcp_rmem", "4096 131072 1", True),
        ("/etc/sysctl.conf", "net.ipv4.ip_forward", "0", True),
    ]
    assert writers.writer_warnings(found, drop_in) == [
        f"/etc/sysctl.d/zzz.conf sets net.ipv4.tcp_rmem = 4096 131072 1 and is read after {drop_in} at boot:"
        " remove it there",
        f"/etc/sysctl.conf sets net.ipv4.ip_forward = 0 and is read after {drop_in} by `sysctl --system`:"
        " remove it there",
    ]


def test_equal_values_are_not_reported(root: Path) -> None:
    assert writers.writers({"net/core/x": "1"}, "", str(root)) == []
    assert [w.wins for w in writers.writers({"net/core/x": "2"}, "", str(root))] == [True]


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


DESIRED = {
    window.TCP_RMEM: "4096 131072 134217728",
    "net/core/somaxconn": "4096",
    "vm/swappiness": "60",
    "net/ipv4/udp_mem": "3145728 4194304 16777216",
}
DROP_IN = "/etc/sysctl.d/zz-podnet.conf"


@pytest.mark.parametrize("reapply", [None, "1", "0", "False"])
def test_tuned_wins_only_without_reapply_sysctl(tuned: Path, reapply: str | None) -> None:
    if reapply:
        (tuned / "etc/tuned/tuned-main.conf").write_text(f"# x\nreapply_sysctl = {reapply}\n")
    found = writers.writers(DESIRED, DROP_IN, str(tuned))
    wins = reapply in ("0", "False")
    assert [(w.by, w.file, w.path, w.value, w.wins) for w in found] == [
        ("TuneD profile network-throughput", "/usr/lib/tuned/network-throughput/tuned.conf",
         window.TCP_RMEM, "4096 131072 16777216", wins),
        ("TuneD profile mine", "/etc/tuned/mine/tuned.conf", "net/core/somaxconn", "2048", wins),
    ]  # fmt: skip
    warnings = writers.writer_warnings(found, DROP_IN)
    assert len(warnings) == (2 if wins else 0)
    assert all("set reapply_sysctl = 1" in warning for warning in warnings)


def test_tuned_reapplies_only_two_directories(tuned: Path) -> None:
    found = writers.writers(DESIRED, "/usr/lib/sysctl.d/zz-podnet.conf", str(tuned))
    assert found and all(writer.wins for writer in found)


def test_an_include_cycle_of_profiles_ends(tuned: Path) -> None:
    file = tuned / "usr/lib/tuned/network-throughput/tuned.conf"
    file.write_text("[main]\ninclude=mine\n" + file.read_text())
    assert len(writers.writers(DESIRED, DROP_IN, str(tuned))) == 2


def test_cilium_writes_keys_where_it_runs(tmp_path: Path) -> None:
    desired = {"net/ipv4/conf/all/rp_filter": "1", "net/core/bpf_jit_enable": "1"}
    assert writers.writers(desired, DROP_IN, str(tmp_path)) == []
    (tmp_path / "sys/class/net/cilium_host").mkdir(parents=True)
    file = tmp_path / "etc/sysctl.d/99-zzz-override_cilium.conf"
    file.parent.mkdir(parents=True)
    file.write_text("-net.ipv4.conf.*.rp_filter = 0\n")
    found = writers.writers(desired, DROP_IN, str(tmp_path))
    assert [(w.by, w.value, w.wins) for w in found] == [("Cilium", "0", False), ("cilium-agent", "0", True)]
    assert writers.writer_warnings(found, DROP_IN) == [
        "cilium-agent sets net.ipv4.conf.all.rp_filter = 0 at every start: request that value"
    ]


def test_names_that_a_pattern_excludes(tmp_path: Path) -> None:
    desired = {"net/ipv4/conf/eth0/rp_filter": "0", "net/ipv4/conf/eth1/rp_filter": "0"}
    folder = tmp_path / "etc/sysctl.d"
    folder.mkdir(parents=True)
    (folder / "zzz.conf").write_text("net.ipv4.conf.*.rp_filter = 2\n")
    (folder / "a.conf").write_text(" -net.ipv4.conf.eth0.rp_filter\n")
    found = writers.writers(desired, DROP_IN, str(tmp_path))
    assert [writer.path for writer in found] == ["net/ipv4/conf/eth1/rp_filter"]
    (folder / "a.conf").write_text("-net.ipv4.conf.eth0.rp_filter\nnet.ipv4.conf.eth0.rp_filter = 1\n")
    assert len(writers.writers(desired, DROP_IN, str(tmp_path))) == 2


@pytest.mark.parametrize(
    ("enabled", "default", "file"),
    [
        ("ENABLED=yes\n", "", "/etc/ufw/sysctl.conf"),
        ("# x\nENABLED='yes'\n", "IPT_SYSCTL=/etc/ufw/mine.conf # x\n", "/etc/ufw/mine.conf"),
        ("ENABLED=no\n", "", ""),
        ("#ENABLED=yes\n", "", ""),
    ],
)
def test_ufw_writes_its_file_where_it_is_enabled(
    tmp_path: Path, enabled: str, default: str, file: str
) -> None:
    for name, text in {
        "etc/ufw/ufw.conf": enabled,
        "etc/default/ufw": default,
        "etc/ufw/sysctl.conf": "#net/ipv4/ip_forward=1\nnet/ipv4/ip_forward=0\n",
        "etc/ufw/mine.conf": "net/ipv4/conf/all/forwarding=0\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = writers.writers({effects.FORWARDING4: "1"}, DROP_IN, str(tmp_path))
    assert [(writer.by, writer.file, writer.wins) for writer in found] == [("ufw", file, True)] * bool(file)
    assert all("whenever ufw starts" in one for one in writers.writer_warnings(found, DROP_IN))
