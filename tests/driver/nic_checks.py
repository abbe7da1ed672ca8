# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run nic_tuning on a node, on drivers that only a node has.

usage: nic_checks netdevsim.ko

QEMU emulates the e1000e and the igb; netdevsim is the kernel's simulated NIC.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool as _ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply, configure, device, mtu
from ansible_collections.podnet.datapath.plugins.module_utils._ops import revert_node
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal
from tests.support import node_checks
from tests.support.namespaces import command

CHECKS = node_checks.Checks()

DRIVERS = ("netdevsim", "e1000e", "igb")
XDP, XDP_PASS = 6, 2


def tune(*nics: dict[str, Any], check: bool = False) -> dict[str, Any]:
    """Run nic_tuning without persisting settings; return its result."""
    result = apply.run(nics, False, check, lambda words: (0, "", ""))
    assert not result.warnings, result.warnings
    return result.as_dict()


def state() -> dict[str, _ethtool.Nic]:
    """Return the settings of the checks' NICs by driver."""
    ethtool = _ethtool.Ethtool()
    try:
        found = {one.driver: device.read(ethtool, one.name) for one in device.devices(ethtool)}
    finally:
        ethtool.close()
    return {driver: found[driver] for driver in DRIVERS}


def refused(*nics: dict[str, Any]) -> str:
    """Assert that nic_tuning refuses and changes nothing; return its message."""
    before = state()
    try:
        tune(*nics)
    except plan.Problem as problem:
        assert state() == before, f"{problem}\nnow: {state()}\nbefore: {before}"
        return str(problem)
    raise AssertionError("nic_tuning did not refuse")


def check_dry_run_apply_and_idempotence(nic: dict[str, Any], expected: dict[str, Any]) -> None:
    """Assert that a run makes the changes of its dry run, results in ``expected``, and is idempotent."""
    before = state()
    planned = tune(nic, check=True)
    assert state() == before
    made = tune(nic)
    assert made == planned, f"{made}\n{planned}"
    driver = made["nics"][0]["driver"]
    now = state()[driver].values
    assert {name: now[name] for name in expected} == expected, now
    others = {n for n, value in before[driver].values.items() if now.get(n) != value} - {*expected}
    assert not {n for n in others if not n.startswith(("queues.", "irqs."))}, others
    again = tune(nic)
    assert not again["changed"] and not again["diff"], again


def with_xdp(then: Callable[[], None]) -> None:
    """Call a function while netdevsim has an XDP program that passes all packets."""
    # r0 = XDP_PASS; exit (linux/bpf.h)
    code = struct.pack("=BBhiBBhi", 0xB7, 0, 0, XDP_PASS, 0x95, 0, 0, 0)
    instructions, licence = bpf.ctypes.create_string_buffer(code), bpf.ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQ", XDP, 2, bpf.ctypes.addressof(instructions), bpf.ctypes.addressof(licence)
    )
    pin, nic = "/sys/fs/bpf/nic_checks", state()["netdevsim"].name
    with bpf.closing(bpf.bpf(5, attributes.ljust(120, b"\0"))) as descriptor:
        bpf.obj_pin(descriptor, pin)
    try:
        command("ip", "link", "set", "dev", nic, "xdp", "pinned", pin)
        then()
    finally:
        command("ip", "link", "set", "dev", nic, "xdp", "off")
        Path(pin).unlink()


# netdevsim


@CHECKS
def netdevsim_sets_rings_channels_coalescing_and_pause() -> None:
    nic_options = {
        "driver": "netdevsim", "mtu": 8264, "rings": {"rx": 1024, "tx": 2048}, "channels": {"combined": 2},
        "coalesce": {"rx-usecs": 16, "tx_frames": 64, "adaptive-rx": "on"}, "pause": {"rx": True, "tx": True},
    }  # fmt: skip
    expected = {
        "mtu": 8264, "rings.rx": 1024, "rings.tx": 2048, "channels.combined": 2, "coalesce.rx-usecs": 16,
        "coalesce.tx-frames": 64, "coalesce.adaptive-rx": True, "pause.rx": True, "pause.tx": True,
    }  # fmt: skip
    check_dry_run_apply_and_idempotence(nic_options, expected)


@CHECKS
def all_values_above_their_maximum_are_reported_at_once() -> None:
    message = refused({"driver": "netdevsim", "rings": {"rx": 5000, "tx": 9999}, "channels": {"combined": 5}})
    assert [line.partition("): ")[2] for line in message.splitlines()] == [
        "channels.combined = 5 exceeds the maximum of 4: lower it, or set limit_to_maximum",
        "rings.rx = 5000 exceeds the maximum of 4096: lower it, or set limit_to_maximum",
        "rings.tx = 9999 exceeds the maximum of 4096: lower it, or set limit_to_maximum",
    ], message


@CHECKS
def limit_to_maximum_lowers_values() -> None:
    nic_options = {"driver": "netdevsim", "rings": {"rx": 5000}, "limit_to_maximum": True}
    assert tune(nic_options)["nics"][0]["limited"] == {"rings.rx": 4096}
    assert state()["netdevsim"].values["rings.rx"] == 4096
    assert not tune(nic_options)["changed"]


@CHECKS
def refusal_restores_nics_changed_before_it() -> None:
    def then() -> None:
        message = refused(
            {"driver": "e1000e", "rings": {"rx": 512}, "coalesce": {"rx-usecs": 40}},
            {"driver": "netdevsim", "rings": {"rx": 256}, "channels": {"combined": 1},
             "coalesce": {"rx-usecs": 99}, "pause": {"rx": True}, "mtu": 8264},
        )  # fmt: skip
        assert ": the kernel refuses mtu = 8264: " in message, message
        assert message.endswith("Every NIC has its former settings."), message

    tune({"driver": "netdevsim", "mtu": 1500})
    with_xdp(then)


@CHECKS
def header_split_is_set_or_refused_by_capability() -> None:
    nic = state()["netdevsim"]
    if "rings.tcp-data-split" not in nic.values:
        message = refused({"driver": "netdevsim", "rings": {"tcp-data-split": "on"}})
        assert "rings.tcp-data-split is not supported by the driver" in message, message
        message = refused({"driver": "netdevsim", "header_split": "data_split"})
        assert "data_split needs a driver that reports tcp-data-split" in message, message
        return
    check_dry_run_apply_and_idempotence(
        {"driver": "netdevsim", "rings": {"tcp-data-split": "off", "hds-thresh": 256}},
        {"rings.tcp-data-split": False, "rings.hds-thresh": 256},
    )
    check_dry_run_apply_and_idempotence(
        {"driver": "netdevsim", "header_split": "data_split"},
        {"rings.tcp-data-split": True, "features.rx-lro": False},
    )
    top = state()["netdevsim"].maximum["rings.hds-thresh"]
    message = refused({"driver": "netdevsim", "rings": {"hds-thresh": top + 1}})
    assert f"rings.hds-thresh = {top + 1} exceeds the maximum of {top}" in message, message


@CHECKS
def header_split_and_xdp_exclude_each_other() -> None:
    if "rings.tcp-data-split" not in state()["netdevsim"].values:
        raise node_checks.Skipped("netdevsim of this kernel has no tcp-data-split")

    def then() -> None:
        message = refused({"driver": "netdevsim", "header_split": "data_split"})
        assert "data_split and an XDP program exclude each other" in message, message
        # As a plain ring parameter the kernel refuses it, with its own message.
        message = refused({"driver": "netdevsim", "rings": {"rx": 300, "tcp-data-split": "on"}})
        assert "tcp-data-split can not be enabled with single buffer XDP" in message, message

    tune({"driver": "netdevsim", "mtu": 1500, "rings": {"tcp-data-split": "off"}})
    with_xdp(then)


# e1000e and igb


@CHECKS
def e1000e_sets_rings_coalescing_and_features() -> None:
    check_dry_run_apply_and_idempotence(
        {"driver": "e1000e", "mtu": 4168, "rings": {"rx": 1024, "tx": 512}, "coalesce": {"rx-usecs": 50},
         "features": {"rxhash": False, "gro": True, "tso": "off"}},
        {"mtu": 4168, "rings.rx": 1024, "rings.tx": 512, "coalesce.rx-usecs": 50,
         "features.rx-hashing": False, "features.rx-gro": True, "features.tx-tcp-segmentation": False,
         "features.tx-tcp6-segmentation": False},
    )  # fmt: skip


@CHECKS
def ring_size_rounded_by_e1000e_is_a_failure() -> None:
    message = refused({"driver": "e1000e", "mtu": 8264, "rings": {"rx": 1001}, "coalesce": {"rx-usecs": 30}})
    assert "(driver e1000e): the kernel accepted rings.rx = 1001, but reads back 1008" in message, message


@CHECKS
def all_unsupported_settings_of_e1000e_are_reported_at_once() -> None:
    message = refused(
        {"driver": "e1000e", "channels": {"combined": 2}, "coalesce": {"tx-usecs": 5}, "features": {"lro": 1}}
    )
    ends = [line.partition("): ")[2].partition(":")[0] for line in message.splitlines()]
    assert sorted(ends) == [
        "channels.combined is not supported by the driver",
        "coalesce.tx-usecs is not supported by the driver",
        "features.lro is fixed off and cannot be set to on",
    ], message


@CHECKS
def private_flag_refused_by_hardware_is_reported() -> None:
    # The driver lists the flag for every device and refuses it on the 82574 that QEMU emulates.
    message = refused({"driver": "e1000e", "priv_flags": {"s0ix-enabled": True}, "rings": {"rx": 256}})
    assert "the kernel refuses priv_flags: s0ix-enabled = on: Invalid argument" in message, message


@CHECKS
def igb_sets_private_flag_rings_channels_and_coalescing() -> None:
    nic = state()["igb"]
    more = nic.values["channels.combined"] == 1 and nic.maximum["channels.combined"] > 1
    combined = 2 if more else 1
    check_dry_run_apply_and_idempotence(
        {"driver": "igb", "mtu": 8264, "priv_flags": {"legacy-rx": True}, "rings": {"rx": 512, "tx": 512},
         "channels": {"combined": combined}, "coalesce": {"rx-usecs": 30}},
        {"mtu": 8264, "priv_flags.legacy-rx": True, "rings.rx": 512, "rings.tx": 512,
         "channels.combined": combined, "coalesce.rx-usecs": 30},
    )  # fmt: skip


# Devices that depend on each other

STACK = """\
link add p0 type dummy
link add p1 type dummy
link add abond type bond
link set p0 master abond
link set p1 master abond
link add avlan link abond type vlan id 5
link add abridge type bridge
link set avlan master abridge
link add avxlan type vxlan id 5 dstport 4789 dev abond remote 192.0.2.1
link add ateam type team
link add q0 type dummy
link set q0 master ateam
link add amacvlan link ateam type macvlan
link add inner link ateam type vlan id 7 protocol 802.1ad
link add ainner link inner type vlan id 8
link add r0 type dummy
link add amacsec link r0 type macsec
link add r1 type dummy
link add aipvlan link r1 type ipvlan
"""
STACKED = {
    "abond": 9000, "avlan": 8000, "avxlan": 8950, "ateam": 9000, "amacvlan": 8500, "inner": 9000,
    "ainner": 8900, "r0": 9000, "amacsec": 8900, "r1": 9000,
}  # fmt: skip
# What the kernel changes along: ports of bond and team, a bridge, and a device that always has the lower MTU.
FOLLOWING = {"p0": 9000, "p1": 9000, "q0": 9000, "abridge": 8000, "aipvlan": 9000}


def mtus() -> dict[str, int]:
    return {one.name: one.mtu for one in mtu.devices() if one.name in {*STACKED, *FOLLOWING}}


@CHECKS
def mtus_of_stacked_devices_are_set_and_reverted() -> None:
    made = subprocess.run(["ip", "-batch", "-"], input=STACK, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    folder, former = journal.FOLDER, mtus()
    journal.FOLDER = "/root/journal"
    entries = [{"name": name, "mtu": STACKED[name]} for name in reversed(STACKED)]
    try:
        tune(*entries)
        assert mtus() == {**STACKED, **FOLLOWING}, mtus()
        tune(*({**entry, "mtu": entry["mtu"] - 3000} for entry in entries))
        assert mtus() == {name: value - 3000 for name, value in {**STACKED, **FOLLOWING}.items()}, mtus()
        reverted = revert_node.run(["nics"], False, False, lambda words: (0, "", "")).values
        assert reverted["archived"] and mtus() == former, f"{reverted} {mtus()}"
        configure.set_up(entries, "avxlan")  # its unit may start first at boot
        expected = {name: STACKED[name] for name in ("abond", "avlan", "avxlan")}
        assert {name: mtus()[name] for name in expected} == expected, mtus()
    finally:
        journal.FOLDER = folder
        for name in ("abond", "ateam", "p0", "p1", "q0", "r0", "r1", "abridge", "avxlan"):
            command("ip", "link", "del", name, check=False)


def check_and_restore(
    function: Callable[[], None], former: dict[str, _ethtool.Nic], mtus: dict[str, int]
) -> None:
    """Run a check, then restore the former settings of the NICs and MTUs of all interfaces."""
    function()
    ethtool = _ethtool.Ethtool()
    words = configure.restore(ethtool, [*former.values()], mtus)
    ethtool.close()
    assert words == "Every NIC has its former settings." and state() == former, words


def main() -> None:
    module = sys.argv[1]
    for needed in command("modinfo", "-F", "depends", module).strip().split(","):
        command("modprobe", needed)
    command("insmod", module)
    Path("/sys/bus/netdevsim/new_device").write_text("1 1 4")  # number, ports, queues
    command("udevadm", "settle")
    for driver in DRIVERS:
        command("ip", "link", "set", state()[driver].name, "up")
    former, mtus = state(), {one.name: one.mtu for one in mtu.devices()}
    for name, function in CHECKS.items():
        node_checks.report(name, node_checks.run(partial(check_and_restore, function, former, mtus)))
    Path("/sys/bus/netdevsim/del_device").write_text("1")
    command("rmmod", "netdevsim")


if __name__ == "__main__":
    main()
