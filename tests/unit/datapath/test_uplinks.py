# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Uplinks of a node and their qdiscs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import node
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.node import Interface
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.qdisc import Queue

FQ, NONE = Queue("fq", 10000), Queue("noqueue")
INTERFACES = {
    "eth0": Interface(1, master=3),
    "eth1": Interface(2, master=3),
    "bond0": Interface(3, "bond"),
    "bond0.5": Interface(4, "vlan", link=3),
    "wg0": Interface(5, "wireguard", link=1),
    "pod": Interface(6, "veth", link=1, master=8),
    "eth2": Interface(7, master=8),
    "br0": Interface(8, "bridge"),
    "br1": Interface(9, "bridge"),
}
QUEUES = {1: [FQ], 2: [Queue("pfifo")], 3: [NONE], 4: [], 5: [NONE], 6: [NONE], 7: [FQ, FQ], 8: [NONE]}


@pytest.mark.parametrize(
    ("default", "attached", "expected"),
    [
        (["eth0"], [], {"eth0": [FQ]}),
        ([], ["eth0"], {"eth0": [FQ]}),
        (["eth0"], ["eth1", "gone"], {"eth0": [FQ], "eth1": [Queue("pfifo")]}),
        (["bond0"], [], {"bond0": [FQ, Queue("pfifo")]}),
        (["bond0.5"], [], {"bond0.5": [FQ, Queue("pfifo")]}),
        (["wg0"], ["pod"], {"pod": [NONE], "wg0": [NONE]}),
        (["br0"], [], {"br0": [FQ, FQ]}),
        (["br1"], [], {"br1": []}),
        ([], [], {}),
    ],
)
def test_uplinks(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    default: list[str],
    attached: list[str],
    expected: dict[str, list[Queue]],
) -> None:
    (tmp_path / "links" / "site").mkdir(parents=True)
    for device in attached:
        (tmp_path / "links" / "site" / f"{device}-ingress").touch()
        (tmp_path / "links" / "site" / "eth1-egress").touch()
    monkeypatch.setattr(node, "default_interfaces", lambda: set(default))
    monkeypatch.setattr(node.qdisc, "queues", lambda index: QUEUES.get(index, []))
    assert node.read_uplinks(str(tmp_path), INTERFACES) == expected
