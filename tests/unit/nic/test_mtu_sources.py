# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that set the MTU of a NIC, and drop-ins that override them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._nic import mtu_sources, persist

ENTRY = {
    "name": "wire0", "driver": "virtio_net", "mtu": 8264, "features": {"gro": False}, "rings": {},
    "default_route": False, "limit_to_maximum": False, "steering": None, "optional": [],
}  # fmt: skip


OTHERS = {
    "run/systemd/netif/links/7": "A=b\nNETWORK_FILE=/etc/systemd/network/10-w.network\n",
    "run/udev/data/n7": "I:1\nE:ID_NET_LINK_FILE=/usr/lib/systemd/network/99-default.link\n",
    "etc/systemd/network/10-w.network": "[Match]\nName=wire0\n[Link]\nMTUBytes=1500\n[X]\nMTUBytes=9\n",
    "etc/systemd/network/10-w.network.d/a.conf": "[Link]\nMTUBytes=9000\n",
    # The file in /etc hides the first, and the second does not end in .conf.
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
    """A node on which every service sets an MTU of wire0."""
    for name, text in OTHERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("socket.if_nametoindex", {"wire0": 7, "wire1": 8}.__getitem__)
    return str(tmp_path)


def test_all_files_that_set_the_mtu_are_found(others: str) -> None:
    later = {
        "/etc/systemd/network/10-w.network.d/a.conf": "9000",
        "/etc/NetworkManager/system-connections/w.nmconnection": "1400",
        "/etc/network/interfaces": "4000",
    }
    assert mtu_sources.later_mtus("wire0", 7, others) == later
    link = {"/usr/lib/systemd/network/99-default.link": "1300"}
    assert mtu_sources.mtus("wire0", 7, others) == {**link, **later}


def test_drop_ins_of_all_directories_apply(others: str) -> None:
    late = "/run/systemd/network/10-w.network.d/b.conf"
    Path(others, late[1:]).write_text("[Link]\nMTUBytes=2000\n")
    assert mtu_sources.later_mtus("wire0", 7, others)[late] == "2000"


def test_a_drop_in_overrides_the_mtu_and_is_removed(others: str) -> None:
    drop_ins = mtu_sources.drop_ins([ENTRY], others)
    assert list(drop_ins) == [DROP_IN] and b"[Link]\nMTUBytes=8264\n" in drop_ins[DROP_IN]
    # Before and after the file is written.
    assert mtu_sources.later_mtus("wire0", 7, others, drop_ins)[DROP_IN] == "8264"
    persist.write(persist.desired([ENTRY], drop_ins), others)
    assert mtu_sources.later_mtus("wire0", 7, others)[DROP_IN] == "8264"
    assert mtu_sources.drop_ins([ENTRY], others) == drop_ins
    now = persist.read(others)
    # A drop-in is not needed if networkd sets this MTU already.
    assert mtu_sources.drop_ins([{**ENTRY, "mtu": 9000}], others) == {}
    none = persist.desired([]).replacing(now)
    assert DROP_IN in none.differing(now)
    persist.write(none, others)
    assert not Path(others, DROP_IN[1:]).exists()


def test_no_drop_in_if_the_network_file_applies_to_another_nic(others: str) -> None:
    Path(others, "run/systemd/netif/links/8").write_text("NETWORK_FILE=/etc/systemd/network/10-w.network\n")
    assert mtu_sources.drop_ins([ENTRY], others) == {}
    both = [ENTRY, {**ENTRY, "name": "wire1"}]
    assert list(mtu_sources.drop_ins(both, others)) == [DROP_IN]
    assert mtu_sources.drop_ins([ENTRY, {**ENTRY, "name": "wire1", "mtu": 1500}], others) == {}
