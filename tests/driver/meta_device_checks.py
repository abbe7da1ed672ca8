# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run meta_device on a node, with the drivers that only a node has.

usage: meta_device_checks meta.ko

A network namespace stands in for the host, so the node itself does not change.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf, netlink
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns as _netns
from ansible_collections.podnet.datapath.plugins.module_utils._pods import apply as _meta_device
from ansible_collections.podnet.datapath.plugins.module_utils._pods import model
from tests.support import node_checks
from tests.support.namespaces import command

HOST = "md-host"
PINS = "/sys/fs/bpf/meta_device_checks"
SCHED_CLS, XDP = 3, 6
PASS, DROP = 0, 2
NONE = {"from_pod": "", "to_pod": ""}
ADDRESSES = {"md-a": ["10.77.0.1", "fd77::1"], "md-b": ["10.77.0.2", "fd77::2"]}

CHECKS = node_checks.Checks()


def pin(name: str, verdict: int, kind: int = SCHED_CLS) -> str:
    """Load and pin a program that returns a verdict; return its path."""
    path = Path(PINS, name)
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    # r0 = verdict; exit (linux/bpf.h)
    code = struct.pack("=BBhiBBhi", 0xB7, 0, 0, verdict, 0x95, 0, 0, 0)
    instructions, licence = bpf.ctypes.create_string_buffer(code), bpf.ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQ", kind, 2, bpf.ctypes.addressof(instructions), bpf.ctypes.addressof(licence)
    )
    with bpf.closing(bpf.bpf(5, attributes.ljust(120, b"\0"))) as descriptor:
        bpf.obj_pin(descriptor, str(path))
    return str(path)


def programs(verdict: int = PASS) -> dict[str, str]:
    return {direction: pin(f"{direction}_{verdict}", verdict) for direction in ("from_pod", "to_pod")}


def apply(*names: str, per_pod: Mapping[str, Any] | None = None, **others: Any) -> list[str]:
    """Run meta_device for Pods by name; return its changes."""
    pod = {"netns": None, "interface": "eth0", "host_interface": None, "driver": None, "mtu": None}
    options: dict[str, Any] = {
        "owner": "checks",
        "driver": "meta",
        "pods": [{**pod, "name": name, "addresses": ADDRESSES[name], **(per_pod or {})} for name in names],
        "mtu": None,
        "mode": "l3",
        "policy": "drop",
        "programs": None,
        "host_routes": [],
        **dict.fromkeys(model.SIZES),
        **others,
    }
    with _netns.entered(f"/run/netns/{HOST}"):
        result = _meta_device.run(options, False, lambda: "it is not installed")
    changes: list[str] = result.values["changes"]
    return changes


def pings(source: str, *targets: str) -> list[bool]:
    """Return for each target whether a Pod reaches it."""
    running = [
        subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{source}", "ping", "-c1", "-W2", target], stdout=subprocess.DEVNULL
        )
        for target in targets
    ]
    return [process.wait() == 0 for process in running]


def reachable() -> bool:
    """Return whether both Pods reach each other; raise AssertionError if directions or families differ."""
    answers = pings("md-a", *ADDRESSES["md-b"]) + pings("md-b", *ADDRESSES["md-a"])
    assert len(set(answers)) == 1, answers
    return answers[0]


def kinds() -> list[str]:
    """Return the drivers of this node that have a default policy."""
    return [kind for kind in ("meta", "netkit") if netlink.has_link_kind(kind)]


def refused(**options: Any) -> str:
    """Assert that meta_device fails; return its message."""
    try:
        apply("md-a", "md-b", **options)
    except Problem as error:
        return str(error)
    raise AssertionError(f"meta_device did not refuse {options}")


def links() -> set[str]:
    return {link["ifname"] for link in json.loads(command("ip", "-json", "link", netns=HOST))}


@CHECKS
def pods_of_every_driver_and_mode_reach_each_other() -> None:
    """Pods are created, a second run changes nothing, and they reach each other."""
    assert "meta" in kinds()
    for driver in [*kinds(), "veth"]:
        for mode in ("l3", "l2"):
            wanted = {"driver": driver, "mode": mode, "policy": "pass", "mtu": 8264, "gso_max_size": 180000}
            assert (
                any("create device" in change for change in apply("md-a", "md-b", **wanted)) or mode == "l2"
            )
            assert apply("md-a", "md-b", **wanted) == [], (driver, mode)
            assert reachable(), (driver, mode)


@CHECKS
def default_policy_is_drop_and_changes_in_place() -> None:
    for driver in kinds():
        apply("md-a", "md-b", driver=driver)
        assert not reachable(), driver
        indexes = command("ip", "-o", "link", netns=HOST)
        apply("md-a", "md-b", driver=driver, policy="pass")
        assert reachable(), driver
        assert [line.split()[0] for line in command("ip", "-o", "link", netns=HOST).splitlines()] == [
            line.split()[0] for line in indexes.splitlines()
        ]
        apply()


@CHECKS
def programs_are_attached_at_creation_and_replaced() -> None:
    """Programs that pass override the policy drop; other programs at the same pins replace them."""
    paths = programs()
    made = apply("md-a", "md-b", programs=paths)
    assert not any("set driver" in change for change in made), "the programs were attached after creation"
    assert reachable()
    assert apply("md-a", "md-b", programs=paths) == []
    pin("to_pod_0", DROP)
    changed = apply("md-a", "md-b", programs=paths)
    assert len(changed) == 2 and all("to_pod" in change and "from_pod" not in change for change in changed)
    assert not reachable()
    apply("md-a", "md-b", programs=programs())
    assert reachable()
    assert apply("md-a", "md-b") == [], "programs that the options leave out stay attached"
    apply("md-a", "md-b", programs=NONE)
    assert not reachable()


@CHECKS
def program_of_wrong_type_is_refused() -> None:
    wrong = pin("wrong", PASS, XDP)
    message = refused(programs={"from_pod": wrong, "to_pod": None})
    assert "Pod md-a" in message and "The former state was restored" in message, message
    assert links() == {"lo"}
    assert not Path("/run/netns/md-a").exists()
    # Existing Pods keep their programs.
    paths = programs()
    apply("md-a", "md-b", programs=paths)
    message = refused(programs={"from_pod": wrong, "to_pod": None})
    assert "Pod md-a: programs: " in message, message
    assert apply("md-a", "md-b", programs=paths) == []
    assert reachable()


@CHECKS
def connection_survives_driver_change() -> None:
    apply("md-a", "md-b", driver="veth")
    with _netns.entered("/run/netns/md-b"):
        server = socket.create_server(("10.77.0.2", 5001))
    with _netns.entered("/run/netns/md-a"):
        client = socket.create_connection(("10.77.0.2", 5001), timeout=20)
    peer, _address = server.accept()
    for driver in [*kinds(), "veth"]:
        apply("md-a", "md-b", driver=driver, policy="pass")
        client.sendall(driver.encode())
        peer.settimeout(20)
        assert peer.recv(100) == driver.encode()
    for one in (client, peer, server):
        one.close()


@CHECKS
def device_deleted_by_pod_is_recreated() -> None:
    apply("md-a", "md-b", policy="pass")
    command("ip", "link", "delete", "eth0", netns="md-a")
    apply("md-a", "md-b", policy="pass")
    assert reachable()


@CHECKS
def unloaded_driver_is_an_error() -> None:
    """This check is the last: it unloads the driver."""
    apply()
    command("rmmod", "meta")
    message = refused()
    assert "driver: meta: the kernel module meta cannot be loaded (it is not installed): " in message, message
    assert links() == {"lo"}


def check_in_namespace(function: Callable[[], None]) -> None:
    """Run a check in a new host namespace, then remove the namespaces."""
    _netns.make(f"/run/netns/{HOST}")
    try:
        words = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        command("sysctl", "-qw", *words, netns=HOST)
        function()
        apply(driver="veth")
    finally:
        for name in ("md-a", "md-b", HOST):
            _netns.remove(f"/run/netns/{name}")


def main() -> None:
    command("insmod", sys.argv[1])
    for name, function in CHECKS.items():
        node_checks.report(name, node_checks.run(partial(check_in_namespace, function)))
    for path in Path(PINS).iterdir():
        path.unlink()
    Path(PINS).rmdir()


if __name__ == "__main__":
    main()
