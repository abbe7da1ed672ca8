# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""revert restores the settings from before tuning and leaves others' changes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal

Namespaces = Any  # conftest.Namespaces
RunModule = Callable[..., dict[str, Any]]


class Node:
    """A namespace as node with a NIC, and one as Pod; modules run on the node with a private journal."""

    def __init__(self, namespaces: Namespaces, run: RunModule, folder: Path) -> None:
        self.namespaces, self._run, self.file = namespaces, run, folder / "zz-podnet.conf"
        self.host, self.pod = namespaces("node"), namespaces("pod")
        namespaces.ip(
            self.host, f"link add nic0 type veth peer name peer0 netns {self.pod}", "link set nic0 up"
        )
        namespaces.sysctl(self.host, ipv4__conf__nic0__forwarding=1, ipv4__conf__all__accept_redirects=1)

    def module(self, name: str, args: dict[str, Any], **more: bool) -> dict[str, Any]:
        return self._run(name, args, self.host, **more)

    def run(self, name: str, **args: Any) -> dict[str, Any]:
        more = {key: args.pop(key) for key in ("check", "fails") if key in args}
        return self.module(name, args, **more)

    def tune(self) -> None:
        pods = {"select": "named", "names": [self.pod], "sysctls": {"net.ipv4.tcp_sack": 0}}
        sysctls = {"net.ipv4.ip_forward": 1, "net.ipv4.tcp_sack": 0}
        self.run("sysctl_zc", sysctls=sysctls, pods=pods, file=str(self.file))
        self.run("nic_tuning", nics=[{"name": "nic0", "mtu": 9000, "features": {"tso": False, "gro": True}}])
        self.run("nic_tuning", nics=[{"name": "nic0", "mtu": 4000, "gso_max_size": 30000}])

    def state(self) -> list[str]:
        read = self.namespaces.run
        return [
            read(self.host, "sysctl", "-ar", "net.ipv4.(conf|ip_f|tcp_sack)"),
            read(self.pod, "sysctl", "-ar", "net.ipv4.(conf|ip_f|tcp_sack)"),
            read(self.host, "ip", "-d", "link", "show", "nic0"),
            read(self.host, "ethtool", "-k", "nic0"),
            str(self.file.exists()),
        ]


@pytest.fixture
def node(
    namespaces: Namespaces, run_module: RunModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Node:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    return Node(namespaces, run_module, tmp_path)


def test_revert_restores_everything_and_is_idempotent(node: Node) -> None:
    before = node.state()
    node.tune()
    tuned = node.state()
    assert tuned != before
    planned = node.run("revert", check=True)
    assert planned["changed"] and node.state() == tuned

    made = node.run("revert")
    assert (made["changes"], made["diff"], made["drift"]) == (planned["changes"], planned["diff"], [])
    assert node.state() == before
    assert Path(made["archived"]).is_file() and not Path(journal.path()).exists()
    assert not node.run("revert")["changed"]


def test_subsystems_are_reverted_separately(node: Node) -> None:
    before = node.state()
    node.tune()
    made = node.run("revert", subsystems=["nics"])
    assert {change["subsystem"] for change in made["changes"]} == {"nics"} and not made["archived"]
    assert node.state()[2:4] == before[2:4] and node.state()[0] != before[0]
    assert not node.run("revert", subsystems=["nics"])["changed"]
    assert node.run("revert")["archived"] and node.state() == before


def test_drift_is_reported_and_kept(node: Node) -> None:
    node.tune()
    node.namespaces.ip(node.host, "link set nic0 mtu 2000")
    node.file.write_text(node.file.read_text() + "# and this\n")
    made = node.run("revert")
    assert [(drift["name"], drift["subsystem"]) for drift in made["drift"]] == [
        ("mtu", "nics"),
        (str(node.file), "sysctls"),
    ]
    assert made["drift"][0]["current"] == 2000 and not made["archived"]
    assert "mtu is 2000, but this collection set 4000" in str(made["warnings"])
    assert "mtu 2000" in node.state()[2] and node.file.exists()
    assert not node.run("revert")["changed"]
    made = node.run("revert", force=True)
    assert made["archived"] and "mtu 1500" in node.state()[2] and not node.file.exists()


def test_deleted_device_and_namespace_need_no_revert(node: Node) -> None:
    node.tune()
    node.namespaces.ip(node.host, "link delete nic0")
    made = node.run("revert")
    assert made["archived"] and not made["drift"]


def test_change_after_revert_records_new_former_values(node: Node) -> None:
    node.tune()
    node.run("revert", subsystems=["nics"])
    node.namespaces.ip(node.host, "link set nic0 mtu 1700")
    node.run("nic_tuning", nics=[{"name": "nic0", "mtu": 9000}])
    node.run("revert")
    assert "mtu 1700" in node.state()[2]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("meta_device", {"pods": []}),
        ("dkms_driver", {"name": "meta", "state": "absent"}),
        (
            "kernel_module",
            {"name": "meta", "src": "meta.ko", "content": "", "sha256": hashlib.sha256().hexdigest()},
        ),
        ("revert", {}),
    ],
)
def test_revert_is_refused_while_a_checkpoint_is_pending(node: Node, name: str, args: dict[str, Any]) -> None:
    armed = {"by": "192.0.2.1", "time": "then", "timeout": 120, "boot_id": journal.boot_id()}
    journal.append({"checkpoint": "one", "checkpoint_state": "armed", **armed})
    made = node.module(name, args, fails=True)
    assert "a change from 192.0.2.1 at then is pending confirmation" in made["msg"]
