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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MARKER = "# Written by podnet.datapath.nic_tuning: changes made here are lost."
NETWORKD = "/etc/systemd/network"
NAME = "zz-podnet.conf"


def _options(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield section, name and value in a file of systemd or NetworkManager."""
    section = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif "=" in line and line[:1] not in ("#", ";"):
            name, dummy, value = line.partition("=")
            yield section, name.strip(), value.strip()


def text(path: str) -> str:
    """Return a file's text, none where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _here(path: str, root: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def present(root: str = "/") -> list[str]:
    """Return the drop-ins of networkd that bear our name."""
    found = glob.glob(_here(f"{NETWORKD}/*.network.d/{NAME}", root))
    return sorted("/" + os.path.relpath(file, root) for file in found)


def _networkd_file(index: int, root: str) -> str:
    """Return the file by which networkd sets up an interface, "" where it does not."""
    state = text(_here(f"/run/systemd/netif/links/{index}", root))
    found = re.search(r"^NETWORK_FILE=(.+)$", state, re.MULTILINE)
    return found[1] if found else ""


def _networkd_mtu(file: str, root: str, ours: Mapping[str, bytes | None]) -> dict[str, str]:
    """Return the MTU that a file of networkd and its drop-ins give, by the file that has the last word.

    ``ours`` are drop-ins as they are to be.
    """
    folder = f"{NETWORKD}/{os.path.basename(file)}.d"
    drop_ins = {"/" + os.path.relpath(path, root) for path in glob.glob(_here(f"{folder}/*.conf", root))}
    drop_ins |= {path for path in ours if os.path.dirname(path) == folder}
    found = {}
    for path in [file, *sorted(drop_ins)]:
        content = (ours[path] or b"").decode() if path in ours else text(_here(path, root))
        for section, option, value in _options(content):
            if (section, option) == ("Link", "MTUBytes"):
                found = {path: value}
    return found


def drop_ins(entries: Sequence[Mapping[str, Any]], root: str = "/") -> dict[str, bytes]:
    """Return the drop-ins that have networkd give NICs the MTU of their entries.

    There are some only where a file of networkd says another MTU, and serves no other interface.
    """
    wishes = {socket.if_nametoindex(entry["name"]): entry.get("mtu") for entry in entries}
    served: dict[str, set[int]] = {}
    for path in glob.glob(_here("/run/systemd/netif/links/*", root)):
        index = int(os.path.basename(path))
        served.setdefault(_networkd_file(index, root), set()).add(index)
    without = dict.fromkeys(present(root))
    found = {}
    for file, indexes in served.items():
        mtus = {wishes.get(index) for index in indexes}
        now = _networkd_mtu(file, root, without) if file else {}
        if now and len(mtus) == 1 and mtus != {None} and set(now.values()) != set(map(str, mtus)):
            words = f"{MARKER}\n[Link]\nMTUBytes={mtus.pop()}\n"
            found[f"{NETWORKD}/{os.path.basename(file)}.d/{NAME}"] = words.encode()
    return found


def link_mtu(index: int, root: str = "/") -> dict[str, str]:
    """Return the MTU that a .link file gives a NIC when it appears, by file."""
    state = text(_here(f"/run/udev/data/n{index}", root))
    match = re.search(r"^E:ID_NET_LINK_FILE=(.+)$", state, re.MULTILINE)
    if not match:
        return {}
    more = glob.glob(_here(f"{NETWORKD}/{os.path.basename(match[1])}.d/*.conf", root))
    return {
        "/" + os.path.relpath(file, root): value
        for file in [_here(match[1], root), *sorted(more)]
        for section, option, value in _options(text(file))
        if (section, option) == ("Link", "MTUBytes")
    }


def later_mtus(
    name: str, index: int, root: str = "/", ours: Mapping[str, bytes | None] | None = None
) -> dict[str, str]:
    """Return the MTUs that networkd, NetworkManager and ifupdown give a NIC after it has appeared, by file.

    ``ours`` are networkd's drop-ins as they are to be.
    """
    network = _networkd_file(index, root)
    found = _networkd_mtu(network, root, ours or {}) if network else {}
    for file in sorted(glob.glob(_here("/etc/NetworkManager/system-connections/*.nmconnection", root))):
        options = {(section, option): value for section, option, value in _options(text(file))}
        mtu = options.get(("ethernet", "mtu"), options.get(("802-3-ethernet", "mtu"), "0"))
        if options.get(("connection", "interface-name")) == name and mtu != "0":
            found["/" + os.path.relpath(file, root)] = mtu
    interfaces = _here("/etc/network/interfaces", root)
    for file in [interfaces, *sorted(glob.glob(f"{interfaces}.d/*"))]:
        stanza = ""
        for line in text(file).splitlines():
            words = line.split()
            if words[:1] == ["iface"]:
                stanza = words[1] if len(words) > 1 else ""
            elif words[:1] == ["mtu"] and stanza == name and len(words) > 1:
                found["/" + os.path.relpath(file, root)] = words[1]
    return found


def mtus(name: str, index: int, root: str = "/") -> dict[str, str]:
    """Return the files that give a NIC an MTU when it appears or later, each with that MTU."""
    return {**link_mtu(index, root), **later_mtus(name, index, root)}
