# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""NIC settings that outlive a boot and a driver's reload: the same code, started by udev and systemd.

Private to this collection. What owns a NIC (networkd, NetworkManager, a .link file) holds some settings and
refuses others, and a .link file of ours would take the place of the one that names the NIC. So a copy of the
module's own code is kept on the node, and udev has systemd start it whenever one of the NICs appears, after
the NIC's .link file was applied. What networkd does later is ``_nic.owner``'s.

Sources: systemd.device(5) for SYSTEMD_WANTS, systemd.link(5), udev(7).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.bundle import PACKAGE, archive, interpreter
from .._core.files import DropIn, replace_file
from .._core.plan import Problem
from .._node.facts import Node
from . import owner
from .owner import MARKER

SETTINGS = "/etc/podnet/nics.json"
PROGRAM = "/usr/local/lib/podnet/nic_tuning.pyz"
UNIT = "/etc/systemd/system/podnet-nic@.service"
RULES = "/etc/udev/rules.d/99-podnet-nic.rules"

_MAIN = f"""\
import json, sys
from {PACKAGE}._core import plan
from {PACKAGE}._nic import settings
with open({SETTINGS!r}, encoding="utf-8") as file:
    nics = [nic for nic in json.load(file) if nic["name"] == sys.argv[1]]
try:
    result = settings.set_up(nics)
except plan.Problem as problem:
    sys.exit(str(problem))
print(json.dumps(result))
"""


def program() -> bytes:
    """Return the module's own code as a program for Python, the same bytes for the same code."""
    return archive(_MAIN)


def unit(python: str) -> str:
    """Return the unit that sets up the NIC of its instance's name."""
    return (
        f"{MARKER}\n[Unit]\nDescription=Settings of the NIC %i\n"
        "After=systemd-networkd.service NetworkManager.service podnet-checkpoint.service\n\n"
        f"[Service]\nType=oneshot\nExecStart={python} {PROGRAM} %i\n"
    )


def rules(names: Iterable[str]) -> str:
    """Return the udev rules that start the unit of a NIC.

    A NIC that udev renames has its name from a second event, "move", on. systemd starts a unit once for
    each time that the NIC comes, however many events there are.
    """
    lines = [
        f'ACTION!="remove", SUBSYSTEM=="net", KERNEL=="{name}", TAG+="systemd",'
        f' ENV{{SYSTEMD_WANTS}}+="podnet-nic@{name}.service"'
        for name in sorted(names)
    ]
    return "\n".join([MARKER, *lines, ""])


def settings(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the settings of NICs by name, as the program reads them."""
    kept = []
    for entry in entries:
        given = {key: value for key, value in entry.items() if value not in (None, {}, [], "", False)}
        for selector in ("driver", "pci", "default_route"):  # the name is known by now
            given.pop(selector, None)
        if "steering" in given:
            given["steering"] = {way: cpus for way, cpus in given["steering"].items() if cpus is not None}
        kept.append(given)
    return json.dumps(kept, indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Kept:
    """The files of a NIC's settings, as they are or are to be; ``None`` for one that is not there."""

    files: Mapping[str, bytes | None]

    def differing(self, other: Kept) -> list[str]:
        """Return the files that differ."""
        paths = sorted({*self.files, *other.files})
        return [path for path in paths if self.files.get(path) != other.files.get(path)]

    def after(self, former: Kept) -> Kept:
        """Return these files, and those of ``former`` that are to go."""
        return Kept({**dict.fromkeys(former.files), **self.files})


def wanted(entries: Sequence[Mapping[str, Any]], drop_ins: Mapping[str, bytes] | None = None) -> Kept:
    """Return the files that keep ``entries``, and networkd's; without entries there are none."""
    if not entries:
        return Kept(dict.fromkeys((SETTINGS, PROGRAM, UNIT, RULES)))
    return Kept(
        {
            **(drop_ins or {}),
            SETTINGS: settings(entries).encode(),
            PROGRAM: program(),
            UNIT: unit(interpreter()).encode(),
            RULES: rules(entry["name"] for entry in entries).encode(),
        }
    )


def present(root: str = "/") -> Kept:
    """Return the files that there are; raises ``Problem`` where one is somebody else's."""
    found: dict[str, bytes | None] = {}
    for path in (SETTINGS, PROGRAM, UNIT, RULES, *owner.present(root)):
        here = os.path.join(root, path.lstrip("/"))
        if path not in (SETTINGS, PROGRAM):
            DropIn(here, MARKER).read()
        try:
            with open(here, "rb") as file:
                found[path] = file.read()
        except FileNotFoundError:
            found[path] = None
    return Kept(found)


def kept_names(root: str = "/") -> list[str]:
    """Return the NICs whose settings are kept."""
    try:
        return [entry["name"] for entry in json.loads(Node(root).read(SETTINGS) or "[]")]
    except (ValueError, TypeError, KeyError):
        return []


def check(root: str = "/") -> None:
    """Raise ``Problem`` where there is nothing that would start the program."""
    if not os.path.isdir(os.path.join(root, "run/systemd/system")) or not shutil.which("udevadm"):
        raise Problem("persist: needs systemd and udev on this node: set persist: false")


def write(kept: Kept, root: str = "/") -> None:
    """Bring the files to ``kept``; raises ``OSError``."""
    for path, data in kept.files.items():
        here = os.path.join(root, path.lstrip("/"))
        if data is None:
            DropIn(here, MARKER).write(None)
            continue
        os.makedirs(os.path.dirname(here), exist_ok=True)
        replace_file(here, data)
