# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""sysctl_zc on the running kernel, with the sysctls of a network namespace."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.namespaces import command

Namespaces = Any  # conftest.Namespaces
RunModule = Callable[..., dict[str, Any]]

MODULE = CHECKOUT / "plugins/modules/sysctl_zc.py"

RMEM, WMEM = "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"

# Prints the window scale of both ends of a connection: tcp_info's byte 6 holds snd (low) and rcv (high).
CONNECT = """
import socket
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)
print(info[6] & 15, info[6] >> 4)
"""


class Node:
    """A namespace in which sysctl_zc runs, and its file."""

    def __init__(self, netns: str, file: Path, run: RunModule) -> None:
        self.netns, self.file, self.run = netns, file, run

    def __call__(
        self, sysctls: dict[str, Any], check: bool = False, fails: bool = False, **args: Any
    ) -> dict[str, Any]:
        args = {"file": str(self.file), **args}
        return self.run("sysctl_zc", {"sysctls": sysctls, **args}, self.netns, check=check, fails=fails)

    def read(self, *keys: str) -> list[str]:
        text = command("sysctl", "-n", *keys, netns=self.netns)
        return [" ".join(line.split()) for line in text.splitlines()]

    def everything(self) -> dict[str, str]:
        # Sysctls of the host are the same in all namespaces, and some of them count events.
        lines = command("sysctl", "-e", "net.ipv4", "net.ipv6", netns=self.netns, check=False).splitlines()
        return dict(line.partition(" = ")[::2] for line in lines)


@pytest.fixture
def node(namespaces: Namespaces, tmp_path: Path, run_module: RunModule) -> Node:
    return Node(namespaces("sysctl"), tmp_path / "zz-podnet.conf", run_module)


def test_sysctls_are_planned_changed_and_then_unchanged(node: Node) -> None:
    wanted = {
        "net.ipv4.tcp_sack": 0,
        RMEM: "4096  87380\t4194304",
        "net.ipv4.ip_local_reserved_ports": "8080",
    }
    before = node.everything()

    planned = node(wanted, check=True)
    assert planned["changed"] and not node.file.exists()
    assert node.everything() == before

    made = node(wanted)
    assert [made[k] for k in ("changed", "changes", "diff")] == [
        planned[k] for k in ("changed", "changes", "diff")
    ]
    assert {c["name"]: c["after"] for c in made["changes"]} == {
        "net.ipv4.tcp_sack": "0", RMEM: "4096 87380 4194304", "net.ipv4.ip_local_reserved_ports": "8080",
    }  # fmt: skip
    assert node.read("net.ipv4.tcp_sack", RMEM) == ["0", "4096 87380 4194304"]

    again = node(wanted)
    assert (again["changed"], again["changes"], again["diff"]) == (False, [], [])

    gone = node({}, state="absent")
    assert gone["changed"] and not node.file.exists()
    assert not node({}, state="absent")["changed"]
    assert node.read("net.ipv4.tcp_sack") == ["0"]


def test_sysctl_command_reads_the_file(node: Node, namespaces: Namespaces) -> None:
    node(
        {"net.ipv4.conf.all.forwarding": 1, "net/ipv4/conf/lo/forwarding": 0, "net.ipv4.tcp_sack": 0},
        window_scale=12,
    )
    other = namespaces("boot")
    command("sysctl", "-p", str(node.file), netns=other)
    keys = ["net.ipv4.ip_forward", "net.ipv4.conf.lo.forwarding", "net.ipv4.tcp_sack", RMEM, WMEM]
    assert command("sysctl", *keys, netns=other) == command("sysctl", *keys, netns=node.netns)
    assert node.file.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("scale", [12, 14])
def test_connections_have_the_requested_window_scale(node: Node, scale: int) -> None:
    node({}, window_scale=scale)
    assert command("python3", "-c", CONNECT, netns=node.netns).split() == [str(scale)] * 2
    assert not node({}, window_scale=scale)["changed"]


def test_interface_name_with_a_dot(node: Node, namespaces: Namespaces) -> None:
    namespaces.ip(node.netns, "link add v.100 type veth peer name w")
    assert node({"net/ipv4/conf/v.100/forwarding": 1})["changed"]
    assert not node({"net.ipv4.conf.v/100.forwarding": 1})["changed"]
    assert "net.ipv4.conf.v/100.forwarding = 1\n" in node.file.read_text()
    failed = node({"net.ipv4.conf.v.100.forwarding": 1}, fails=True)
    assert (
        "has no net.ipv4.conf.v.100.forwarding; did you mean net.ipv4.conf.v/100.forwarding" in failed["msg"]
    )


def test_one_interface_keeps_forwarding_off(node: Node, namespaces: Namespaces) -> None:
    namespaces.ip(node.netns, "link add aa0 type veth peer name w")
    wanted = {"net.ipv4.conf.aa0.forwarding": 0, "net.ipv4.ip_forward": 1}
    assert node(wanted)["changed"]
    assert node.read("net.ipv4.conf.aa0.forwarding", "net.ipv4.conf.w.forwarding") == ["0", "1"]
    assert not node(wanted)["changed"]


def refused(node: Node, sysctls: dict[str, Any], **args: Any) -> str:
    """Assert that sysctl_zc fails and changes nothing; return its message."""
    before = node.everything()
    message = str(node(sysctls, fails=True, **args)["msg"])
    assert node.everything() == before
    assert not node.file.exists()
    return message


def test_refused_value_restores_everything(node: Node, namespaces: Namespaces) -> None:
    namespaces.ip(node.netns, "link add v type veth peer name w")
    namespaces.sysctl(
        node.netns, ipv4__conf__w__forwarding=1
    )  # Restoring ip_forward to 0 would clear this one.
    wanted = {
        "net.ipv4.ip_forward": 1,
        "net.ipv4.tcp_congestion_control": "nosuch",
        "net.ipv4.tcp_adv_win_scale": 2,
    }
    message = refused(node, wanted)
    assert "refuses net.ipv4.tcp_congestion_control = nosuch" in message
    assert "Every sysctl has its former value." in message


def test_value_changed_by_the_kernel_is_a_failure(node: Node) -> None:
    # Inverted bounds: the kernel stores "nobody" and reports success.
    message = refused(node, {"net.ipv4.ping_group_range": "200 100", "net.ipv4.tcp_sack": 0})
    assert "accepted net.ipv4.ping_group_range = 200 100, but reads back '1 0'" in message


def test_unknown_and_read_only_sysctls_are_reported_first(node: Node) -> None:
    message = refused(
        node, {"net.ipv4.tcp_sack": 0, "net.ipv4.tcp_rmen": 1, "net.nosuch.key": 1, "net.ipv4.conf": 1}
    )
    assert "has no net.ipv4.tcp_rmen; did you mean net.ipv4.tcp_rmem" in message
    assert "has no net.nosuch.key" in message and "has no net.ipv4.conf" in message
    assert "net.ipv4.tcp_available_congestion_control is read-only" in refused(
        node, {"net.ipv4.tcp_sack": 0, "net.ipv4.tcp_available_congestion_control": "cubic"}
    )
    assert "net.ipv4.route.flush cannot be read" in refused(node, {"net.ipv4.route.flush": 1})


def test_read_only_proc_sys_is_reported(node: Node) -> None:
    script = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
    given = {"sysctls": {"net.ipv4.tcp_sack": 0, "net.ipv4.tcp_window_scaling": 0}, "file": str(node.file)}
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", script, "sh", sys.executable, str(MODULE)],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": {**given, "_ansible_remote_tmp": "/tmp"}}),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    message = json.loads(done.stdout)["msg"]
    for key in given["sysctls"]:
        assert f"{key} is read-only here (it is 1)" in message
    assert "outside of a container" in message and not node.file.exists()


def test_foreign_file_is_kept(node: Node) -> None:
    node.file.write_text("net.ipv4.tcp_sack = 1\n")
    before = node.everything()
    assert "was not written by this collection" in node({"net.ipv4.tcp_sack": 0}, fails=True)["msg"]
    assert "was not written by this collection" in node({}, state="absent", fails=True)["msg"]
    assert node.file.read_text() == "net.ipv4.tcp_sack = 1\n" and node.everything() == before


def test_edited_file_is_replaced(node: Node) -> None:
    node({"net.ipv4.tcp_sack": 0})
    node.file.write_bytes(node.file.read_bytes().replace(b"\n", b"\r\n") + b"# caf\xe9\r\n")
    assert node({"net.ipv4.tcp_sack": 0})["changed"]
    assert b"\r" not in node.file.read_bytes()


def test_file_that_boot_would_not_read_is_refused(node: Node) -> None:
    assert "ends in .conf" in refused(node, {}, file="/etc/sysctl.d/podnet")
    assert "ends in .conf" in refused(node, {}, file="podnet.conf")
    assert "does not exist" in refused(node, {"net.ipv4.tcp_sack": 0}, file="/nosuch/podnet.conf")


def test_empty_file_option_persists_nothing(node: Node) -> None:
    assert node({"net.ipv4.tcp_sack": 0}, file="")["changed"]
    assert not node({"net.ipv4.tcp_sack": 0}, file="")["changed"]
    assert not node.file.exists()


# Sends a router advertisement, as radvd does: type 134, code 0, hop limit 64, lifetime 1800 s.
ADVERTISE = """
import socket
sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
message = bytes([134, 0, 0, 0, 64, 0]) + (1800).to_bytes(2, "big") + bytes(8)
sock.sendto(message, ("ff02::1", 0, 0, socket.if_nametoindex("w")))
"""


def test_default_route_from_router_advertisement_is_kept(node: Node, namespaces: Namespaces) -> None:
    router = namespaces("router")
    namespaces.ip(node.netns, f"link add v type veth peer name w netns {router}", "link set v up")
    namespaces.ip(router, "link set w up", "addr add fe80::1/64 dev w nodad")
    for dummy in range(50):
        command("python3", "-c", ADVERTISE, netns=router)
        if "via fe80::1" in command("ip", "-6", "route", "show", "default", netns=node.netns):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("the kernel accepted no router advertisement")
    message = refused(node, {"net.ipv6.conf.all.forwarding": 1})
    assert "ignore router advertisements on v" in message and "set net.ipv6.conf.v.accept_ra to 2" in message
    assert node({"net.ipv6.conf.all.forwarding": 1, "net.ipv6.conf.v.accept_ra": 2})["changed"]
    assert "via fe80::1" in command("ip", "-6", "route", "show", "default", netns=node.netns)
