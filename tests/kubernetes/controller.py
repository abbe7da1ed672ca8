# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run playbooks against the nodes of a cluster, from the network namespace of its control plane."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.kubernetes.cluster.cluster import Cluster
from tests.kubernetes.cluster.machine import Machine

# Runs the last argument, the remote command of ssh(1), in a machine.
SSH = '#!/bin/sh\nfor command; do :; done\nexec {enter} sh -c "$command"\n'


class Controller:
    """An inventory of a cluster's nodes in a folder. Ansible reaches them as if by SSH."""

    def __init__(self, cluster: Cluster, folder: Path, **variables: Any) -> None:
        self.cluster, self.folder = cluster, folder
        self.inventory = folder / "inventory.json"
        hosts = {node.name: {"ansible_ssh_executable": self._ssh(node)} for node in cluster.nodes}
        common = {
            "ansible_connection": "ssh",
            "ansible_ssh_transfer_method": "piped",
            "ansible_pipelining": True,
            "ansible_become": False,
            "ansible_python_interpreter": "/usr/bin/python3",
            "fleet_remaining_hosts_file": str(folder / "remaining-hosts"),
            **variables,
        }
        self.inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))

    def _ssh(self, machine: Machine) -> str:
        script = self.folder / f"ssh-{machine.name}"
        script.write_text(SSH.format(enter=shlex.join(machine.enter())))
        script.chmod(0o755)
        return str(script)

    def command(self, playbook: str, *arguments: str, **variables: Any) -> list[str]:
        """Return the command of a playbook of this collection with extra variables."""
        enter = ("nsenter", f"--net=/run/netns/{self.cluster.control.netns}")
        extra = ("--extra-vars", json.dumps(variables))
        playbook = f"podnet.datapath.{playbook}"
        return [*enter, "ansible-playbook", "-i", str(self.inventory), playbook, *extra, *arguments]

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of the command."""
        return {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig), "ANSIBLE_FORCE_COLOR": "false"}

    def run(self, playbook: str, *arguments: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """Run a playbook to its end; return its status and output, errors included."""
        return subprocess.run(
            self.command(playbook, *arguments, **variables),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
