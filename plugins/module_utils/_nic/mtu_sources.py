# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find files that set the MTU of a NIC, and override networkd's with a drop-in file.

Of the settings of ``nic_tuning``, networkd, NetworkManager and ifupdown set only the MTU; they may do so at
any time after the NIC appears.

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
from .._node.host import Host

MARKER = "# Written by podnet.datapath.nic_tuning: changes made here are lost."
# A file in an earlier directory hides files of the same name in later ones.
FOLDERS = (
    "/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network", "/lib/systemd/network",
)  # fmt: skip
NAME = "zz-podnet.conf"


def present_drop_ins(root: str = "/") -> list[str]:
    """Return the paths of this collection's networkd drop-ins."""
    found = glob.glob(Host(root).path(f"{FOLDERS[0]}/*.network.d/{NAME}"))
    return sorted("/" + os.path.relpath(file, root) for file in found)


def _networkd_file(index: int, root: str) -> str:
    """Return the .network file of an interface, empty if networkd does not manage it."""
    state = Host(root).read(f"/run/systemd/netif/links/{index}")
    found = re.search(r"^NETWORK_FILE=(.+)$", state, re.MULTILINE)
    return found[1] if found else ""


def _mtu(file: str, root: str, planned: Mapping[str, bytes | None]) -> dict[str, str]:
    """Return the MTU that a .network or .link file and its drop-ins set, by the file that sets it last.

    ``planned`` has the contents of drop-ins that will be written, ``None`` for those that will be removed.
    """
    node = Host(root)
    folders = [f"{folder}/{os.path.basename(file)}.d" for folder in FOLDERS]
    found = {}
    for path in [file, *in_order(node, folders, planned)]:
        content = (planned[path] or b"").decode() if path in planned else node.read(path)
        for section, option, value in options(content):
            if (section, option) == ("Link", "MTUBytes"):
                found = {path: value}
    return found


def drop_ins(entries: Sequence[Mapping[str, Any]], root: str = "/") -> dict[str, bytes]:
    """Return the drop-ins that make networkd set the MTU of ``entries``.

    A drop-in is needed only if a .network file sets another MTU, and possible only if the file applies to no
    interface with a different MTU.
    """
    desired = {socket.if_nametoindex(entry["name"]): entry.get("mtu") for entry in entries}
    users: dict[str, set[int]] = {}
    for name in Host(root).names("/run/systemd/netif/links"):
        index = int(name)
        users.setdefault(_networkd_file(index, root), set()).add(index)
    removed = dict.fromkeys(present_drop_ins(root))
    found = {}
    for file, indexes in users.items():
        mtus = {desired.get(index) for index in indexes}
        now = _mtu(file, root, removed) if file else {}
        if now and len(mtus) == 1 and mtus != {None} and set(now.values()) != set(map(str, mtus)):
            text = f"{MARKER}\n[Link]\nMTUBytes={mtus.pop()}\n"
            found[f"{FOLDERS[0]}/{os.path.basename(file)}.d/{NAME}"] = text.encode()
    return found


def link_mtu(index: int, root: str = "/") -> dict[str, str]:
    """Return the MTU that a .link file sets when the NIC appears, by file."""
    state = Host(root).read(f"/run/udev/data/n{index}")
    match = re.search(r"^E:ID_NET_LINK_FILE=(.+)$", state, re.MULTILINE)
    return _mtu(match[1], root, {}) if match else {}


def later_mtus(
    name: str, index: int, root: str = "/", planned: Mapping[str, bytes | None] | None = None
) -> dict[str, str]:
    """Return the MTUs that networkd, NetworkManager and ifupdown set after the NIC appears, by file.

    ``planned`` has networkd drop-ins that will be written or removed.
    """
    node = Host(root)
    network = _networkd_file(index, root)
    found = _mtu(network, root, planned or {}) if network else {}
    folder = "/etc/NetworkManager/system-connections"
    for file in [f"{folder}/{file}" for file in node.names(folder) if file.endswith(".nmconnection")]:
        keys = {(section, option): value for section, option, value in options(node.read(file))}
        mtu = keys.get(("ethernet", "mtu"), keys.get(("802-3-ethernet", "mtu"), "0"))
        if keys.get(("connection", "interface-name")) == name and mtu != "0":
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
    """Return the files that set a NIC's MTU when it appears or later, each with that MTU."""
    return {**link_mtu(index, root), **later_mtus(name, index, root)}
