# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run playbooks against the nodes of a cluster, from the network namespace of its control plane."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.kubernetes.cluster import cgroups
from tests.kubernetes.cluster.cluster import AnyCluster
from tests.kubernetes.cluster.host import Host

# Runs the last argument, the remote command of ssh(1), on a node.
SSH = '#!/bin/sh\nfor command; do :; done\nexec {shell} "$command"\n'


class Controller:
    """An inventory of a cluster's nodes in a folder. Ansible reaches them as if by SSH."""

    def __init__(self, cluster: AnyCluster, folder: Path, **variables: Any) -> None:
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

    def _ssh(self, node: Host) -> str:
        script = self.folder / f"ssh-{node.name}"
        script.write_text(SSH.format(shell=shlex.join(node.shell())))
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

    def kill_when(self, reached: Callable[[], bool], playbook: str, **variables: Any) -> None:
        """Run a playbook, and kill its processes on the controller as soon as ``reached`` returns true."""
        group, log = f"{self.cluster.group}/controller", self.folder / "killed.log"
        cgroups.create(group)
        with log.open("w") as output:
            running = subprocess.Popen(
                cgroups.enter(group, *self.command(playbook, **variables)),
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        try:
            while not reached():
                assert running.poll() is None, log.read_text()[-6000:]
                time.sleep(0.1)
        finally:
            cgroups.kill(group)
            running.wait()

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
