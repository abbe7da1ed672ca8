# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nic_tuning on veth and ifb: selection, NAPI, CPUs and qdiscs of queues."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal as _journal

Namespaces = Any  # conftest.Namespaces
RunModule = Callable[..., dict[str, Any]]

MODULES = "ansible_collections.podnet.datapath.plugins.modules"
# A private journal: only the module's process sees this mount.
FOLDER = "/var/lib/podnet-datapath"
WITH_JOURNAL = 'mkdir -p "$1" && mount --bind "$0" "$1" && shift && exec "$@"'


class Node:
    """A namespace with veth0, veth1 and an ifb with four queues; modules run with its /sys."""

    def __init__(self, namespaces: Namespaces, journal: Path) -> None:
        self.namespaces = namespaces
        self.journal = journal
        self.netns = namespaces("queues")
        namespaces.ip(
            self.netns,
            "link add veth0 numtxqueues 4 numrxqueues 4 type veth peer name veth1 numrxqueues 4",
            "link add many numtxqueues 4 numrxqueues 4 type ifb",
            "addr add 192.0.2.1/24 dev veth0",
            "link set veth0 up",
            "link set veth1 up",
            "link set many up",
            "route add default via 192.0.2.2 dev veth0",
        )

    def __call__(self, *nics: dict[str, Any], check: bool = False, fails: bool = False) -> dict[str, Any]:
        return self.run("nic_tuning", {"nics": list(nics), "_ansible_check_mode": check}, fails)

    def run(self, module: str, options: dict[str, Any], fails: bool = False) -> dict[str, Any]:
        """Run a module in the namespace by ``ip netns exec``, which mounts its /sys."""
        inside = ["ip", "netns", "exec", self.netns, "sh", "-c", WITH_JOURNAL, self.journal, FOLDER]
        done = subprocess.run(
            [*inside, sys.executable, "-m", f"{MODULES}.{module}"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": {**options, "_ansible_diff": True}}),
            capture_output=True,
            text=True,
            check=False,
        )
        result: dict[str, Any] = json.loads(done.stdout)
        assert bool(result.get("failed")) == fails, result.get("msg", result)
        return result

    def read(self, path: str) -> str:
        words = ["ip", "netns", "exec", self.netns, "cat", f"/sys/class/net/{path}"]
        return subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def qdiscs(self, nic: str) -> list[str]:
        """Return the kind of the root qdisc, then those of its queues, which tc lists in hash order."""
        found = []
        for line in self.namespaces.run(self.netns, "tc", "qdisc", "show", "dev", nic).splitlines():
            kind = line.split()[1]
            dummy, dummy, queue = line.partition(" parent ")[2].split(" ")[0].partition(":")
            found.append((int(queue or "0", 16), kind))
        return [kind for dummy, kind in sorted(found)]


@pytest.fixture
def node(namespaces: Namespaces, tmp_path: Path) -> Node:
    return Node(namespaces, tmp_path)


def test_napi_and_queue_cpus_are_set(node: Node) -> None:
    options = {
        "default_route": True,
        "channels": {"rx": 2, "tx": 3},
        "napi": {"gro-flush-timeout": 20000, "napi_defer_hard_irqs": 2},
        "steering": {"rps": "0", "xps": "all", "rfs": 0},
    }
    planned = node(options, check=True)
    assert node.read("veth0/gro_flush_timeout") == "0"
    made = node(options)
    assert [nic["name"] for nic in made["nics"]] == ["veth0"]
    assert made["diff"] == planned["diff"] and made["changed"]
    assert node.read("veth0/gro_flush_timeout") == "20000"
    assert node.read("veth0/napi_defer_hard_irqs") == "2"
    assert [int(node.read(f"veth0/queues/rx-{queue}/rps_cpus"), 16) for queue in (0, 1)] == [1, 1]
    online = range(os.sysconf("SC_NPROCESSORS_ONLN"))
    masks = [int(node.read(f"veth0/queues/tx-{queue}/xps_cpus").replace(",", ""), 16) for queue in range(3)]
    assert masks == [1 << online[queue % len(online)] for queue in range(3)]
    again = node(options)
    assert (again["changed"], again["diff"]) == (False, [])


def test_steering_includes_new_queues(node: Node) -> None:
    node({"name": "veth0", "channels": {"rx": 1}})
    node({"name": "veth0", "channels": {"rx": 4}, "steering": {"rps": "0"}})
    assert [int(node.read(f"veth0/queues/rx-{queue}/rps_cpus"), 16) for queue in range(4)] == [1] * 4


def test_revert_restores_settings_of_removed_queues(node: Node) -> None:
    node({"name": "veth0", "channels": {"rx": 4}, "steering": {"rps": "0"}})
    shutil.move(node.journal / _journal.FILE, node.journal / "former journal")
    node({"name": "veth0", "channels": {"rx": 2}, "steering": {"rps": "none"}})
    back = node.run("revert", {"subsystems": ["nics"]})
    assert back["changed"] and not back["drift"]
    assert [int(node.read(f"veth0/queues/rx-{queue}/rps_cpus"), 16) for queue in range(4)] == [1] * 4
    assert not (node.journal / _journal.FILE).exists(), "the journal is not empty"


def test_revert_restores_queues_of_an_unfinished_change(node: Node) -> None:
    """The module was killed after it removed queues, before it journalled the end."""
    node({"name": "veth0", "channels": {"rx": 4}, "steering": {"rps": "0"}})
    shutil.move(node.journal / _journal.FILE, node.journal / "former journal")
    node({"name": "veth0", "channels": {"rx": 2}})
    journal = node.journal / _journal.FILE
    lines = [line for line in journal.read_text().splitlines(keepends=True) if '"end"' not in line]
    journal.write_text("".join(lines))
    back = node.run("revert", {"subsystems": ["nics"]})
    assert back["changed"] and not back["drift"]
    assert [int(node.read(f"veth0/queues/rx-{queue}/rps_cpus"), 16) for queue in range(4)] == [1] * 4


def test_queues_removed_by_others_are_not_restored(node: Node) -> None:
    node({"name": "veth0", "steering": {"rps": "0"}})
    node.namespaces.run(node.netns, "ethtool", "-L", "veth0", "rx", "2")
    back = node.run("revert", {"subsystems": ["nics"]})
    assert back["changed"] and not back["drift"]
    assert not (node.journal / _journal.FILE).exists(), "the journal is not empty"


def test_new_queues_get_the_qdisc(node: Node) -> None:
    node.namespaces.run(node.netns, "tc", "qdisc", "replace", "dev", "veth0", "root", "handle", "1:", "mq")
    for queues in (2, 4):
        node({"name": "veth0", "channels": {"tx": queues}, "qdisc": "bfifo"})
        assert node.qdiscs("veth0") == ["mq", *["bfifo"] * queues]


def test_revert_restores_different_qdiscs_of_queues(node: Node) -> None:
    node({"name": "many", "qdisc": "bfifo"})
    node.namespaces.run(node.netns, "tc", "qdisc", "replace", "dev", "many", "parent", "1:2", "pfifo")
    former = node.qdiscs("many")
    assert former == ["mq", "bfifo", "pfifo", "bfifo", "bfifo"]
    shutil.move(node.journal / _journal.FILE, node.journal / "former journal")
    (changed,) = node({"name": "many", "qdisc": "pfifo"})["nics"]
    assert changed["changes"][0]["before"] == "bfifo*1+pfifo*1+bfifo*2"
    node.run("revert", {"subsystems": ["nics"]})
    assert node.qdiscs("many") == former


def test_refusal_restores_napi_steering_and_qdiscs(node: Node) -> None:
    before = node.qdiscs("veth0")
    message = node(
        {"name": "veth0", "napi": {"gro_flush_timeout": 1000}, "steering": {"rps": "0"}, "qdisc": "pfifo"},
        {"name": "veth1", "channels": {"rx": 0}},
        fails=True,
    )["msg"]
    assert message.endswith("Every NIC has its former settings.")
    assert node.read("veth0/gro_flush_timeout") == "0"
    assert int(node.read("veth0/queues/rx-0/rps_cpus"), 16) == 0
    assert node.qdiscs("veth0") == before


def test_qdisc_is_set_for_one_and_many_queues(node: Node) -> None:
    options = [{"driver": "veth", "qdisc": "pfifo"}, {"name": "many", "qdisc": "bfifo"}]
    assert node(*options)["changed"]
    assert node.qdiscs("veth0") == node.qdiscs("veth1") == ["pfifo"]
    assert node.qdiscs("many") == ["mq", *["bfifo"] * 4]
    assert not node(*options)["changed"]


def test_foreign_qdisc_is_kept(node: Node) -> None:
    node.namespaces.run(node.netns, "tc", "qdisc", "add", "dev", "veth0", "root", "handle", "1:", "htb")
    message = node({"name": "veth0", "qdisc": "pfifo"}, fails=True)["msg"]
    assert "would replace the configured qdisc htb" in message
    assert node.qdiscs("veth0")[0] == "htb"


def test_sys_of_another_namespace_is_not_used(node: Node, run_module: RunModule) -> None:
    options = {"name": "veth0", "napi": {"threaded": True}}
    message = run_module("nic_tuning", {"nics": [options]}, node.netns, fails=True)["msg"]
    assert "napi.threaded is not available in /sys" in message


def test_persist_without_systemd_is_refused(node: Node, run_module: RunModule) -> None:
    if os.path.isdir("/run/systemd/system"):
        pytest.skip("this machine runs systemd, whose units the test would write")
    options = {"nics": [{"name": "veth0", "mtu": 8264}], "persist": True}
    message = run_module("nic_tuning", options, node.netns, fails=True)["msg"]
    assert message == "persist: requires systemd and udev on this node: set persist: false"
    assert "mtu 1500" in node.namespaces.run(node.netns, "ip", "link", "show", "veth0")


ROLLBACK = """
from ansible_collections.podnet.datapath.plugins.module_utils._nic import revert
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import net_changes
names = {"queues.rx-0.rps_cpus": None, "mtu": 1400}
revert.Nics().write({net_changes.Key("nics", "veth0", name): value for name, value in names.items()})
"""


def test_queue_without_former_value_does_not_block_rollback(node: Node) -> None:
    """Such values result from rolling back a rollback after channels were lowered and raised."""
    subprocess.run(
        ["ip", "netns", "exec", node.netns, sys.executable, "-c", ROLLBACK],
        check=True,
    )
    assert node.read("veth0/mtu") == "1400"
