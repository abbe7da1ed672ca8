# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node on this machine, in its own network and mount namespaces: it can have Pods, but not be tuned."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Runs for such a node skip tuning, which would change this machine.
SKIPPED = "--skip-tags=node_tuning"
PREPARE = """
mount -t sysfs sysfs /sys; mount -t bpf bpf /sys/fs/bpf; mount -t tmpfs tmpfs /run/netns; mkdir -p /run/podnet
mount -t tmpfs tmpfs /run/podnet; ip link set lo up
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
echo ready; exec sleep infinity
"""


@contextlib.contextmanager
def node(folder: Path) -> Iterator[dict[str, Any]]:
    """Create the namespaces; yield the inventory variables of a node in them with files in a folder."""
    os.makedirs("/run/netns", exist_ok=True)
    process = subprocess.Popen(
        ["unshare", "--mount", "--net", "sh", "-c", PREPARE], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        python = folder / "python3"
        enter = f"nsenter --target {process.pid} --mount --net {sys.executable}"
        python.write_text(f'#!/bin/sh\nexec {enter} "$@"\n')
        python.chmod(0o755)
        yield {
            "ansible_connection": "local",
            "ansible_pipelining": True,
            "ansible_become": False,
            "ansible_python_interpreter": str(python),
            "preflight_driver": "veth",
            "preflight_install_packages": False,
            "bpf_datapath_object": str(folder / "datapath.o"),
            "bpf_datapath_command": "",
            "fleet_remaining_hosts_file": str(folder / "remaining-hosts"),
            "pods_endpoints": [
                {"name": "pod1", "addresses": ["10.99.0.1/32"]},
                {"name": "pod2", "addresses": ["10.99.0.2/32"], "labels": {"app": "web"}},
            ],
            "pods_mtu": 1500,
        }
    finally:
        process.kill()
        process.wait()
