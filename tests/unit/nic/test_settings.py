# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which NICs are meant, how headers are split, which CPUs serve them, and what is kept for the next boot."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import qdisc
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.ethtool import Nic
from ansible_collections.podnet.datapath.plugins.module_utils._nic import (
    owner,
    persist,
    select,
    settings,
    sysfs,
)
from ansible_collections.podnet.datapath.plugins.module_utils._nic.select import Device
from ansible_collections.podnet.datapath.plugins.module_utils._nic.sysfs import Cpus

DEVICES = [
    Device("lo"),
    Device("ens1f0", "mlx5_core", "0000:3b:00.0", True),
    Device("ens1f1", "mlx5_core", "0000:3b:00.1"),
    Device("eno1", "igb", "0000:04:00.0", True),
]


@pytest.mark.parametrize(
    ("entry", "names"),
    [
        ({"name": "eno1"}, ["eno1"]),
        ({"driver": "mlx5_core"}, ["ens1f0", "ens1f1"]),
        ({"pci": "3B:00.1"}, ["ens1f1"]),
        ({"pci": "0000:04:00.0", "default_route": False}, ["eno1"]),
        ({"default_route": True}, ["ens1f0", "eno1"]),
    ],
)
def test_nics_are_selected_in_four_ways(entry: dict[str, Any], names: list[str]) -> None:
    chosen = select.select([{**entry, "mtu": 8264}], DEVICES)
    assert [(one["name"], one["mtu"]) for one in chosen] == [(name, 8264) for name in names]


def test_every_mistake_of_a_selection_is_named() -> None:
    entries = [{"mtu": 1}, {"name": "a", "driver": "b"}, {"name": "eth7"}, {"driver": "ice"}, {"pci": "1:2"},
               {"driver": "mlx5_core"}, {"name": "ens1f1"}]  # fmt: skip
    with pytest.raises(Problem) as raised:
        select.select(entries, DEVICES)
    assert str(raised.value).splitlines() == [
        "nics: an entry has none of name, driver, pci, default_route: give exactly one",
        "nics: an entry has name, driver of name, driver, pci, default_route: give exactly one",
        "nics: there is no eth7 here; there are: eno1, ens1f0, ens1f1, lo",
        "nics: there is no driver: ice here; there are: igb, mlx5_core",
        "nics: there is no pci: 1:2 here; there are: 0000:04:00.0, 0000:3b:00.0, 0000:3b:00.1",
        "nics: ens1f1 is listed twice, by driver: mlx5_core and by ens1f1: put all its settings into"
        " one entry",
    ]


OTHER = {"rings.rx": 256, "features.rx-lro": False}


def nic(driver: str, values: dict[str, Any], xdp: bool = False, fixed: frozenset[str] = frozenset()) -> Nic:
    wanted = {name: bool(value) for name, value in values.items() if name.startswith("features.")}
    return Nic("eth0", 2, driver, values, {}, {"rings.rx": 8192}, fixed, wanted, xdp)


def resolved(nic: Nic, **options: Any) -> settings.Resolved:
    (wish,) = settings.parse([{"name": "eth0", **options}])
    return settings.resolve(nic, wish)


def test_a_number_may_be_limited_to_the_maximum() -> None:
    one = nic("igb", OTHER)
    assert "above the maximum of 8192" in resolved(one, rings={"rx": 9000}).problems[0]
    limited = resolved(one, rings={"rx": 9000}, limit_to_maximum=True)
    assert (limited.settings, limited.limited, limited.problems) == (
        {"rings.rx": 8192}, {"rings.rx": 8192}, [],
    )  # fmt: skip


def test_a_discipline_of_somebody_s_stays() -> None:
    mine = nic("igb", {**OTHER, "qdisc": "htb"})
    assert "would replace htb, which somebody set up" in resolved(mine, qdisc="fq").problems[0]
    assert "is none that can be set here" in resolved(nic("igb", {"qdisc": "fq"}), qdisc="htb").problems[0]
    assert resolved(nic("igb", {"qdisc": "fq_codel"}), qdisc="fq").settings == {"qdisc": "fq"}


# CPUs

cpu_sets = st.frozensets(st.integers(0, 130))


@given(cpu_sets)
def test_lists_and_masks_of_cpus_are_read_as_they_are_written(cpus: frozenset[int]) -> None:
    assert sysfs.cpus_of_list(sysfs.list_of(cpus)) == cpus
    assert sysfs.cpus_of_mask(sysfs.mask_of(cpus)) == cpus


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.frozensets(st.integers(0, 63), min_size=1),
    st.sampled_from(["local", "all", "none"]),
    st.integers(0, 1 << 17),
)
def test_every_queue_is_served_and_by_chosen_cpus_alone(
    rx: int, tx: int, online: frozenset[int], way: str, flows: int
) -> None:
    local = frozenset(sorted(online)[: max(len(online) // 2, 1)])
    values: dict[str, object] = {f"queues.rx-{n}.rps_cpus": "" for n in range(rx)}
    values.update({f"queues.tx-{n}.xps_cpus": "" for n in range(tx)})
    values.update({f"queues.rx-{n}.rps_flow_cnt": 0 for n in range(rx)})
    values.update({f"irqs.{n}": "" for n in range(24, 24 + rx)})
    chosen = {"local": local, "all": online, "none": frozenset[int]()}[way]
    wish = {"rps": way, "xps": way, "rfs": flows, "irqs": "local"}
    found, problems = sysfs.steer(values, wish, Cpus(online, local, 1 << 17), False)
    assert problems == [] and set(found) == set(values)
    served: set[int] = set()
    for setting, value in found.items():
        if setting.endswith("rps_flow_cnt"):
            assert isinstance(value, int) and value & (value - 1) == 0
        elif setting.endswith("rps_cpus"):
            assert sysfs.cpus_of_list(str(value)) == chosen
        elif setting.startswith("irqs."):
            assert len(sysfs.cpus_of_list(str(value)) & local) == 1
        else:
            served |= sysfs.cpus_of_list(str(value))
    assert served <= chosen and len(served) == min(tx, len(chosen))
    assert sum(int(v) for s, v in found.items() if s.endswith("flow_cnt")) <= max(flows, rx)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"rps": "nearby"}, "steering: rps: 'nearby' is not local, all, none or a list such as 0-3,8"),
        ({"xps": "0-9"}, "steering: xps: CPU 4-9 is not online; there are: 0-3"),
        ({"irqs": "none"}, "steering: irqs: an interrupt needs a CPU"),
        ({"irqs": "all"}, "steering: irqs: irqbalance runs"),
        ({"rfs": 4096}, "need net.core.rps_sock_flow_entries of at least that, which is 0"),
    ],
)
def test_steering_that_cannot_be_is_named(wish: dict[str, object], words: str) -> None:
    values = {
        "queues.rx-0.rps_cpus": "",
        "queues.rx-0.rps_flow_cnt": 0,
        "queues.tx-0.xps_cpus": "",
        "irqs.9": "",
    }
    dummy, (problem,) = sysfs.steer(values, wish, Cpus(frozenset(range(4)), frozenset({0})), True)
    assert words in problem


def test_steering_that_a_nic_lacks_may_be_left_out() -> None:
    one = nic("igb", {"queues.rx-0.rps_cpus": ""})
    (problem,) = resolved(one, steering={"rps": "all", "xps": "all"}).problems
    assert "has one transmit queue, so there is nothing to choose" in problem
    left = resolved(one, steering={"rps": "0", "xps": "all"}, optional=["steering.xps"])
    assert (left.settings, left.problems, list(left.skipped)) == (
        {"queues.rx-0.rps_cpus": "0"}, [], ["steering.xps"],
    )  # fmt: skip


def test_the_discipline_of_the_queues_counts_below_mq() -> None:
    root, below = 0xFFFFFFFF, 0x10001
    assert qdisc.kind_of([(0, root, "fq_codel")]) == "fq_codel"
    assert qdisc.kind_of([(0x10000, root, "mq"), (0, below, "fq"), (0, below + 1, "fq")]) == "fq"
    assert qdisc.kind_of([(0x10000, root, "mq"), (0, below, "fq"), (0, below + 1, "htb")]) == "fq*1+htb*1"
    assert qdisc.kinds("fq*2+pfifo*1") == ["fq", "fq", "pfifo"] and qdisc.kinds("fq") == ["fq"]
    assert qdisc.kind_of([]) == ""


# The next boot

ENTRY = {
    "name": "wire0", "driver": "virtio_net", "mtu": 8264, "features": {"gro": False}, "rings": {},
    "default_route": False, "limit_to_maximum": False, "steering": None, "optional": [],
}  # fmt: skip


def test_what_is_kept_is_the_wish_by_name() -> None:
    kept = json.loads(persist.settings([ENTRY]))
    assert kept == [{"name": "wire0", "mtu": 8264, "features": {"gro": False}}]
    assert settings.parse(kept)[0].settings == settings.parse([ENTRY])[0].settings


def test_the_program_is_whole_and_the_same_twice(tmp_path: Path) -> None:
    data = persist.program()
    assert data == persist.program()
    file = tmp_path / "program.pyz"
    file.write_bytes(data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        main = archive.read("__main__.py").decode()
    # Without this checkout in reach: whatever the program imports has to be in it, or Python's own.
    done = subprocess.run(
        [sys.executable, "-P", "-S", "-c", main.split("\n", 2)[1]],
        env={"PYTHONPATH": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_files_are_written_once_and_taken_away(tmp_path: Path) -> None:
    wanted = persist.wanted([ENTRY])
    assert len(wanted.differing(persist.present(str(tmp_path)))) == 4
    for folder in ("etc/systemd/system", "etc/udev/rules.d"):
        (tmp_path / folder).mkdir(parents=True)
    persist.write(wanted, str(tmp_path))
    assert wanted.differing(persist.present(str(tmp_path))) == []
    none = persist.wanted([])
    persist.write(none, str(tmp_path))
    assert none.differing(persist.present(str(tmp_path))) == []
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_unit_of_somebody_s_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/systemd/system/podnet-nic@.service").write_text("[Unit]\n")
    with pytest.raises(Problem, match="was not written by this collection"):
        persist.present(str(tmp_path))


OTHERS = {
    "run/systemd/netif/links/7": "A=b\nNETWORK_FILE=/etc/systemd/network/10-w.network\n",
    "run/udev/data/n7": "I:1\nE:ID_NET_LINK_FILE=/usr/lib/systemd/network/99-default.link\n",
    "etc/systemd/network/10-w.network": "[Match]\nName=wire0\n[Link]\nMTUBytes=1500\n[X]\nMTUBytes=9\n",
    "etc/systemd/network/10-w.network.d/a.conf": "[Link]\nMTUBytes=9000\n",
    # Hidden by the file of that name in /etc, and of no effect for its name.
    "run/systemd/network/10-w.network.d/a.conf": "[Link]\nMTUBytes=2000\n",
    "run/systemd/network/10-w.network.d/z.conf.bak": "[Link]\nMTUBytes=2000\n",
    "usr/lib/systemd/network/99-default.link": "[Link]\nMTUBytes=1300\n",
    "etc/NetworkManager/system-connections/w.nmconnection": (
        "[connection]\ninterface-name=wire0\n[ethernet]\nmtu=1400\n"
    ),
    "etc/NetworkManager/system-connections/x.nmconnection": (
        "[connection]\ninterface-name=x\n[ethernet]\nmtu=1\n"
    ),
    "etc/network/interfaces": "iface x inet dhcp\n  mtu 7\niface wire0 inet static\n  mtu 4000\n",
}
DROP_IN = "/etc/systemd/network/10-w.network.d/zz-podnet.conf"


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A node whose wire0 has an MTU from everybody."""
    for name, text in OTHERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("socket.if_nametoindex", {"wire0": 7, "wire1": 8}.__getitem__)
    return str(tmp_path)


def test_other_owners_of_an_mtu_are_found(others: str) -> None:
    later = {
        "/etc/systemd/network/10-w.network.d/a.conf": "9000",
        "/etc/NetworkManager/system-connections/w.nmconnection": "1400",
        "/etc/network/interfaces": "4000",
    }
    assert owner.later_mtus("wire0", 7, others) == later
    link = {"/usr/lib/systemd/network/99-default.link": "1300"}
    assert owner.mtus("wire0", 7, others) == {**link, **later}


def test_a_drop_in_of_any_folder_counts(others: str) -> None:
    late = "/run/systemd/network/10-w.network.d/b.conf"
    Path(others, late[1:]).write_text("[Link]\nMTUBytes=2000\n")
    assert owner.later_mtus("wire0", 7, others)[late] == "2000"


def test_networkd_gets_the_mtu_by_a_drop_in_that_goes_again(others: str) -> None:
    drop_ins = owner.drop_ins([ENTRY], others)
    assert list(drop_ins) == [DROP_IN] and b"[Link]\nMTUBytes=8264\n" in drop_ins[DROP_IN]
    # Before the file is there, and after.
    assert owner.later_mtus("wire0", 7, others, drop_ins)[DROP_IN] == "8264"
    persist.write(persist.wanted([ENTRY], drop_ins), others)
    assert owner.later_mtus("wire0", 7, others)[DROP_IN] == "8264"
    assert owner.drop_ins([ENTRY], others) == drop_ins
    now = persist.present(others)
    # What networkd says anyway needs no file of ours.
    assert owner.drop_ins([{**ENTRY, "mtu": 9000}], others) == {}
    none = persist.wanted([]).after(now)
    assert DROP_IN in none.differing(now)
    persist.write(none, others)
    assert not Path(others, DROP_IN[1:]).exists()


def test_a_file_of_networkd_that_serves_others_is_left_alone(others: str) -> None:
    Path(others, "run/systemd/netif/links/8").write_text("NETWORK_FILE=/etc/systemd/network/10-w.network\n")
    assert owner.drop_ins([ENTRY], others) == {}
    both = [ENTRY, {**ENTRY, "name": "wire1"}]
    assert list(owner.drop_ins(both, others)) == [DROP_IN]
    assert owner.drop_ins([ENTRY, {**ENTRY, "name": "wire1", "mtu": 1500}], others) == {}
