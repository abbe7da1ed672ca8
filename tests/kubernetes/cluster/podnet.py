# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""This collection's plugin and agent on the nodes of a cluster, by the installation of the module ``cni``."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.podnet.datapath.plugins.module_utils._agent import install as _install
from ansible_collections.podnet.datapath.plugins.module_utils._agent.install_plan import SERVICE
from ansible_collections.podnet.datapath.plugins.module_utils._agent.server import PATH as SOCKET
from ansible_collections.podnet.datapath.plugins.module_utils._core.bundle import archive
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import command
from tests.kubernetes.cluster.control_plane import SERVICE_CIDRS
from tests.kubernetes.cluster.node import CNI_BIN, NET_D, AnyNode, Node
from tests.support.checkout import CHECKOUT, PROGRAMS

if TYPE_CHECKING:
    from tests.kubernetes.cluster.cluster import Cluster

ROLE = CHECKOUT / "roles/cni/files"
# As the role bpf_datapath installs them.
OBJECT, COMMAND = "/usr/local/lib/podnet-datapath.o", "/usr/local/sbin/podnet-datapath"
KUBECONFIG = "/etc/kubernetes/podnet-agent.conf"
ACCOUNT = ("--namespace", "kube-system", "podnet-agent")
PROGRAM = "/usr/local/lib/cni.pyz"
# The module without Ansible; it has the options as JSON.
MODULE = f"""\
import json, os, subprocess, sys
from {_install.__name__} import absent, desired, present
def command(words):
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:  # there is no journalctl
        return 127, "", str(error)
    return done.returncode, done.stdout, done.stderr
os.makedirs("/run/systemd/system", exist_ok=True)
given = json.load(sys.stdin)
if given.pop("state") == "present":
    result = present(desired(given.pop("object"), **given), command)
else:
    result = absent(given["force"], command)
print(json.dumps({{"changed": result.changed, "warnings": result.warnings, **result.values}}))
"""


def install_with_services(cluster: Cluster) -> None:
    """Install it so that it translates services, without kube-proxy."""
    install(cluster, kube_proxy="replace", stack_services=[])


def install(cluster: Cluster, nodes: Sequence[Node] = (), **options: Any) -> None:
    """Install agent, plugin and, last, the conflist on nodes, by default all. The agent loads the programs.

    ``options`` are those of ``present`` that differ.
    """
    nodes = nodes or cluster.nodes
    cluster.kubectl("apply", "-f", ROLE / "rbac.yml")
    token = cluster.kubectl("create", "token", *ACCOUNT, "--duration=24h").strip()
    for node in nodes:
        node.write(KUBECONFIG, cluster.server.kubeconfig_of(token), 0o600)
    copy_parts(nodes)
    for node in nodes:
        present(node, kubeconfig=KUBECONFIG, **options)


def copy_parts(nodes: Iterable[Node], bin_dir: str = CNI_BIN) -> None:
    """Compile and copy to nodes what other tasks than the module install."""
    with tempfile.TemporaryDirectory() as folder:
        for source in (PROGRAMS, ROLE / "plugin"):
            subprocess.run(["make", "-s", "-C", str(source), f"OUT={folder}"], check=True)
        for node in nodes:
            _copy(node, Path(folder), bin_dir)


def _copy(node: Node, folder: Path, bin_dir: str) -> None:
    for name, target in (("datapath.o", OBJECT), ("podnet", f"{bin_dir}/podnet")):
        shutil.copy2(folder / name, node.path(target))
    shutil.copy2(Path(__file__).with_name("systemctl.sh"), node.path("/usr/local/bin/systemctl"))
    node.path(PROGRAM).write_bytes(archive(MODULE))
    node.path(COMMAND).write_bytes(command.program())
    node.path(COMMAND).chmod(0o755)


def module(node: Node, **options: Any) -> dict[str, Any]:
    """Run the module ``cni`` on a node; return its result, or raise ``LabError``."""
    result: dict[str, Any] = json.loads(node.run("python3", PROGRAM, given=json.dumps(options)))
    return result


def present(
    node: Node, conflist: str = "10-podnet.conflist", bin_dir: str = CNI_BIN, **agent: Any
) -> dict[str, Any]:
    """Install agent and conflist on a node that has everything else, as the role does."""
    settings = {
        "node": node.name,
        "driver": "veth",
        "uplinks": ["eth0"],
        "metrics_port": 9797,
        "socket_lb": "required",
        # By default the one of this whole computer
        "cgroup_path": node.cgroup2,
        "stack_services": SERVICE_CIDRS,
        **agent,
    }
    folders = {"bin_dir": bin_dir, "conf_dir": NET_D, "conflist": conflist}
    ipam = {"type": "host-local"}
    return module(
        node, state="present", object=OBJECT, agent=settings, network="podnet", ipam=ipam, **folders
    )


def start_agent(node: AnyNode) -> None:
    """Start the agent on a node and wait for it; a busy computer may take a minute to load the programs."""
    node.run("systemctl", "start", SERVICE)
    node.run("timeout", "120", "sh", "-c", f"until [ -S {SOCKET} ]; do sleep 0.05; done")
