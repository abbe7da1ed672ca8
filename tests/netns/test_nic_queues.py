# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nic_tuning on veth and ifb: which of them, their NAPI, their queues' CPUs and disciplines."""

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
# The journal is the test's own: only this process and its children see the mount.
FOLDER = "/var/lib/podnet-datapath"
WITH_JOURNAL = 'mkdir -p "$1" && mount --bind "$0" "$1" && shift && exec "$@"'


class Node:
    """A namespace with veth0, veth1 and an ifb of four queues, with a /sys of its own."""

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
        """Run a module where /sys shows the namespace: ``ip netns exec`` mounts such a one."""
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

    def disciplines(self, nic: str) -> list[str]:
        """Return the root's kind, then those of its queues in their order: tc shows them in a hash's."""
        found = []
        for line in self.namespaces.run(self.netns, "tc", "qdisc", "show", "dev", nic).splitlines():
            kind = line.split()[1]
            dummy, dummy, queue = line.partition(" parent ")[2].split(" ")[0].partition(":")
            found.append((int(queue or "0", 16), kind))
        return [kind for dummy, kind in sorted(found)]


@pytest.fixture
def node(namespaces: Namespaces, tmp_path: Path) -> Node:
    return Node(namespaces, tmp_path)


def test_napi_and_the_cpus_of_queues(node: Node) -> None:
    wish = {
        "default_route": True,
        "channels": {"rx": 2, "tx": 3},
        "napi": {"gro-flush-timeout": 20000, "napi_defer_hard_irqs": 2},
        "steering": {"rps": "0", "xps": "all", "rfs": 0},
    }
    promised = node(wish, check=True)
    assert node.read("veth0/gro_flush_timeout") == "0"
    made = node(wish)
    assert [nic["name"] for nic in made["nics"]] == ["veth0"]
    assert made["diff"] == promised["diff"] and made["changed"]
    assert node.read("veth0/gro_flush_timeout") == "20000"
    assert node.read("veth0/napi_defer_hard_irqs") == "2"
    assert [int(node.read(f"veth0/queues/rx-{queue}/rps_cpus"), 16) for queue in (0, 1)] == [1, 1]
    online = range(os.sysconf("SC_NPROCESSORS_ONLN"))
    masks = [int(node.read(f"veth0/queues/tx-{queue}/xps_cpus").replace(",", ""), 16) for queue in range(3)]
    assert masks == [1 << online[queue % len(online)] for queue in range(3)]
    again = node(wish)
    assert (again["changed"], again["diff"]) == (False, [])


def test_queues_that_the_call_makes_are_served_too(node: Node) -> None:
    node({"name": "veth0", "channels": {"rx": 1}})
    node({"name": "veth0", "channels": {"rx": 4}, "steering": {"rps": "0"}})
    assert [int(node.read(f"veth0/queues/rx-{queue}/rps_cpus"), 16) for queue in range(4)] == [1] * 4


def test_what_queues_had_that_a_change_took_away_comes_back_with_them(node: Node) -> None:
    node({"name": "veth0", "channels": {"rx": 4}, "steering": {"rps": "0"}})
    shutil.move(node.journal / _journal.FILE, node.journal / "what was done before us")
    node({"name": "veth0", "channels": {"rx": 2}, "steering": {"rps": "none"}})
    back = node.run("revert", {"subsystems": ["nics"]})
    assert back["changed"] and not back["drift"]
    assert [int(node.read(f"veth0/queues/rx-{queue}/rps_cpus"), 16) for queue in range(4)] == [1] * 4
    assert not (node.journal / _journal.FILE).exists(), "something is left to put back"


def test_what_queues_had_comes_back_where_nobody_told_the_end(node: Node) -> None:
    """The module was killed: it took queues away, and did not come to say so."""
    node({"name": "veth0", "channels": {"rx": 4}, "steering": {"rps": "0"}})
    shutil.move(node.journal / _journal.FILE, node.journal / "what was done before us")
    node({"name": "veth0", "channels": {"rx": 2}})
    journal = node.journal / _journal.FILE
    told = [line for line in journal.read_text().splitlines(keepends=True) if '"end"' not in line]
    journal.write_text("".join(told))
    back = node.run("revert", {"subsystems": ["nics"]})
    assert back["changed"] and not back["drift"]
    assert [int(node.read(f"veth0/queues/rx-{queue}/rps_cpus"), 16) for queue in range(4)] == [1] * 4


def test_queues_that_somebody_else_took_away_are_nobodys(node: Node) -> None:
    node({"name": "veth0", "steering": {"rps": "0"}})
    node.namespaces.run(node.netns, "ethtool", "-L", "veth0", "rx", "2")
    back = node.run("revert", {"subsystems": ["nics"]})
    assert back["changed"] and not back["drift"]
    assert not (node.journal / _journal.FILE).exists(), "something is left to put back"


def test_queues_that_a_call_makes_have_the_discipline_of_all(node: Node) -> None:
    node.namespaces.run(node.netns, "tc", "qdisc", "replace", "dev", "veth0", "root", "handle", "1:", "mq")
    for queues in (2, 4):
        node({"name": "veth0", "channels": {"tx": queues}, "qdisc": "bfifo"})
        assert node.disciplines("veth0") == ["mq", *["bfifo"] * queues]


def test_different_disciplines_of_queues_come_back(node: Node) -> None:
    node({"name": "many", "qdisc": "bfifo"})
    node.namespaces.run(node.netns, "tc", "qdisc", "replace", "dev", "many", "parent", "1:2", "pfifo")
    former = node.disciplines("many")
    assert former == ["mq", "bfifo", "pfifo", "bfifo", "bfifo"]
    shutil.move(node.journal / _journal.FILE, node.journal / "what was done before us")
    (changed,) = node({"name": "many", "qdisc": "pfifo"})["nics"]
    assert changed["changes"][0]["before"] == "bfifo*1+pfifo*1+bfifo*2"
    node.run("revert", {"subsystems": ["nics"]})
    assert node.disciplines("many") == former


def test_a_refusal_puts_napi_queues_and_disciplines_back(node: Node) -> None:
    before = node.disciplines("veth0")
    message = node(
        {"name": "veth0", "napi": {"gro_flush_timeout": 1000}, "steering": {"rps": "0"}, "qdisc": "pfifo"},
        {"name": "veth1", "channels": {"rx": 0}},
        fails=True,
    )["msg"]
    assert message.endswith("Every NIC is set as it was before.")
    assert node.read("veth0/gro_flush_timeout") == "0"
    assert int(node.read("veth0/queues/rx-0/rps_cpus"), 16) == 0
    assert node.disciplines("veth0") == before


def test_disciplines_of_one_queue_and_of_many(node: Node) -> None:
    wish = [{"driver": "veth", "qdisc": "pfifo"}, {"name": "many", "qdisc": "bfifo"}]
    assert node(*wish)["changed"]
    assert node.disciplines("veth0") == node.disciplines("veth1") == ["pfifo"]
    assert node.disciplines("many") == ["mq", *["bfifo"] * 4]
    assert not node(*wish)["changed"]


def test_a_discipline_that_somebody_set_up_stays(node: Node) -> None:
    node.namespaces.run(node.netns, "tc", "qdisc", "add", "dev", "veth0", "root", "handle", "1:", "htb")
    message = node({"name": "veth0", "qdisc": "pfifo"}, fails=True)["msg"]
    assert "would replace htb, which somebody set up" in message
    assert node.disciplines("veth0")[0] == "htb"


def test_the_sys_of_another_namespace_is_not_taken_for_this_one(node: Node, run_module: RunModule) -> None:
    wish = {"name": "veth0", "napi": {"threaded": True}}
    message = run_module("nic_tuning", {"nics": [wish]}, node.netns, fails=True)["msg"]
    assert "napi.threaded cannot be seen" in message


def test_nothing_is_kept_without_systemd(node: Node, run_module: RunModule) -> None:
    if os.path.isdir("/run/systemd/system"):
        pytest.skip("this machine has systemd, and the test would write its units")
    wish = {"nics": [{"name": "veth0", "mtu": 8264}], "persist": True}
    message = run_module("nic_tuning", wish, node.netns, fails=True)["msg"]
    assert message == "persist: needs systemd and udev on this node: set persist: false"
    assert "mtu 1500" in node.namespaces.run(node.netns, "ip", "link", "show", "veth0")


ROLLBACK = """
from ansible_collections.podnet.datapath.plugins.module_utils._nic import revert
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import net_changes
names = {"queues.rx-0.rps_cpus": None, "mtu": 1400}
revert.Nics().write({net_changes.Key("nics", "veth0", name): value for name, value in names.items()})
"""


def test_a_queue_that_had_nothing_keeps_nothing_else_from_coming_back(node: Node) -> None:
    """As the way back from a way back has it where channels had been lowered, and are there again."""
    subprocess.run(
        ["ip", "netns", "exec", node.netns, sys.executable, "-c", ROLLBACK],
        check=True,
    )
    assert node.read("veth0/mtu") == "1400"
