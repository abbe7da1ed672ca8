# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MTUs of devices that depend on each other, on a model of the kernel's rules for each kind."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._nic import mtu
from ansible_collections.podnet.datapath.plugins.module_utils._nic.mtu import Device

# Two bonded NICs with a VLAN and a bridge on top; a macvlan on the VLAN, an ipvlan on another NIC.
DEVICES = [
    Device("vlan5", 9, 1500, "vlan", lower=3),
    Device("up0", 1, 1500, master=3),
    Device("up1", 2, 1500, master=3),
    Device("abond", 3, 1500, "bond", master=5),
    Device("mv0", 4, 1500, "macvlan", lower=9),
    Device("abr", 5, 1500, "bridge"),
    Device("up2", 6, 1500),
    Device("ipv0", 7, 1500, "ipvlan", lower=6),
    Device("port", 8, 1500, master=10),
    Device("team0", 10, 1500, "team"),
]
NAMES = [device.name for device in DEVICES]


class Kernel:
    """The devices; a write follows the rules of the kind, as bond_change_mtu() and others."""

    def __init__(self, devices: list[Device]) -> None:
        self.devices = {device.index: device for device in devices}
        self.explicit: set[int] = set()  # bridges whose own MTU was set

    def mtus(self) -> dict[str, int]:
        return {device.name: device.mtu for device in self.devices.values()}

    def write(self, name: str, value: int) -> None:
        (device,) = [device for device in self.devices.values() if device.name == name]
        master = self.devices.get(device.master)
        if master and master.kind == "team":
            raise OSError(16, "Device or resource busy")
        if device.kind in ("vlan", "macvlan") and value > self.devices[device.lower].mtu:
            raise OSError(34, "Numerical result out of range")
        if device.kind == "bridge":
            self.explicit.add(device.index)
        self._set(device.index, value)
        if device.kind in ("bond", "team"):
            for port in [one for one in self.devices.values() if one.master == device.index]:
                self._set(port.index, value)

    def _set(self, index: int, value: int) -> None:
        self.devices[index] = replace(self.devices[index], mtu=value)
        for device in list(self.devices.values()):
            if device.lower == index and (device.kind == "ipvlan" or device.mtu > value):
                self._set(device.index, value)
            is_port = device.kind == "bridge" and self.devices[index].master == device.index
            if is_port and device.index not in self.explicit:
                ports = [one.mtu for one in self.devices.values() if one.master == device.index]
                self._set(device.index, min(ports))


@pytest.mark.parametrize(
    "names", [["mv0", "vlan5", "abond"], ["abond", "vlan5", "mv0"], ["vlan5", "abond", "mv0"]]
)
@pytest.mark.parametrize("values", [(9000, 9000, 9000), (1400, 1300, 1280), (1500, 1450, 1400)])
def test_any_order_of_entries_works(names: list[str], values: tuple[int, ...]) -> None:
    kernel = Kernel(DEVICES)
    desired = dict(zip(["abond", "vlan5", "mv0"], values))
    order = mtu.related(names, list(kernel.devices.values()))
    assert mtu.write_all(kernel.mtus, kernel.write, {n: desired[n] for n in order if n in desired}) == []
    assert {name: kernel.mtus()[name] for name in desired} == desired
    # Restore, in the order of the interface names.
    former = {device.name: device.mtu for device in DEVICES}
    assert mtu.write_all(kernel.mtus, kernel.write, {name: former[name] for name in order}) == []
    assert kernel.mtus() == former and not kernel.explicit


@given(st.dictionaries(st.sampled_from(NAMES), st.integers(1280, 9000)), st.permutations(NAMES))
def test_every_state_is_restored_and_every_change_is_related(
    desired: dict[str, int], order: list[str]
) -> None:
    kernel = Kernel(DEVICES)
    before = kernel.mtus()
    related = mtu.related(desired, DEVICES)
    mtu.write_all(kernel.mtus, kernel.write, {name: desired[name] for name in order if name in desired})
    after = kernel.mtus()
    assert {name for name in NAMES if before[name] != after[name]} <= set(related)
    assert mtu.write_all(kernel.mtus, kernel.write, {name: before[name] for name in related}) == []
    assert kernel.mtus() == before


def test_followers_are_predicted() -> None:
    assert mtu.followers({"abond": 9000, "up2": 9000}, DEVICES) == {
        "up0": (1500, 9000), "up1": (1500, 9000), "abr": (1500, 9000), "ipv0": (1500, 9000),
    }  # fmt: skip
    assert mtu.followers({"abond": 1400, "vlan5": 1400}, DEVICES)["mv0"] == (1500, 1400)
    assert mtu.followers({"mv0": 1400}, DEVICES) == {}


def test_an_error_remains_when_nothing_helps() -> None:
    kernel = Kernel(DEVICES)
    (error,) = mtu.write_all(kernel.mtus, kernel.write, {"mv0": 9000})
    assert error == "nics: mv0: the kernel refuses mtu = 9000: Numerical result out of range"


def test_a_bond_precedes_its_ports_and_a_bridge_comes_last() -> None:
    assert list(mtu.related(["up0"], DEVICES)) == ["abond", "up0", "up1", "vlan5", "mv0", "abr"]
    assert list(mtu.related(["up2"], DEVICES)) == ["up2", "ipv0"]
