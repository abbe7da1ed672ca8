# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A cluster whose nodes are guests of the lab, so that Pods run on the devices of another kernel.

The control plane is a machine on the wire between the nodes. ``site.yml`` installs driver, programs, agent
and plugin on the nodes.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any

from lablib import common, image, process
from lablib.lifecycle import Lab
from lablib.spec import LabSpec

from tests.kubernetes.cluster import build, cgroups, guest
from tests.kubernetes.cluster.cluster import ADDRESSES, NODES, AnyCluster, add_addresses, routes_to_pods
from tests.kubernetes.cluster.control_plane import SERVICE_CIDRS
from tests.kubernetes.cluster.guest import GuestNode
from tests.kubernetes.cluster.podnet import ACCOUNT, KUBECONFIG, ROLE
from tests.support.checkout import CHECKOUT

MEMORY = 2048  # MiB


class LabCluster(AnyCluster):
    """A cluster of two guests with a kernel of the lab. Later runs restore a snapshot of them."""

    patience = 10

    def __init__(
        self, kernel: str, driver: str, version: str = build.KUBERNETES, name: str = "nodes", **options: Any
    ) -> None:
        """``driver`` is that of all nodes, or one for each node, separated by commas.

        ``options`` are those of ``site.yml`` in addition to the ones that a cluster requires.
        """
        super().__init__(f"{name}-{kernel.replace('.', '-')}", version, driver)
        self.kernel, self._options = kernel, options
        if options.get("cni_kube_proxy") == "replace":
            self.proxy = ""
        self._lab = Lab(self.name)
        self._nodes = [GuestNode(number, self._lab, self.folder) for number in range(1, NODES + 1)]

    @property
    def nodes(self) -> list[GuestNode]:
        return self._nodes

    def up(self, more: Sequence[Path] = ()) -> None:
        """Start a new cluster, after removing an existing one.

        ``more`` are layers for the machine of the control plane; nodes get their images.
        """
        layers = self._layers()
        disk = guest.disk(layers, more)
        layers = [*more, *layers]
        self.down()
        self.folder.mkdir(parents=True)
        self._boot(disk)
        with common.step(f"control plane of {self.name}", 30):
            self._connect()
            self._start_control(layers)
        self._install()
        with common.step(f"Pods of {self.name}", 200):
            self._start_kubelets()

    def _boot(self, disk: Path) -> None:
        """Boot the guests and start their containerd, or restore them."""
        spec = LabSpec(kernel=self.kernel, nodes=NODES, memory=MEMORY, cpus=2, disk=str(disk))
        with self._lab.locked():
            if self._is_reusable(spec):
                self._lab.restore(guest.snapshot())
                return
            self._lab.down()
            self._lab.up(spec)
            with common.step(f"containerd of {self.name}", 60), ThreadPoolExecutor() as pool:
                for started in [pool.submit(node.prepare) for node in self.nodes]:
                    started.result()
            self._lab.snapshot(guest.snapshot())

    def _is_reusable(self, spec: LabSpec) -> bool:
        """Return whether the lab has a snapshot of the current image and disk."""
        state, newest = self._lab.files.load_state(), image.newest_image(self.kernel)
        if not state or not newest or guest.snapshot() not in self._lab.files.snapshot_names():
            return False
        return (state.image, state.disk) == (str(newest.folder), spec.disk)

    def _connect(self) -> None:
        """Connect the control plane with the wire between the guests."""
        cgroups.create(self.control.group)
        common.run(["ip", "netns", "add", self.control.netns])
        wire = self._lab.files.namespace
        peer = f"link add control type veth peer name eth0 netns {self.control.netns}"
        self._ip(wire, [peer, "link set control master wire up"])
        lines = ["link set lo up", *add_addresses("eth0", ADDRESSES), "link set eth0 up"]
        routes = [line for node in self.nodes for line in routes_to_pods(node)]
        self._ip(self.control.netns, [*lines, *routes])

    def _install(self) -> None:
        """Install the CNI: run site.yml on the nodes, as docs/kubernetes.md describes it."""
        self.kubectl("apply", "-f", ROLE / "rbac.yml")
        token = self.kubectl("create", "token", *ACCOUNT, "--duration=24h").strip()
        for node in self.nodes:
            node.write(KUBECONFIG, self.server.kubeconfig_of(token), 0o600)
        options = {
            "cni_enabled": True,
            "cni_install_packages": False,  # the plugins are on the disk
            "cni_kubeconfig": KUBECONFIG,
            "cni_metrics_port": 9797,
            "cni_stack_services": SERVICE_CIDRS,
            "bpf_datapath_uplinks": [guest.UPLINK],
            "bpf_datapath_confirm_timeout": 900,
            "fleet_batches": ["100%"],
            "preflight_install_packages": False,
            **self._options,
        }
        drivers = cycle(self.driver.split(","))
        hosts = {
            node.name: {"preflight_driver": driver} for node, driver in zip(self.nodes, drivers, strict=False)
        }
        inventory = self.folder / "drivers.json"
        inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
        # Tuning reboots the nodes; other tests cover it.
        words = ("--skip-tags", "node_tuning", "-e", json.dumps(options))
        command = (
            "ansible-playbook",
            *("-i", str(self._lab.files.inventory)),
            *("-i", str(inventory)),
            *words,
            str(CHECKOUT / "site.yml"),
        )
        log = self.folder / "site.log"
        with common.step(f"site.yml on {self.name}", 300), log.open("w") as output:
            done = subprocess.run(command, cwd=CHECKOUT, stdout=output, stderr=output, check=False)
        if done.returncode:
            raise common.LabError(f"site.yml failed, see {log}:\n{common.tail(log, 40)}")

    def down(self) -> None:
        """Remove the control plane and stop the guests, whose disks and snapshot remain."""
        state = self._lab.files.load_state()
        if state:
            process.stop(state.nodes)
        # It may exist for a while after the namespace of its peer, or not at all.
        wire = self._lab.files.namespace
        subprocess.run(["ip", "-n", wire, "link", "delete", "control"], capture_output=True, check=False)
        self._remove([self.control])
