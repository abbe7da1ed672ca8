# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MTUs of devices that depend on each other: order, failures, boot units and revert."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns as _netns
from ansible_collections.podnet.datapath.plugins.module_utils._nic import configure
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal

RunModule = Callable[..., dict[str, Any]]
NAMES = ("br0", "mv0", "mv1", "up0")


class Stack:
    """A port of a bridge, macvlan devices on the port and on the bridge."""

    def __init__(self, namespaces: Any, run: RunModule) -> None:
        self.namespaces, self.run, self.netns = namespaces, run, namespaces("stack")
        namespaces.ip(
            self.netns,
            "link add up0 type veth peer name peer0",
            "link add mv0 link up0 type macvlan",
            "link add br0 type bridge",
            "link add other0 type veth peer name other1",
            "link set other0 mtu 9000 master br0",
            "link set br0 up",
            "link add mv1 link br0 type macvlan",
        )

    def mtus(self) -> dict[str, int]:
        links = json.loads(self.namespaces.run(self.netns, "ip", "-json", "link"))
        return {link["ifname"]: link["mtu"] for link in links if link["ifname"] in NAMES}

    def tune(self, *entries: tuple[str, int], fails: bool = False) -> dict[str, Any]:
        nics = [{"name": name, "mtu": mtu} for name, mtu in entries]
        return self.run("nic_tuning", {"nics": nics}, self.netns, fails=fails)


@pytest.fixture
def stack(namespaces: Any, run_module: RunModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    return Stack(namespaces, run_module)


@pytest.mark.parametrize(
    "entries", list(itertools.permutations([("mv0", 9000), ("up0", 9000), ("mv1", 8000)]))
)
def test_any_order_of_entries_raises_and_reverts(stack: Stack, entries: tuple[tuple[str, int], ...]) -> None:
    stack.namespaces.ip(stack.netns, "link set mv0 mtu 1400")
    before = stack.mtus()
    stack.tune(*entries)
    assert stack.mtus() == {**before, **dict(entries)}
    assert not stack.tune(*entries)["changed"]
    stack.tune(*reversed(entries))
    lower = {"mv0": 1280, "up0": 1400}
    stack.tune(*((name, lower.get(name, 1300)) for name, dummy in entries))
    assert stack.mtus() == {**before, **lower, "mv1": 1300}
    assert not stack.run("revert", {}, stack.netns)["drift"]
    assert stack.mtus() == before


@pytest.mark.parametrize("names", list(itertools.permutations(["mv0", "up0"])))
def test_a_failure_leaves_the_former_mtus(stack: Stack, names: tuple[str, ...]) -> None:
    stack.namespaces.ip(stack.netns, "link set mv0 mtu 1400")
    before = stack.mtus()
    entries = [(name, 9000) for name in names]
    message = stack.tune(*entries, ("mv1", 9500), fails=True)["msg"]
    assert "mv1: the kernel refuses mtu = 9500" in message
    assert message.endswith("Every NIC has its former settings.")
    assert stack.mtus() == before


def test_a_bridge_that_follows_its_ports_is_restored(stack: Stack) -> None:
    stack.namespaces.ip(stack.netns, "link del mv0", "link del other0", "link set up0 master br0")
    assert stack.mtus() == {"br0": 1500, "mv1": 1500, "up0": 1500}
    stack.tune(("mv1", 9000), ("up0", 9000))
    assert stack.mtus() == {"br0": 9000, "mv1": 9000, "up0": 9000}
    stack.run("revert", {}, stack.netns)
    assert stack.mtus() == {"br0": 1500, "mv1": 1500, "up0": 1500}
    stack.namespaces.ip(stack.netns, "link set up0 mtu 2000")
    assert stack.mtus()["br0"] == 2000, "it still follows"


@pytest.mark.parametrize("names", list(itertools.permutations(["mv0", "up0", "mv1"])))
def test_units_at_boot_may_start_in_any_order(
    stack: Stack, names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configure, "_BOOT_LOCK", str(tmp_path / "run/nics.lock"))
    nics = [{"name": "mv0", "mtu": 9000}, {"name": "up0", "mtu": 9000}, {"name": "mv1", "mtu": 8000}]
    with _netns.entered(f"/run/netns/{stack.netns}"):
        for name in names:
            assert name in [nic["name"] for nic in configure.set_up(nics, name)]
        with pytest.raises(Problem, match="nosuch is not among the NICs with settings: mv0, up0, mv1"):
            configure.set_up(nics, "nosuch")
        with pytest.raises(Problem, match="there is no NIC gone0"):
            configure.set_up([*nics, {"name": "gone0", "mtu": 1500}], "gone0")
    assert stack.mtus() == {"br0": 9000, "mv0": 9000, "mv1": 8000, "up0": 9000}


@pytest.mark.parametrize("name", ["vx0", "avx0"])
def test_a_vxlan_device_is_set_after_its_lower_device(
    stack: Stack, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel silently limits the MTU of a VXLAN device to that of the lower device when it is set."""
    stack.namespaces.ip(stack.netns, f"link add {name} type vxlan id 5 dstport 4789 dev up0 remote 192.0.2.1")

    def mtus() -> dict[str, int]:
        links = json.loads(stack.namespaces.run(stack.netns, "ip", "-json", "link"))
        return {link["ifname"]: link["mtu"] for link in links if link["ifname"] in (name, *NAMES)}

    before = mtus()
    entries = [(name, 8950), ("up0", 9000)]
    stack.tune(*entries)
    assert mtus() == {**before, **dict(entries)} and before[name] == 1450
    stack.run("revert", {}, stack.netns)
    assert mtus() == before
    # The unit of the VXLAN device may start first.
    monkeypatch.setattr(configure, "_BOOT_LOCK", str(tmp_path / "run/nics.lock"))
    with _netns.entered(f"/run/netns/{stack.netns}"):
        configure.set_up([{"name": one, "mtu": mtu} for one, mtu in entries], name)
    assert mtus() == {**before, **dict(entries)}
