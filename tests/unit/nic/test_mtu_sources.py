# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that set the MTU of a NIC, and drop-ins that override them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply, mtu_sources, persist

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
def others(tmp_path: Path) -> str:
    """A node on which every service sets an MTU of wire0."""
    for name, text in OTHERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
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
    drop_ins = mtu_sources.drop_ins({7: 8264}, others)
    assert list(drop_ins) == [DROP_IN] and b"[Link]\nMTUBytes=8264\n" in drop_ins[DROP_IN]
    # Before and after the file is written.
    assert mtu_sources.later_mtus("wire0", 7, others, drop_ins)[DROP_IN] == "8264"
    persist.write(persist.desired([ENTRY], drop_ins), others)
    assert mtu_sources.later_mtus("wire0", 7, others)[DROP_IN] == "8264"
    assert mtu_sources.drop_ins({7: 8264}, others) == drop_ins
    now = persist.read(others)
    # A drop-in is not needed if networkd sets this MTU already.
    assert mtu_sources.drop_ins({7: 9000}, others) == {}
    none = persist.desired([]).replacing(now)
    assert DROP_IN in none.differing(now)
    persist.write(none, others)
    assert not Path(others, DROP_IN[1:]).exists()


def test_no_drop_in_if_the_network_file_applies_to_another_nic(others: str) -> None:
    Path(others, "run/systemd/netif/links/8").write_text("NETWORK_FILE=/etc/systemd/network/10-w.network\n")
    assert mtu_sources.drop_ins({7: 8264}, others) == {}
    assert list(mtu_sources.drop_ins({7: 8264, 8: 8264}, others)) == [DROP_IN]
    assert mtu_sources.drop_ins({7: 8264, 8: 1500}, others) == {}


MAC = "52:54:00:12:34:56"


@pytest.mark.parametrize(
    ("file", "text", "mtu"),
    [
        ("run/NetworkManager/system-connections/netplan-wire0.nmconnection",
         "[connection]\ninterface-name=wire0\n[ethernet]\nmtu=1400\n", "1400"),
        ("usr/lib/NetworkManager/system-connections/a.nmconnection",
         f"[connection]\ntype=ethernet\n[802-3-ethernet]\nmac-address={MAC.upper()}\nmtu=1400\n", "1400"),
        ("etc/NetworkManager/system-connections/a",
         "[connection]\ntype=ethernet\n[match]\ninterface-name=wire*;!wire1\n[ethernet]\nmtu=1400\n", "1400"),
        ("etc/NetworkManager/system-connections/Wired", "[connection]\ntype=ethernet\n[ethernet]\nmtu=1400\n",
         "1400"),
        ("etc/NetworkManager/conf.d/mtu.conf", "[connection-x]\nethernet.mtu=1400\n", "1400"),
        ("etc/NetworkManager/NetworkManager.conf",
         "[connection]\nmatch-device=interface-name:wire0\nethernet.mtu=1400\n", "1400"),
        ("etc/sysconfig/network-scripts/ifcfg-wire0", "DEVICE=\"wire0\"\nMTU=\"1400\"\n", "1400"),
        ("etc/sysconfig/network-scripts/ifcfg-lan", f"HWADDR={MAC.upper()}\nMTU=1400\n", "1400"),
        ("etc/sysconfig/network/ifcfg-wire0", "BOOTPROTO='dhcp'\nMTU='1400'\n", "1400"),
        ("etc/network/interfaces.d/a", "iface wire0 inet dhcp\n    post-up ip link set dev $IFACE mtu 1400\n",
         "1400"),
        ("var/lib/dhcp/dhclient.wire0.leases",
         'lease {\n  interface "wire0";\n  option interface-mtu 1400;\n}\n', "1400"),
        ("etc/systemd/system/mtu.service", "[Service]\nExecStart=ip link set wire0 mtu 1400\n", "1400"),
        ("etc/rc.local", "ifconfig wire0 mtu 1400\n", "1400"),
        ("etc/rc.local", "echo 1400 > /sys/class/net/wire0/mtu\n", "1400"),
        ("etc/cron.d/mtu", "@reboot root echo '1400' | tee /sys/class/net/wire0/mtu\n", "1400"),
        ("etc/tmpfiles.d/nic.conf", "w /sys/class/net/wire0/mtu - - - - 1400\n", "1400"),
        ("etc/sysfs.d/mtu.conf", "class/net/wire0/mtu = 1400\n", "1400"),
        ("etc/udev/rules.d/70-mtu.rules", 'SUBSYSTEM=="net", KERNEL=="wire0", ATTR{mtu}="1400"\n', "1400"),
        ("etc/udev/rules.d/70-mtu.rules",
         'ACTION=="add", KERNEL=="wire0", RUN+="/sbin/ip link set dev %k mtu 1400"\n', "1400"),
        ("etc/NetworkManager/dispatcher.d/10-mtu",
         '#!/bin/sh\n[ "$1" = wire0 ] || exit 0\nip link set dev "$1" \\\n  mtu 1400\n', "1400"),
        ("etc/NetworkManager/conf.d/a.conf",
         "[connection-1]\nmatch-device=type:ethernet,except:interface-name:wire1\nethernet.mtu = 1400\n",
         "1400"),
        ("etc/NetworkManager/conf.d/b.conf",
         f"[connection-1]\nmatch-device=mac:{MAC.upper()}\nethernet.mtu=1400\n", "1400"),
        ("etc/network/interfaces",
         "iface big inet manual\n\tmtu 1400\nauto wire0\niface wire0 inet dhcp inherits big\n", "1400"),
        ("etc/sysconfig/network-scripts/ifcfg-wire0", "DEVICE=wire0\nexport MTU=1400 # VPN\n", "1400"),
    ],
)  # fmt: skip
def test_other_services_that_set_the_mtu_are_found(tmp_path: Path, file: str, text: str, mtu: str) -> None:
    address = tmp_path / "sys/class/net/wire0/address"
    address.parent.mkdir(parents=True)
    address.write_text(f"{MAC}\n")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert mtu_sources.later_mtus("wire0", 7, str(tmp_path)) == {f"/{file}": mtu}
    assert mtu_sources.later_mtus("wire1", 8, str(tmp_path)) == (
        {f"/{file}": mtu} if file.endswith(("Wired", "conf.d/mtu.conf")) else {}
    )
    (warning,) = apply._mtu_warnings({("wire0", 7): 8264}, {}, str(tmp_path))
    assert (
        warning
        == f"nics: wire0: /{file} sets MTU 1400 at the next boot or reconnect: change it to 8264 there"
    )


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("etc/rc.local", "# ip link set wire0 mtu 1400\nip link set dev wire01 mtu 1400\n"),
        ("etc/rc.local", "ping -M do wire0\nip link set dev eth9 mtu 1400\n"),
        ("etc/sysconfig/network-scripts/ifcfg-wire0.bak", "DEVICE=wire0\nMTU=1400\n"),
        ("etc/NetworkManager/conf.d/a.conf",
         "[connection]\nmatch-device=except:interface-name:wire*\nethernet.mtu=1400\n"),
        ("etc/network/interfaces", "iface big inet manual\n\tmtu 1400\niface wire0 inet dhcp\n"),
        ("etc/udev/rules.d/99-podnet-nic.rules", 'KERNEL=="wire0", ATTR{mtu}="1400"\n'),
    ],
)  # fmt: skip
def test_text_that_sets_no_mtu_of_the_nic(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(text)
    assert mtu_sources.later_mtus("wire0", 7, str(tmp_path)) == {}


def test_files_that_ifupdown_includes(tmp_path: Path) -> None:
    for name, text in {
        "etc/network/interfaces": "source more/*.cfg\nsource-directory /etc/network/dir\n",
        "etc/network/more/a.cfg": "iface wire0 inet dhcp\n  mtu 1400\n",
        "etc/network/dir/b": "iface wire0 inet6 auto\n  mtu 1300\nsource /etc/network/interfaces\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert mtu_sources.later_mtus("wire0", 7, str(tmp_path)) == {
        "/etc/network/more/a.cfg": "1400", "/etc/network/dir/b": "1300",
    }  # fmt: skip


@pytest.mark.parametrize("section", ["DHCPv4", "DHCP"])
def test_networkd_that_uses_the_mtu_of_dhcp_gets_a_drop_in(others: str, section: str) -> None:
    network = Path(others, "etc/systemd/network/10-w.network")
    Path(others, "etc/systemd/network/10-w.network.d/a.conf").unlink()
    Path(others, "run/systemd/network/10-w.network.d/a.conf").unlink()
    network.write_text(f"[Match]\nName=wire0\n[Network]\nDHCP=yes\n[{section}]\nUseMTU=true\n")
    assert mtu_sources.later_mtus("wire0", 7, others)["/etc/systemd/network/10-w.network"] == "DHCP"
    drop_ins = mtu_sources.drop_ins({7: 8264}, others)
    assert list(drop_ins) == [DROP_IN]
    assert mtu_sources.later_mtus("wire0", 7, others, drop_ins)[DROP_IN] == "8264"
    # The file also applies to another NIC, so that a warning has to do.
    Path(others, "run/systemd/netif/links/8").write_text("NETWORK_FILE=/etc/systemd/network/10-w.network\n")
    assert mtu_sources.drop_ins({7: 8264}, others) == {}
    warning = apply._mtu_warnings({("wire0", 7): 8264}, {}, others)[0]
    assert warning.startswith(
        "nics: wire0: /etc/systemd/network/10-w.network sets the MTU of the DHCP server"
    )
    network.write_text(network.read_text() + "[Link]\nMTUBytes=8264\n")
    assert mtu_sources.later_mtus("wire0", 7, others)["/etc/systemd/network/10-w.network"] == "8264"


@pytest.mark.parametrize(("value", "mtu"), [("9K", {"9216"}), ("9000", {"9000"}), ("9000\nMTUBytes=", set())])
def test_sizes_of_networkd(others: str, value: str, mtu: set[str]) -> None:
    for folder in ("etc", "run"):
        Path(others, f"{folder}/systemd/network/10-w.network.d/a.conf").unlink()
    Path(others, "etc/systemd/network/10-w.network").write_text(f"[Link]\nMTUBytes={value}\n")
    found = mtu_sources.later_mtus("wire0", 7, others)
    assert {found[file] for file in found if "systemd" in file} == mtu
