# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else gives a NIC an MTU, and what makes networkd give it ours.

Private to this collection. Of what ``nic_tuning`` sets, networkd, NetworkManager and ifupdown set the MTU
alone, at any time after the NIC has appeared. networkd takes a drop-in beside the file that it uses.

Sources: systemd.network(5), systemd.link(5), NetworkManager's nm-settings-keyfile(5), interfaces(5).
"""

from __future__ import annotations

import glob
import os
import re
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from .._node.drop_ins import in_order, options
from .._node.facts import Node

MARKER = "# Written by podnet.datapath.nic_tuning: changes made here are lost."
# Of files of one name the first folder's counts; ours are written to the first one.
FOLDERS = (
    "/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network", "/lib/systemd/network",
)  # fmt: skip
NAME = "zz-podnet.conf"


def present(root: str = "/") -> list[str]:
    """Return the drop-ins of networkd that bear our name."""
    found = glob.glob(Node(root).path(f"{FOLDERS[0]}/*.network.d/{NAME}"))
    return sorted("/" + os.path.relpath(file, root) for file in found)


def _networkd_file(index: int, root: str) -> str:
    """Return the file by which networkd sets up an interface, "" where it does not."""
    state = Node(root).read(f"/run/systemd/netif/links/{index}")
    found = re.search(r"^NETWORK_FILE=(.+)$", state, re.MULTILINE)
    return found[1] if found else ""


def _mtu(file: str, root: str, ours: Mapping[str, bytes | None]) -> dict[str, str]:
    """Return the MTU that a .network or .link file and its drop-ins give, by the file that has the last word.

    ``ours`` are drop-ins as they are to be.
    """
    node = Node(root)
    folders = [f"{folder}/{os.path.basename(file)}.d" for folder in FOLDERS]
    found = {}
    for path in [file, *in_order(node, folders, ours)]:
        content = (ours[path] or b"").decode() if path in ours else node.read(path)
        for section, option, value in options(content):
            if (section, option) == ("Link", "MTUBytes"):
                found = {path: value}
    return found


def drop_ins(entries: Sequence[Mapping[str, Any]], root: str = "/") -> dict[str, bytes]:
    """Return the drop-ins that have networkd give NICs the MTU of their entries.

    There are some only where a file of networkd says another MTU, and serves no other interface.
    """
    wishes = {socket.if_nametoindex(entry["name"]): entry.get("mtu") for entry in entries}
    served: dict[str, set[int]] = {}
    for name in Node(root).names("/run/systemd/netif/links"):
        index = int(name)
        served.setdefault(_networkd_file(index, root), set()).add(index)
    without = dict.fromkeys(present(root))
    found = {}
    for file, indexes in served.items():
        mtus = {wishes.get(index) for index in indexes}
        now = _mtu(file, root, without) if file else {}
        if now and len(mtus) == 1 and mtus != {None} and set(now.values()) != set(map(str, mtus)):
            words = f"{MARKER}\n[Link]\nMTUBytes={mtus.pop()}\n"
            found[f"{FOLDERS[0]}/{os.path.basename(file)}.d/{NAME}"] = words.encode()
    return found


def link_mtu(index: int, root: str = "/") -> dict[str, str]:
    """Return the MTU that a .link file gives a NIC when it appears, by file."""
    state = Node(root).read(f"/run/udev/data/n{index}")
    match = re.search(r"^E:ID_NET_LINK_FILE=(.+)$", state, re.MULTILINE)
    return _mtu(match[1], root, {}) if match else {}


def later_mtus(
    name: str, index: int, root: str = "/", ours: Mapping[str, bytes | None] | None = None
) -> dict[str, str]:
    """Return the MTUs that networkd, NetworkManager and ifupdown give a NIC after it has appeared, by file.

    ``ours`` are networkd's drop-ins as they are to be.
    """
    node = Node(root)
    network = _networkd_file(index, root)
    found = _mtu(network, root, ours or {}) if network else {}
    folder = "/etc/NetworkManager/system-connections"
    for file in [f"{folder}/{file}" for file in node.names(folder) if file.endswith(".nmconnection")]:
        said = {(section, option): value for section, option, value in options(node.read(file))}
        mtu = said.get(("ethernet", "mtu"), said.get(("802-3-ethernet", "mtu"), "0"))
        if said.get(("connection", "interface-name")) == name and mtu != "0":
            found[file] = mtu
    interfaces = "/etc/network/interfaces"
    for file in [interfaces, *(f"{interfaces}.d/{file}" for file in node.names(f"{interfaces}.d"))]:
        stanza = ""
        for line in node.read(file).splitlines():
            words = line.split()
            if words[:1] == ["iface"]:
                stanza = words[1] if len(words) > 1 else ""
            elif words[:1] == ["mtu"] and stanza == name and len(words) > 1:
                found[file] = words[1]
    return found


def mtus(name: str, index: int, root: str = "/") -> dict[str, str]:
    """Return the files that give a NIC an MTU when it appears or later, each with that MTU."""
    return {**link_mtu(index, root), **later_mtus(name, index, root)}
