# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Features that the running kernel and its drivers keep off."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool as _ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns as _netns
from ansible_collections.podnet.datapath.plugins.module_utils._nic import features
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal

RunModule = Callable[..., dict[str, Any]]


class Node:
    """A namespace with a veth, a VXLAN device and a macvlan."""

    def __init__(self, namespaces: Any, run: RunModule) -> None:
        self.netns, self._run = namespaces("features"), run
        namespaces.ip(
            self.netns,
            "link add veth0 type veth peer name veth1",
            "link add vx0 type vxlan id 5 dstport 4789 dev veth0",
            "link add mv0 link veth0 type macvlan",
        )

    def read(self, name: str) -> _ethtool.Nic:
        with _netns.entered(f"/run/netns/{self.netns}"), contextlib.closing(_ethtool.Ethtool()) as ethtool:
            return ethtool.read(name)

    def set(self, name: str, values: dict[str, bool]) -> None:
        with _netns.entered(f"/run/netns/{self.netns}"), contextlib.closing(_ethtool.Ethtool()) as ethtool:
            ethtool.write(ethtool.read(name).index, "features", values)

    def run(self, name: str) -> dict[str, Any]:
        return self._run(name, {}, self.netns)

    def tune(self, *nics: dict[str, Any], fails: bool = False) -> dict[str, Any]:
        return self._run("nic_tuning", {"nics": list(nics)}, self.netns, fails=fails)


@pytest.fixture
def node(namespaces: Any, run_module: RunModule, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    return Node(namespaces, run_module)


def state(nic: _ethtool.Nic) -> dict[str, bool]:
    found = nic.values.items()
    return {name.partition(".")[2]: bool(on) for name, on in found if name.startswith("features.")}


@pytest.mark.parametrize("name", ["veth0", "vx0"])
def test_the_rules_are_those_of_the_running_kernel(node: Node, name: str) -> None:
    """Turn off each feature in turn: the kernel keeps off exactly those that the rules name."""
    nic = node.read(name)
    changeable = [word for word in state(nic) if f"features.{word}" not in nic.fixed]
    node.set(name, dict.fromkeys(changeable, True))
    for off in changeable:
        before = state(node.read(name))
        node.set(name, {off: False})
        after = state(node.read(name))
        lost = {word for word in before if before[word] and not after[word]} - {off}
        expected = {*features.kept_off({**before, off: False})}
        # A kernel before 6.11 has no rule for it.
        assert lost | {"tx-udp-segmentation"} == expected | {"tx-udp-segmentation"}, off
        assert lost <= expected, off
        node.set(name, {off: True})
        assert state(node.read(name)) == before


def test_an_optional_feature_that_the_driver_keeps_off_is_left_out(node: Node) -> None:
    """A macvlan has only features of its lower device; no rule of the kernel's core says so."""
    node.set("veth0", {"rx-gro-list": False})
    request = {"name": "mv0", "mtu": 1400, "features": {"rx-gro-list": True}}
    message = node.tune(request, fails=True)["msg"]
    assert "the kernel accepted features.rx-gro-list = on, but reads back off" in message
    assert node.read("mv0").values["mtu"] == 1500
    for optional in ("features", "features.rx_gro_list"):
        made = node.tune({**request, "optional": [optional]})
        assert made["nics"][0]["skipped"] == {"features.rx-gro-list": "is kept off by the driver"}
        assert [change["name"] for change in made["nics"][0]["changes"]] in (["mtu"], [])
        assert node.read("mv0").values["mtu"] == 1400
    assert not node.tune({**request, "optional": ["features"]})["changed"]


def test_a_feature_that_this_kernel_permits_without_the_other_one_is_set(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = ("rx-gro-list", ("rx-checksum",), ())
    node.set("veth0", {"rx-checksum": False, "rx-gro-list": True})
    monkeypatch.setattr(features, "_RULES", (*features._RULES, rule))
    assert not node.tune({"name": "veth0", "features": {"rx-gro-list": True}})["changed"]


@pytest.mark.parametrize("on", [True, False])
def test_a_request_that_the_driver_ignores_is_reverted(node: Node, on: bool) -> None:
    """The kernel remembers what was requested, and would turn the feature on once its lower device has it."""
    node.set("veth0", {"rx-gro-list": False})
    node.set("mv0", {"rx-gro-list": not on})
    before = node.read("mv0")
    request = {"name": "mv0", "features": {"rx-gro-list": on}, "optional": ["features"]}
    node.tune({"name": "mv0", "mtu": 1400}, {"name": "veth0", "features": {"tso": False}})
    node.tune(request)
    assert node.read("mv0").wanted != before.wanted and not node.tune(request)["changed"]
    made = node.run("revert")
    assert made["archived"] and not made["drift"]
    now = node.read("mv0")
    assert (now.wanted, now.values) == (before.wanted, before.values)


def test_an_optional_feature_that_the_driver_keeps_on_is_left_out(node: Node) -> None:
    request = {"name": "mv0", "features": {"tx-generic-segmentation": False}}
    assert "reads back on" in node.tune(request, fails=True)["msg"]
    made = node.tune({**request, "optional": ["features"]})
    assert made["nics"][0]["skipped"] == {"features.tx-generic-segmentation": "is kept on by the driver"}
    assert not node.tune({**request, "optional": ["features"]})["changed"]
