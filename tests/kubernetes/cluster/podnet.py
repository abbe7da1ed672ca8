# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This collection's plugin and agent on the nodes of a cluster, as the role ``cni`` installs them."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.podnet.datapath.plugins.module_utils._core.bundle import PACKAGE, archive
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import command
from tests.kubernetes.cluster import cni
from tests.kubernetes.cluster.control_plane import SERVICE_CIDRS
from tests.kubernetes.cluster.node import CNI_BIN, Node
from tests.support.checkout import CHECKOUT, PROGRAMS

if TYPE_CHECKING:
    from tests.kubernetes.cluster.cluster import Cluster

ROLE = CHECKOUT / "roles/cni/files"
OBJECT = "/usr/local/lib/podnet-datapath.o"
AGENT = "/usr/local/lib/podnet/agent.pyz"
COMMAND = "/usr/local/sbin/podnet-datapath"
CONFIG, KUBECONFIG = "/etc/podnet/agent.json", "/etc/podnet/kubeconfig"
ACCOUNT = ("--namespace", "kube-system", "podnet-agent")
MAIN = f"from {PACKAGE}._agent.main import main\n\nmain()\n"


def install(cluster: Cluster) -> None:
    """Install agent, plugin and, last, the conflist on all nodes. The agent loads the programs."""
    cluster.kubectl("apply", "-f", ROLE / "rbac.yml")
    token = cluster.kubectl("create", "token", *ACCOUNT, "--duration=24h").strip()
    with tempfile.TemporaryDirectory() as folder:
        for source in (PROGRAMS, ROLE / "plugin"):
            subprocess.run(["make", "-s", "-C", str(source), f"OUT={folder}"], check=True)
        for node in cluster.nodes:
            _copy(node, Path(folder))
            node.write(KUBECONFIG, cluster.server.kubeconfig_of(token), 0o600)
            start_agent(node)
            node.set_conflist("10-podnet.conflist", conflist())


def _copy(node: Node, folder: Path) -> None:
    """Copy what was built, and the agent's code and configuration."""
    node.run("mkdir", "-p", "/etc/podnet", "/usr/local/lib/podnet")
    for name, target in (("datapath.o", OBJECT), ("podnet", f"{CNI_BIN}/podnet")):
        shutil.copy2(folder / name, node.path(target))
    # ctr finds plugins only here.
    node.run("ln", "-s", "/usr/lib/cni/portmap", CNI_BIN)
    node.path(AGENT).write_bytes(archive(MAIN))
    node.path(COMMAND).write_bytes(command.program())
    node.path(COMMAND).chmod(0o755)
    node.write(CONFIG, json.dumps(config(node)))


def config(node: Node) -> dict[str, Any]:
    """Return the agent's configuration on a node."""
    return {
        "node": node.name,
        "driver": "veth",
        "object": OBJECT,
        "uplinks": ["eth0"],
        "kubeconfig": KUBECONFIG,
        "metrics_port": 9797,
        "stack_services": SERVICE_CIDRS,
    }


def conflist() -> dict[str, Any]:
    """Return the configuration of the runtime; the agent adds the node's ranges."""
    capabilities = {"portMappings": True, "bandwidth": True}
    plugin = {"type": "podnet", "capabilities": capabilities, "ipam": {"type": "host-local"}}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return cni.conflist("podnet", plugin, portmap)


def start_agent(node: Node) -> None:
    """Start the agent on a node and wait for it."""
    node.start("podnet-agent", "python3", AGENT)
    node.run("timeout", "20", "sh", "-c", "until [ -S /run/podnet/agent.sock ]; do sleep 0.05; done")
