# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find files that set the MTU of a NIC, and override networkd's with a drop-in file.

Of the settings of ``nic_tuning``, networkd, NetworkManager and others set only the MTU; they may do so at any
time after the NIC appears.

Sources: systemd.network(5), systemd.link(5); nm-settings-keyfile(5), NetworkManager.conf(5) and
nm-settings-ifcfg-rh(5); interfaces(5); ifcfg(5) of wicked; dhclient.leases(5).
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Mapping

from .._node.drop_ins import in_order, options
from .._node.host import Host

MARKER = "# Written by podnet.datapath.nic_tuning: changes made here are lost."
# A file in an earlier directory hides files of the same name in later ones.
FOLDERS = (
    "/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network",
    "/usr/lib/systemd/network", "/lib/systemd/network",
)  # fmt: skip
NAME = "zz-podnet.conf"
_NM_FOLDERS = tuple(f"{folder}/NetworkManager/system-connections" for folder in ("/etc", "/run", "/usr/lib"))
_NM_CONFIG = ("/etc/NetworkManager/conf.d", "/run/NetworkManager/conf.d", "/usr/lib/NetworkManager/conf.d")
_NM_SECTIONS = (
    "ethernet", "802-3-ethernet", "infiniband", "ip-tunnel", "wifi", "802-11-wireless", "wireguard", "wpan",
)  # fmt: skip
# Scripts, units and tables of administrators that are used once the NIC is there.
_SCRIPTS = (
    "/etc/NetworkManager/dispatcher.d/*", "/etc/NetworkManager/dispatcher.d/*/*", "/etc/network/if-*up.d/*",
    "/etc/networkd-dispatcher/*/*", "/etc/rc.local", "/etc/rc.d/rc.local", "/etc/systemd/system/*.service",
    "/etc/systemd/system/*.service.d/*.conf", "/usr/local/lib/systemd/system/*.service",
    "/etc/sysconfig/network-scripts/ifup-local", "/sbin/ifup-local", "/etc/udev/rules.d/*.rules",
    "/etc/tmpfiles.d/*.conf", "/etc/sysfs.conf", "/etc/sysfs.d/*", "/etc/crontab", "/etc/cron.d/*",
    "/var/spool/cron/*", "/var/spool/cron/crontabs/*",
)  # fmt: skip
# Commands of ip(8) and ifconfig(8), writes to /sys by shells, sysfsutils, udev and tmpfiles.d.
_SETS_MTU = (
    r"\bmtu(?:\s+-)*\s+(\d+)",
    r"(\d+)[\"']?\s*(?:>|\|\s*(?:sudo\s+)?tee\b)[^;&|]*/mtu\b",
    r"\bmtu[\"'}]*\s*=\s*[\"']?(\d+)",
)
# Copies that ifup of RHEL ignores.
_COPIES = ("~", ".bak", ".orig", ".rpmnew", ".rpmorig", ".rpmsave", ".swp")


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

    An MTU of the file overrides that of a DHCP server. ``planned`` has the contents of drop-ins that will be
    written, ``None`` for those that will be removed.
    """
    node = Host(root)
    folders = [f"{folder}/{os.path.basename(file)}.d" for folder in FOLDERS]
    found: dict[str, str] = {}
    used: dict[str, str] = {}
    for path in [file, *in_order(node, folders, planned)]:
        content = (planned[path] or b"").decode() if path in planned else node.read(path)
        for section, option, value in options(content):
            if (section, option) == ("Link", "MTUBytes"):
                found = {path: _bytes(value)} if value else {}
            elif section in ("DHCP", "DHCPv4") and option == "UseMTU":
                used = {path: "DHCP"} if value.lower() in ("1", "yes", "y", "true", "t", "on") else {}
    return found or used


def _bytes(value: str) -> str:
    """Return a size without its suffix, which has the base 1024."""
    match = re.fullmatch(r"(\d+)\s*([KMG])B?", value)
    return str(int(match[1]) << {"K": 10, "M": 20, "G": 30}[match[2]]) if match else value


def drop_ins(desired: Mapping[int, int | None], root: str = "/") -> dict[str, bytes]:
    """Return the drop-ins that make networkd set the ``desired`` MTU of interfaces, given by their index.

    A drop-in is needed only if a .network file sets another MTU, and possible only if the file applies to no
    interface with a different MTU.
    """
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
    """Return the MTUs that services set after the NIC appears, by file; ``DHCP`` for that of a DHCP server.

    ``planned`` has networkd drop-ins that will be written or removed.
    """
    node = Host(root)
    network = _networkd_file(index, root)
    return {
        **(_mtu(network, root, planned or {}) if network else {}),
        **_in_network_manager(node, name),
        **_in_interfaces(node, name),
        **_in_ifcfg(node, name),
        **_in_leases(node, name),
        **_in_scripts(node, name),
    }


def _in_network_manager(node: Host, name: str) -> dict[str, str]:
    """Return the MTUs of NetworkManager's profiles for an interface, and of its defaults."""
    found = {}
    for folder in _NM_FOLDERS:
        for file in (f"{folder}/{file}" for file in node.names(folder)):
            keys = {(section, option): value for section, option, value in options(node.read(file))}
            mtu = next((keys[section, "mtu"] for section in _NM_SECTIONS if (section, "mtu") in keys), "0")
            if not os.path.basename(file).startswith(".") and mtu != "0" and _applies(node, name, keys):
                found[file] = mtu
    for file in ["/etc/NetworkManager/NetworkManager.conf", *in_order(node, _NM_CONFIG)]:
        sections: dict[str, dict[str, str]] = {}
        for section, option, value in options(node.read(file)):
            sections.setdefault(section, {})[option] = value
        for section, values in sections.items():
            mtu = values.get("ethernet.mtu", values.get("802-3-ethernet.mtu", "0"))
            chosen = _is_chosen(node, name, values.get("match-device", "*"))
            if section.startswith("connection") and mtu != "0" and chosen:
                found[file] = mtu
    return found


def _is_chosen(node: Host, name: str, devices: str) -> bool:
    """Return whether a list of devices in NetworkManager.conf contains an interface.

    Types, drivers and others than names and MAC addresses count as those of the interface.
    """
    included: list[bool] = []
    excluded: list[bool] = []
    for spec in filter(None, (spec.strip() for spec in re.split("[;,]", devices))):
        excepted = spec.startswith("except:")
        kind, dummy, value = spec[len("except:") if excepted else 0 :].partition(":")
        if kind == "interface-name":
            matches = fnmatch.fnmatchcase(name, value.lstrip("=~"))
        elif kind == "mac":
            matches = value.lower() == node.read(f"/sys/class/net/{name}/address").lower()
        else:
            matches = not excepted
        (excluded if excepted else included).append(matches)
    return (any(included) or not included) and not any(excluded)


def _applies(node: Host, name: str, keys: Mapping[tuple[str, str], str]) -> bool:
    """Return whether a profile of NetworkManager applies to an interface."""
    wanted = keys.get(("connection", "interface-name"), "")
    if wanted:
        return wanted == name
    for section in _NM_SECTIONS:
        address = keys.get((section, "mac-address"), "")
        if address:
            return address.lower() == node.read(f"/sys/class/net/{name}/address").lower()
    patterns = keys.get(("match", "interface-name"), "")
    if patterns:
        return _matches(name, re.split(r"[;,\s]+", patterns))
    return keys.get(("connection", "type"), "ethernet") in ("ethernet", "802-3-ethernet")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name matches one of the patterns, and none that begins with ``!``."""
    patterns = [pattern.lstrip("|&") for pattern in patterns if pattern]
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    included = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in included) and not any(
        fnmatch.fnmatchcase(name, pattern) for pattern in excluded
    )


def _in_interfaces(node: Host, name: str) -> dict[str, str]:
    """Return the MTUs of ifupdown, from the option ``mtu`` and from commands."""
    found: dict[str, dict[str, str]] = {}
    inherits: dict[str, set[str]] = {}
    queue, seen = ["/etc/network/interfaces"], []
    queue += [f"/etc/network/interfaces.d/{file}" for file in node.names("/etc/network/interfaces.d")]
    while queue:
        file = queue.pop(0)
        if file in seen:
            continue
        seen.append(file)
        stanza = ""
        for line in node.read(file).replace("\\\n", " ").splitlines():
            words = line.split()
            if words[:1] == ["iface"]:
                stanza = words[1] if len(words) > 1 else ""
                if "inherits" in words[:-1]:
                    inherits.setdefault(stanza, set()).add(words[words.index("inherits") + 1])
            elif words[:1] in (["source"], ["source-directory"]) and len(words) > 1:
                pattern = words[1] + ("/*" if words[0] == "source-directory" else "")
                paths = sorted(glob.glob(node.path(os.path.join("/etc/network", pattern))))
                queue += ["/" + os.path.relpath(path, node.root) for path in paths]
            elif words[:1] == ["mtu"] and len(words) > 1:
                found.setdefault(stanza, {})[file] = words[1]
            elif words and words[0] in ("up", "pre-up", "post-up"):
                found.setdefault(stanza, {}).update(_mtu_of_command(file, line))
    wanted = [name]
    for stanza in wanted:
        wanted += sorted(inherits.get(stanza, set()) - {*wanted})
    return {file: mtu for stanza in reversed(wanted) for file, mtu in found.get(stanza, {}).items()}


def _in_ifcfg(node: Host, name: str) -> dict[str, str]:
    """Return the MTUs of ifcfg files: those of RHEL's network-scripts and NetworkManager, and of wicked."""
    found = {}
    for folder in ("/etc/sysconfig/network-scripts", "/etc/sysconfig/network"):
        for file in node.names(folder):
            if not file.startswith("ifcfg-") or file.endswith(_COPIES):
                continue
            values = {
                key[len("export ") :].strip() if key.startswith("export ") else key: _shell_value(value)
                for dummy, key, value in options(node.read(f"{folder}/{file}"))
            }
            device = values.get("DEVICE", "" if values.get("HWADDR") else file[len("ifcfg-") :])
            address = values.get("HWADDR", "").lower()
            known = address and address == node.read(f"/sys/class/net/{name}/address").lower()
            if values.get("MTU") and (known or name == device):
                found[f"{folder}/{file}"] = values["MTU"]
    return found


def _shell_value(text: str) -> str:
    """Return the value of an assignment in a shell script, without quotes and comment."""
    match = re.match(r"\"([^\"]*)\"|'([^']*)'|([^\s#;]*)", text)
    return next((part for part in match.groups() if part), "") if match else ""


def _in_leases(node: Host, name: str) -> dict[str, str]:
    """Return the MTU in dhclient's last lease for an interface, which dhclient-script(8) sets."""
    found = {}
    for folder in ("/var/lib/dhcp", "/var/lib/dhclient"):
        for file in (f"{folder}/{file}" for file in node.names(folder) if "lease" in file):
            for lease in node.read(file).split("lease {")[1:]:
                mtu = re.search(r"option interface-mtu (\d+);", lease)
                if f'interface "{name}";' in lease and mtu:
                    found[file] = mtu[1]
    return found


def _in_scripts(node: Host, name: str) -> dict[str, str]:
    """Return the MTUs that commands in scripts and units set, if these name the interface.

    A command with a variable in place of the interface counts if the script names the interface elsewhere.
    """
    found = {}
    named = re.compile(rf"(?<![\w.-]){re.escape(name)}(?![\w.-])")
    for pattern in _SCRIPTS:
        for path in sorted(glob.glob(node.path(pattern))):
            file = "/" + os.path.relpath(path, node.root)
            text = "" if "podnet" in os.path.basename(file) else node.read(file).replace("\\\n", " ")
            lines = [line for line in text.splitlines() if not line.lstrip().startswith(("#", ";"))]
            mentioned = any(map(named.search, lines))
            for line in lines:
                if named.search(line) or (mentioned and re.search(r"\$[\w{]|%i\b", line)):
                    found.update(_mtu_of_command(file, line))
    return found


def _mtu_of_command(file: str, line: str) -> dict[str, str]:
    """Return the MTU that a command or rule sets, by file."""
    for pattern in _SETS_MTU:
        match = re.search(pattern, line)
        if match:
            return {file: match[1]}
    return {}


def mtus(name: str, index: int, root: str = "/") -> dict[str, str]:
    """Return the files that set a NIC's MTU when it appears or later, each with that MTU."""
    return {**link_mtu(index, root), **later_mtus(name, index, root)}
