# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cilium on guests of the lab, whose kernel has netkit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.kubernetes.cluster import cilium, compiler, guest
from tests.kubernetes.cluster.cluster import ADDRESSES
from tests.kubernetes.cluster.lab_cluster import LabCluster
from tests.kubernetes.cluster.machine import Machine


class CiliumLabCluster(LabCluster):
    """A cluster of two guests on which Cilium runs without kube-proxy."""

    def __init__(self, kernel: str) -> None:
        super().__init__(kernel, "veth", name="cilium")
        self.proxy = ""
        # In the network of the control plane, which the agents reach
        self._compiler = Machine("compiler", self.folder, self.control.netns, self.group)

    def up(self, more: Sequence[Path] = ()) -> None:
        super().up([*more, cilium.guest_layer(compiler.client(ADDRESSES[0]))])

    def _install(self) -> None:
        compiler.start(self._compiler, ADDRESSES[0])
        # The other device is the one of the lab's SSH connections.
        cilium.install(self, devices=[guest.UPLINK])
