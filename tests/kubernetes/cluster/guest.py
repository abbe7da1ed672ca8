# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node in a guest of the lab, which has a kernel and a systemd of its own.

Its programs and images are on a second disk, which all guests share.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from lablib import common
from lablib.lifecycle import Lab

from tests.kubernetes.cluster import cache, images, node
from tests.kubernetes.cluster.build import BIN
from tests.kubernetes.cluster.images import PATH
from tests.kubernetes.cluster.node import AnyNode

UPLINK = "wire0"
DISK = "disk.ext4"
LABEL = "kubernetes"
MOUNT = "/opt/kubernetes"
# A folder of the disk, which all containers have at the same path as the node
SHARED = "shared"
# Programs of Debian's newest suite that run with the C library of older ones
CONTAINERD = ("containerd", "containerd-shim-runc-v2", "ctr", "busybox")
CNI_PLUGINS = ("host-local", "loopback", "portmap")
KUBERNETES = ("kubelet", "kube-proxy")

# An address of the management network that no host has
NO_GATEWAY = "10.0.2.99"
# What all containers have, if there is such a folder
SPEC = "/etc/containerd-spec.json"
# The last table of node.CONTAINERD is that of the runtime.
WITH_SPEC = f'base_runtime_spec = "{SPEC}"\n'

# Links every file of the disk at its path below the root. node.CONTAINERD names crun; Debian 12 has runc.
PREPARE = f"""
mkdir -p {MOUNT}
mount -o ro -L {LABEL} {MOUNT}
modprobe -a overlay
cd {MOUNT}
find usr -type f | while read -r file; do
    mkdir -p "/${{file%/*}}"
    ln -sf "{MOUNT}/$file" "/$file"
done
command -v crun >/dev/null || ln -s "$(command -v runc)" /usr/local/bin/crun
sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
# networkd, which restarts if the guest is slow, removes addresses that it does not know.
mkdir -p /etc/systemd/network/20-{UPLINK}.network.d
for address; do
    printf '[Address]\\nAddress=%s\\nDuplicateAddressDetection=none\\n' "$address"
done >/etc/systemd/network/20-{UPLINK}.network.d/kubernetes.conf
# What the node sends to unknown addresses, such as that of a deleted service, must not reach other networks.
sed -i 's/^Gateway=.*/Gateway={NO_GATEWAY}/' /etc/systemd/network/20-mgmt0.network
networkctl reload
timeout 60 sh -c "until ip route show default | grep -q ' {NO_GATEWAY} '; do sleep 0.2; done"
for address; do
    timeout 60 sh -c "until ip address show dev {UPLINK} | grep -qF ' $address '; do sleep 0.2; done"
done
"""


def disk(layers: Sequence[Path], more: Sequence[Path] = ()) -> Path:
    """Return the disk with the programs and images in a cluster's layers: images, programs, root.

    ``more`` are layers with further images, and with folders ``SHARED``.
    """
    archives = {
        str(path.relative_to(one)): one for one in more for path in sorted(one.glob(f"{images.ARCHIVES}/*"))
    }
    sources = {
        **archives,
        f"{images.ARCHIVES}/cluster.tar": layers[0],
        **{f"{BIN}/{name}": layers[1] for name in KUBERNETES},
    }
    sources.update({f"usr/bin/{name}": layers[2] for name in CONTAINERD})
    sources.update({f"usr/lib/cni/{name}": layers[2] for name in CNI_PLUGINS})
    sources.update((SHARED, one) for one in more if (one / SHARED).exists())
    recipe = f"{sources} {inspect.getsource(_build)}"
    name = "-".join(["guest-disk", *(Path(archive).stem for archive in archives)])
    return cache.layer(name, recipe, lambda work: _build(sources, work)) / DISK


def _build(sources: dict[str, Path], target: Path) -> None:
    folder = target / "content"
    for name, layer in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        common.run(["cp", "-al", layer / name, folder / name])
    size = int(common.run(["du", "-s", "--block-size=1", folder]).split()[0])
    options = ("-q", "-t", "ext4", "-m", "0", "-L", LABEL, "-O", "^has_journal", "-d", folder)
    common.run(["mke2fs", *options, target / DISK, f"{size // 1024 * 11 // 10 + 8192}k"])
    shutil.rmtree(folder)


def snapshot() -> str:
    """Return the name of the snapshot of prepared nodes, which changes with the code that prepares them."""
    sources = inspect.getsource(node) + inspect.getsource(GuestNode) + PREPARE
    return f"prepared-{hashlib.sha256(sources.encode()).hexdigest()[:8]}"


class GuestNode(AnyNode):
    """A node in a guest; ``sockets`` is the folder of the SSH connections, which commands share."""

    def __init__(self, number: int, lab: Lab, sockets: Path) -> None:
        super().__init__(f"node{number}")
        self.number = number
        self._lab, self._sockets = lab, sockets

    @property
    def cgroup(self) -> str:
        return "/"

    @property
    def cgroup2(self) -> str:
        return "/sys/fs/cgroup"

    def enter(self, *argv: str | Path) -> list[str]:
        inside = ("env", "-i", f"PATH={PATH}", "HOME=/root", *map(str, argv))
        return [*self._ssh(), shlex.join(inside)]

    def shell(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{os.getpid()}/ns/net", *self._ssh()]

    def _ssh(self) -> list[str]:
        ssh = self._lab.ssh_argv(self.name)
        shared = ("-o", "ControlMaster=auto", "-o", "ControlPersist=60")
        path = ("-o", f"ControlPath={self._sockets}/%n")
        return [*ssh[:-1], *shared, *path, ssh[-1]]

    def start(self, name: str, *argv: str | Path) -> None:
        log = f"append:/var/log/{name}.log"
        properties = (f"StandardOutput={log}", f"StandardError={log}", "KillMode=process", "Delegate=yes")
        self.run(
            *("systemd-run", "--quiet", "--collect", f"--unit={name}"),
            *(f"--property={value}" for value in properties),
            # Memory is cheaper than time: collect garbage when the heap is five times as large, not twice.
            *("--", "/usr/bin/env", f"PATH={PATH}", "GOGC=400", *argv),
        )

    def stop(self, name: str) -> None:
        self.run("systemctl", "stop", f"{name}.service")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        # In the same folder: containerd ignores a file that is moved there from another one.
        script = 'umask 077; cat >"$0.new" && chmod "$1" "$0.new" && mv "$0.new" "$0"'
        self.run("sh", "-c", script, path, f"{mode:o}", given=text)

    def logs(self, lines: int = 15) -> str:
        shown = self.run("sh", "-c", f"tail -n {lines} /var/log/*.log; journalctl -n {lines} -u podnet-agent")
        return f"{self.name}:\n{shown}"

    def prepare(self) -> None:
        """Mount the disk, set the addresses, and start containerd with the images."""
        self.run("sh", "-ec", PREPARE, "sh", f"{self.addresses[0]}/24", f"{self.addresses[1]}/64")
        shared = f"{MOUNT}/{SHARED}"
        if not self.run("find", MOUNT, "-maxdepth", "1", "-name", SHARED):
            self.start_containerd()
            return
        spec = json.loads(self.run("ctr", "oci", "spec"))
        mount = {"type": "bind", "source": shared, "destination": shared, "options": ["rbind", "ro"]}
        spec["mounts"].append(mount)
        self.write(SPEC, json.dumps(spec))
        self.start_containerd(node.CONTAINERD + WITH_SPEC)
