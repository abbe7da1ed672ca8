# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Access to the nodes: SSH keys and settings, the Ansible inventory, and each node's identity."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path

from lablib.common import run, write_atomic
from lablib.files import LabFiles
from lablib.state import Node

WIRE_NETWORK = """\
[Match]
Name=wire0

[Network]
Address=172.31.0.{index}/30
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
ConfigureWithoutCarrier=yes

[Address]
Address=fd31::{index}/64
DuplicateAddressDetection=none
"""


def create_key(path: Path) -> None:
    """Create an SSH key pair in ``path`` and ``path``.pub."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "podnet-lab", "-f", path])


def write_identity(node: Node, folder: Path, login_key: str) -> None:
    """Write the node's host key and identity.tar, which turns the generic image into this node.

    ``login_key`` is the public key that root accepts for logins.
    """
    create_key(folder / "host_key")
    files = {
        "etc/hostname": (0o644, f"{node.name}\n"),
        "etc/ssh/ssh_host_ed25519_key": (0o600, (folder / "host_key").read_text()),
        "etc/ssh/ssh_host_ed25519_key.pub": (0o644, (folder / "host_key.pub").read_text()),
        "root/.ssh/authorized_keys": (0o600, login_key),
        "etc/systemd/network/20-wire0.network": (0o644, WIRE_NETWORK.format(index=node.index)),
    }
    with tarfile.open(folder / "identity.tar", "w") as archive:
        for path, (mode, text) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text.encode()), mode
            archive.addfile(entry, io.BytesIO(text.encode()))


def known_hosts_line(node: Node, folder: Path) -> str:
    """Return the known_hosts line for the host key that ``write_identity`` wrote to ``folder``."""
    kind, key = (folder / "host_key.pub").read_text().split()[:2]
    return f"[127.0.0.1]:{node.port} {kind} {key}\n"


def inventory_text(folder: Path, nodes: Sequence[Node]) -> str:
    """Return the Ansible inventory (YAML) of a lab in ``folder``."""
    ssh_args = (
        f"-o UserKnownHostsFile={shlex.quote(str(folder / 'known_hosts'))} "
        "-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
    )
    lines = ["---", "lab:", "  hosts:"]
    for node in nodes:
        lines += [f"    {node.name}:", f"      ansible_port: {node.port}"]
    lines += [
        "  vars:",
        "    ansible_host: 127.0.0.1",
        "    ansible_user: root",
        "    ansible_python_interpreter: /usr/bin/python3",
        f"    ansible_ssh_private_key_file: {json.dumps(str(folder / 'ssh_key'))}",
        f"    ansible_ssh_common_args: {json.dumps(ssh_args)}",
    ]
    return "\n".join(lines) + "\n"


def ssh_config_text(folder: Path, nodes: Sequence[Node]) -> str:
    """Return the ssh_config(5) of a lab in ``folder``."""
    hosts = "".join(f"Host {node.name}\n  Port {node.port}\n" for node in nodes)
    return (
        f"{hosts}Host *\n  HostName 127.0.0.1\n  User root\n"
        f'  IdentityFile "{folder}/ssh_key"\n  IdentitiesOnly yes\n'
        f'  UserKnownHostsFile "{folder}/known_hosts"\n  StrictHostKeyChecking yes\n'
        "  LogLevel ERROR\n  ConnectTimeout 30\n"
    )


def write_access_files(files: LabFiles, nodes: Sequence[Node]) -> None:
    """Write known_hosts, ssh_config and inventory.yml of a lab whose nodes have an identity."""
    known_hosts = [known_hosts_line(node, files.node_folder(node)) for node in nodes]
    write_atomic(files.folder / "known_hosts", "".join(known_hosts))
    write_atomic(files.ssh_config, ssh_config_text(files.folder, nodes))
    write_atomic(files.inventory, inventory_text(files.folder, nodes))
