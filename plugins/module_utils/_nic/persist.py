# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keep NIC settings over a reboot or driver reload: udev starts a systemd unit with this collection's code.

A .link file would replace the one that names the NIC, and networkd and NetworkManager support only some of
the settings. Therefore a copy of this code stays on the node. udev makes systemd start it whenever one of the
NICs appears, after its .link file was applied. ``_nic.mtu_sources`` handles what networkd sets later.

Sources: systemd.device(5) for SYSTEMD_WANTS, systemd.link(5), udev(7).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._core.bundle import PACKAGE, archive, interpreter
from .._core.files import DropIn, Metadata, metadata, replace_file
from .._core.plan import Problem
from .._node.host import Host
from .mtu_sources import MARKER, present_drop_ins

SETTINGS = "/etc/podnet/nics.json"
PROGRAM = "/usr/local/lib/podnet/nic_tuning.pyz"
UNIT = "/etc/systemd/system/podnet-nic@.service"
RULES = "/etc/udev/rules.d/99-podnet-nic.rules"

_SAFE_NAME = re.compile(r"[A-Za-z0-9._@-]+")  # the kernel also permits quotes, '*', '$' and others

_MAIN = f"""\
import json, sys
from {PACKAGE}._core import plan
from {PACKAGE}._nic import configure
with open({SETTINGS!r}, encoding="utf-8") as file:
    nics = json.load(file)
try:
    result = configure.set_up(nics, sys.argv[1])
except plan.Problem as problem:
    sys.exit(str(problem))
print(json.dumps(result))
"""


def program() -> bytes:
    """Return a zip file that Python runs, with this code and pyroute2; the same code gives the same bytes."""
    return archive(_MAIN, ["pyroute2"])


def unit(python: str) -> str:
    """Return the template unit that applies the settings of the NIC in its instance name."""
    return (
        f"{MARKER}\n[Unit]\nDescription=Settings of the NIC %i\n"
        "After=systemd-networkd.service NetworkManager.service podnet-checkpoint.service\n\n"
        f"[Service]\nType=oneshot\nExecStart={python} {PROGRAM} %i\n"
    )


def rules(names: Iterable[str]) -> str:
    """Return the udev rules that start the unit of a NIC.

    A NIC that udev renames has its final name from the event "move" on. systemd starts the unit once each
    time the NIC appears, for any number of events. Raises ``Problem`` for a name that has a special meaning
    in a rule or a unit's name.
    """
    names = sorted(names)
    unsafe = [name for name in names if not _SAFE_NAME.fullmatch(name)]
    if unsafe:
        raise Problem(
            f"nics: {', '.join(map(repr, unsafe))}: persist: udev rules and systemd units support only names"
            " of letters, digits, '.', '_', '-' and '@': rename the NIC, or set persist: false"
        )
    lines = [
        f'ACTION!="remove", SUBSYSTEM=="net", KERNEL=="{name}", TAG+="systemd",'
        f' ENV{{SYSTEMD_WANTS}}+="podnet-nic@{name}.service"'
        for name in names
    ]
    return "\n".join([MARKER, *lines, ""])


def render_settings(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the JSON text that the program reads."""
    rendered = []
    for entry in entries:
        given = {key: value for key, value in entry.items() if value not in (None, {}, [], "", False)}
        for selector in ("driver", "pci", "default_route"):  # The entry has the name of the selected NIC.
            given.pop(selector, None)
        if "steering" in given:
            given["steering"] = {
                option: cpus for option, cpus in given["steering"].items() if cpus is not None
            }
        rendered.append(given)
    return json.dumps(rendered, indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True)
class BootFiles:
    """Contents of the files that apply settings at boot, by path; ``None`` if a file is absent.

    ``metadata`` has those of files that were read.
    """

    contents: Mapping[str, bytes | None]
    metadata: Mapping[str, Metadata] = field(default_factory=dict)

    def differing(self, other: BootFiles) -> list[str]:
        """Return the paths of files that differ."""
        paths = sorted({*self.contents, *other.contents})
        return [path for path in paths if self.contents.get(path) != other.contents.get(path)]

    def replacing(self, former: BootFiles) -> BootFiles:
        """Return these files, and the other files of ``former`` as absent."""
        return BootFiles({**dict.fromkeys(former.contents), **self.contents}, self.metadata)


def desired(entries: Sequence[Mapping[str, Any]], drop_ins: Mapping[str, bytes] | None = None) -> BootFiles:
    """Return the files that apply ``entries`` at boot, networkd's drop-ins included; none without entries."""
    if not entries:
        return BootFiles(dict.fromkeys((SETTINGS, PROGRAM, UNIT, RULES)))
    return BootFiles(
        {
            **(drop_ins or {}),
            SETTINGS: render_settings(entries).encode(),
            PROGRAM: program(),
            UNIT: unit(interpreter()).encode(),
            RULES: rules(entry["name"] for entry in entries).encode(),
        }
    )


def read(root: str = "/") -> BootFiles:
    """Return the present files; raises ``Problem`` if this collection did not write one of them."""
    found: dict[str, bytes | None] = {}
    kept: dict[str, Metadata] = {}
    for path in (SETTINGS, PROGRAM, UNIT, RULES, *present_drop_ins(root)):
        file_path = os.path.join(root, path.lstrip("/"))
        if path not in (SETTINGS, PROGRAM):
            DropIn(file_path, MARKER).read()
        try:
            with open(file_path, "rb") as file:
                found[path] = file.read()
        except FileNotFoundError:
            found[path] = None
        present = metadata(file_path)
        if present:
            kept[path] = present
    return BootFiles(found, kept)


def persisted_names(root: str = "/") -> list[str]:
    """Return the NICs whose settings are applied at boot."""
    try:
        return [entry["name"] for entry in json.loads(Host(root).read(SETTINGS) or "[]")]
    except (ValueError, TypeError, KeyError):
        return []


def require_systemd(root: str = "/") -> None:
    """Raise ``Problem`` if systemd or udev, which start the program, do not run."""
    node = Host(root)
    if not node.exists("/run/systemd/system") or not node.tool("udevadm"):
        raise Problem("persist: requires systemd and udev on this node: set persist: false")


def write(files: BootFiles, root: str = "/") -> None:
    """Write or remove all ``files``; raises ``OSError``."""
    for path, data in files.contents.items():
        file_path = os.path.join(root, path.lstrip("/"))
        if data is None:
            DropIn(file_path, MARKER).write(None)
            continue
        os.makedirs(os.path.dirname(file_path), exist_ok=True)
        replace_file(file_path, data, like=files.metadata.get(path))
