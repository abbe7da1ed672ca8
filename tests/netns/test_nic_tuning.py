# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nic_tuning on veth (channels, features, sizes, MTU) and tap (coalescing) on the running kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool as _ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns as _netns
from ansible_collections.podnet.datapath.plugins.module_utils._nic import configure, info
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal

Namespaces = Any  # conftest.Namespaces
RunModule = Callable[..., dict[str, Any]]


class Node:
    """A namespace with veth0, veth1 and tap0, in which nic_tuning runs."""

    def __init__(self, netns: str, run: RunModule) -> None:
        self.netns, self.run = netns, run

    def __call__(self, *nics: dict[str, Any], check: bool = False, fails: bool = False) -> dict[str, Any]:
        return self.run("nic_tuning", {"nics": list(nics)}, self.netns, check=check, fails=fails)

    def state(self) -> dict[str, _ethtool.Nic]:
        with _netns.entered(f"/run/netns/{self.netns}"):
            ethtool = _ethtool.Ethtool()
            try:
                return {name: ethtool.read(name) for name in ("veth0", "veth1", "tap0")}
            finally:
                ethtool.close()

    def ethtool(self, *words: str) -> str:
        inside = ["nsenter", f"--net=/run/netns/{self.netns}", "ethtool", *words]
        return subprocess.run(inside, stdout=subprocess.PIPE, text=True, check=True).stdout

    def refused(self, *nics: dict[str, Any]) -> str:
        """Assert that nic_tuning fails and changes nothing; return its message."""
        before = self.state()
        message = str(self(*nics, fails=True)["msg"])
        assert self.state() == before
        return message


@pytest.fixture
def node(namespaces: Namespaces, run_module: RunModule) -> Node:
    netns = namespaces("nic")
    namespaces.ip(
        netns,
        "link add veth0 numtxqueues 4 numrxqueues 4 type veth peer name veth1 numtxqueues 4 numrxqueues 4",
        "tuntap add tap0 mode tap",
    )
    return Node(netns, run_module)


def test_all_nics_are_planned_changed_and_then_unchanged(node: Node) -> None:
    veth = {
        "name": "veth0", "mtu": 8264, "channels": {"rx": 3, "tx": 2}, "features": {"gro": "on", "tso": False},
        "gso_max_size": 185000, "gro_max_size": 185000,
    }  # fmt: skip
    tap = {"name": "tap0", "mtu": 4168, "coalesce": {"rx_frames": 32}}
    before = node.state()
    planned = node(veth, tap, check=True)
    assert planned["changed"] and node.state() == before

    made = node(veth, tap)
    assert (made["changed"], made["nics"], made["diff"]) == (True, planned["nics"], planned["diff"])
    assert {(c["name"], c["after"]) for c in made["nics"][0]["changes"]} >= {
        ("mtu", 8264), ("channels.rx", 3), ("channels.tx", 2), ("features.rx-gro", True),
        ("features.tx-tcp-segmentation", False), ("gso_max_size", 185000), ("gro_max_size", 185000),
    }  # fmt: skip
    assert [nic["driver"] for nic in made["nics"]] == ["veth", "tun"]
    assert "channels.rx = 3\n" in made["diff"][0]["after"]

    after = node.state()
    changed = {c["name"] for c in made["nics"][0]["changes"]}
    assert {s for s, v in after["veth0"].values.items() if v != before["veth0"].values[s]} == changed
    assert after["veth1"] == before["veth1"]
    assert "generic-receive-offload: on" in node.ethtool("-k", "veth0")
    assert "rx-frames: 32" in node.ethtool("-c", "tap0").replace("\t", " ")
    assert node.ethtool("-l", "veth0").split("Current")[1].split()[3:6] == ["3", "TX:", "2"]

    again = node(veth, tap)
    assert (again["changed"], again["diff"]) == (False, [])


def test_ipv4_sizes_stay_unless_requested(node: Node) -> None:
    if "gso_ipv4_max_size" not in node.state()["veth0"].values:
        message = node.refused({"name": "veth0", "gso_ipv4_max_size": 70000})
        assert "gso_ipv4_max_size is not supported by this kernel" in message
        return
    node({"name": "veth0", "gso_max_size": 185000, "gso_ipv4_max_size": 70000, "gro_ipv4_max_size": 80000})
    node({"name": "veth0", "gso_max_size": 65536, "gro_max_size": 60000})
    values = node.state()["veth0"].values
    assert [values[size] for size in _ethtool.SIZES] == [65536, 60000, 70000, 80000]


def test_all_errors_are_reported_before_any_change(node: Node) -> None:
    message = node.refused(
        {"name": "veth0", "mtu": 8264, "rings": {"rx": 512}, "features": {"lro": True}},
        {"name": "veth1", "mtu": 70000, "channels": {"rx": 5}, "gso_max_size": 600000},
    )
    assert message.splitlines() == [
        "nics: veth0 (driver veth): features.lro is fixed off and cannot be set to on:"
        " remove it, or list it in optional",
        "nics: veth0 (driver veth): rings.rx is not supported by the driver:"
        " remove it, or list it in optional",
        "nics: veth1 (driver veth): mtu = 70000 exceeds the maximum of 65535: lower it, or set"
        " limit_to_maximum",
        "nics: veth1 (driver veth): gso_max_size = 600000 exceeds the maximum of 524280: lower it, or set"
        " limit_to_maximum",
        "nics: veth1 (driver veth): channels.rx = 5 exceeds the maximum of 4: lower it, or set"
        " limit_to_maximum",
    ]


def test_unknown_nic_is_reported_with_existing_ones(node: Node) -> None:
    message = node.refused({"name": "veth0", "mtu": 8264}, {"name": "eth7"})
    assert message == "nics: no NIC matches eth7; available: lo, tap0, veth0, veth1"


def test_unsupported_optional_settings_are_skipped(node: Node) -> None:
    done = node({"name": "veth0", "mtu": 8264, "rings": {"rx": 512}, "features": {"lro": True},
                 "priv_flags": {"rx_striding_rq": False},
                 "optional": ["rings", "features.lro", "priv_flags"]})  # fmt: skip
    assert [c["name"] for c in done["nics"][0]["changes"]] == ["mtu"]
    assert done["nics"][0]["skipped"] == {
        "features.lro": "is fixed off and cannot be set to on",
        "priv_flags.rx_striding_rq": "is not a private flag of the driver; available: none",
        "rings.rx": "is not supported by the driver",
    }


def test_refusal_restores_earlier_changes(node: Node) -> None:
    message = node.refused(
        {"name": "veth0", "mtu": 8264, "features": {"gro": True}, "gso_max_size": 185000},
        {"name": "tap0", "mtu": 4168, "coalesce": {"rx-frames": 8}},
        {"name": "veth1", "features": {"tso": False}, "channels": {"rx": 0}},
    )
    assert "veth1 (driver veth): the kernel refuses channels: rx = 0: requested channel counts" in message
    assert message.endswith("Every NIC has its former settings.")


def test_clamped_value_fails_and_restores_everything(node: Node) -> None:
    # The driver accepts any value and clamps it to 64 (NAPI_POLL_WEIGHT).
    message = node.refused(
        {"name": "veth0", "mtu": 8264}, {"name": "tap0", "mtu": 4168, "coalesce": {"rx-frames": 100}}
    )
    assert "tap0 (driver tun): the kernel accepted coalesce.rx-frames = 100, but reads back 64" in message


def test_feature_with_missing_dependency_fails(node: Node) -> None:
    request = {"name": "veth0", "features": {"tx": False, "tso": True}, "mtu": 8264}
    message = node.refused(request)
    assert "features.tso needs tx-checksum-ip-generic or tx-checksum-ipv6, which is off" in message
    made = node({**request, "optional": ["features.tso"]})
    assert "needs tx-checksum-ip-generic" in made["nics"][0]["skipped"]["features.tso"]
    assert {"mtu", "features.tx-checksum-ip-generic"} <= {c["name"] for c in made["nics"][0]["changes"]}
    assert not node({**request, "optional": ["features.tso"]})["changed"]
    assert node({**request, "features": {"tx": True, "tso": True}})["changed"]
    assert node.state()["veth0"].values["features.tx-tcp-segmentation"] is True


def test_mtu_below_ipv6_minimum_is_refused(node: Node, namespaces: Namespaces) -> None:
    namespaces.ip(node.netns, "link set veth0 up", "address add 2001:db8::1/64 dev veth0 nodad")
    assert "mtu = 1000 would remove the IPv6 addresses and routes of veth0" in node.refused(
        {"name": "veth0", "mtu": 1000}
    )
    assert node({"name": "veth0", "mtu": 1280})["changed"]
    namespaces.sysctl(node.netns, ipv6__conf__veth0__disable_ipv6=1)
    assert node({"name": "veth0", "mtu": 1000})["changed"]


def test_lower_mtu_of_lower_device_needs_mtu_of_upper_devices(
    node: Node, namespaces: Namespaces, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path))
    # The name sorts before that of the lower device, whose MTU the rollback must raise first.
    namespaces.ip(
        node.netns,
        "link set veth0 mtu 9000",
        "link add above0 link veth0 type macvlan",
        "link set above0 mtu 8500",
    )

    def mtus() -> list[object]:
        with _netns.entered(f"/run/netns/{node.netns}"):
            ethtool = _ethtool.Ethtool()
            try:
                return [ethtool.read(name).values["mtu"] for name in ("above0", "veth0")]
            finally:
                ethtool.close()

    lower = {"name": "veth0", "mtu": 8264}
    message = node.refused(lower)
    assert (
        "would also lower above0 from 8500" in message and "add above0 to nics with an mtu of 8264" in message
    )
    assert "would also lower above0" in node.refused(lower, {"name": "above0", "mtu": 8400})
    assert not node(lower, {"name": "above0", "mtu": 8000}, check=True)["nics"][1]["skipped"]
    node(lower, {"name": "above0", "mtu": 8000})
    assert mtus() == [8000, 8264]
    node.run("revert", {"subsystems": ["nics"]}, node.netns)
    assert mtus() == [8500, 9000]


def test_lower_mtu_of_bridge_port_is_checked_for_the_bridge(node: Node, namespaces: Namespaces) -> None:
    namespaces.ip(
        node.netns,
        "link set veth0 mtu 9000",
        "link add br0 type bridge",
        "link set veth0 master br0",
        "link add on0 link br0 type macvlan",
    )
    assert "would also lower on0 from 9000" in node.refused({"name": "veth0", "mtu": 1500})
    namespaces.ip(node.netns, "link set on0 mtu 1400")
    assert node({"name": "veth0", "mtu": 1500})["changed"], "the bridge follows its ports"


def test_alternative_names_select_a_nic(node: Node, namespaces: Namespaces) -> None:
    long = "enx" + "0123456789ab" * 3
    namespaces.ip(node.netns, f"link property add dev veth0 altname {long} altname enp7s0")
    for name in (long, "enp7s0"):
        assert node({"name": name, "mtu": 1400}, check=True)["nics"][0]["name"] == "veth0"
        (nic,) = node.run("nic_info", {"nics": [{"name": name}]}, node.netns)["nics"]
        assert nic["name"] == "veth0"
    assert node({"name": "enp7s0", "mtu": 1400})["changed"] and node.state()["veth0"].values["mtu"] == 1400
    message = node.refused({"name": "enp7s0", "mtu": 1500}, {"name": "veth0", "mtu": 1500})
    assert "veth0 is listed twice" in message
    assert "no NIC matches enp7s0x" in node.refused({"name": "enp7s0x", "mtu": 1500})


def test_interfaces_that_come_and_go_are_skipped(
    namespaces: Namespaces, run_module: RunModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    node = Node(namespaces("nic"), run_module)
    namespaces.ip(node.netns, "link add veth0 type veth peer name veth1", "link add br0 type bridge")
    script = (
        "while :; do ip link add gone0 type veth peer name gone1; ip link set gone1 master br0;"
        " ip link del gone0; done"
    )
    inside = ["nsenter", f"--net=/run/netns/{node.netns}", "sh", "-c", script]
    with subprocess.Popen(inside, stderr=subprocess.DEVNULL) as other:
        try:
            for mtu in (9000, 1400, 1500) * 4:
                node({"name": "veth0", "mtu": mtu})
                assert "veth0" in [nic["name"] for nic in run_module("nic_info", {}, node.netns)["nics"]]
        finally:
            other.kill()


def test_an_interface_whose_name_another_one_has_now_is_skipped(
    namespaces: Namespaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = namespaces("nic")
    namespaces.ip(name, "link add veth0 type veth peer name veth1")
    read = _ethtool.Ethtool.read

    def replaced(ethtool: _ethtool.Ethtool, nic: str) -> _ethtool.Nic:
        if nic == "veth0":
            namespaces.ip(name, "link del veth0", "link add veth0 type veth peer name veth1")
            raise OSError("no interface with this name")
        return read(ethtool, nic)

    monkeypatch.setattr(_ethtool.Ethtool, "read", replaced)
    with namespaces.inside(name):
        assert [nic["name"] for nic in info.nics([])] == ["lo", "veth1"]
        with pytest.raises(Problem, match="veth0 cannot be read: No such device"):
            info.nics([{"name": "veth0"}])
        (planned,) = configure.read_plan(_ethtool.Ethtool(), [{"driver": "veth", "mtu": 1400}]).nics
    assert planned.nic.name == "veth1"
