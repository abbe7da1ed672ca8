# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A namespace with devices for bpf_attach, and builds of edited programs."""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from tests.support.checkout import PROGRAMS


class Node:
    """A namespace with veth pairs, and a pin folder."""

    def __init__(self, namespaces: Any, run_module: Any, bpffs: str, datapath_object: str) -> None:
        self.ns, self.object = namespaces, datapath_object
        self._run_module = run_module
        self.name = namespaces("node")
        self.pins = f"{bpffs}/{self.name}"
        namespaces.ip(
            self.name,
            "link add left type veth peer name right",
            "link add vlan.100 type veth peer name c-d",
        )

    def module(self, name: str, check: bool = False, fails: bool = False, **args: Any) -> Any:
        args = {"pin_path": self.pins, **args}
        return self._run_module(name, args, netns=self.name, check=check, fails=fails)

    def attach(self, *attachments: str, check: bool = False, fails: bool = False, **args: Any) -> Any:
        """Run bpf_attach; attachments are written ``program device hook [type]``."""
        names = ("program", "device", "hook", "type")
        entries = [dict(zip(names, words.split())) for words in attachments]
        if args.get("state") != "absent":
            args = {"object": self.object, "attachments": entries, **args}
        return self.module("bpf_attach", check, fails, **args)

    def refuse(self, *attachments: str, **args: Any) -> str:
        """Assert that bpf_attach refuses and changes nothing; return its message."""
        before = self.everything()
        message = self.attach(*attachments, fails=True, **args)["msg"]
        assert self.attach(*attachments, fails=True, check=True, **args)["msg"] == message
        assert self.everything() == before
        return str(message)

    def everything(self) -> list[Any]:
        """Return qdiscs, attached programs and the IDs of pinned objects."""
        found: list[Any] = [self.ns.run(self.name, "tc", "qdisc")]
        for device in ("left", "right", "vlan.100", "c-d"):
            found.append(self.ns.run(self.name, "bpftool", "net", "show", "dev", device, check=False))
        for folder, dummy, names in sorted(os.walk(self.pins)):
            for name in sorted(names):
                with bpf.closing(bpf.obj_get(f"{folder}/{name}")) as fd:
                    found.append((f"{folder}/{name}", bpf.link_info(fd).id))
        return found

    def tcx(self, device: str) -> list[str]:
        """Return the names of programs at a device's tcx hooks, which Debian 12's bpftool does not show."""
        names = []
        with self.ns.inside(self.name):
            ifindex = socket.if_nametoindex(device)
            for hook in (bpf.BPF_TCX_INGRESS, bpf.BPF_TCX_EGRESS):
                ids = (ctypes.c_uint32 * 64)()
                attr = struct.pack("=IIIIQI", ifindex, hook, 0, 0, ctypes.addressof(ids), len(ids))
                bpf.bpf(bpf.BPF_PROG_QUERY, attr + bytes(36))
                for number in filter(None, ids):
                    with bpf.closing(bpf.prog_get_fd_by_id(number)) as fd:
                        names.append(bpf.program_info(fd).name)
        return names

    def filters(self, device: str, direction: str) -> str:
        shown: str = self.ns.run(self.name, "tc", "filter", "show", "dev", device, direction)
        return shown


def compiled(folder: Path, *edits: tuple[str, str, str]) -> str:
    """Compile the programs with edits (file, pattern, replacement); return the object."""
    for source in PROGRAMS.iterdir():
        text = source.read_text()
        for file, pattern, replacement in edits:
            if source.name == file:
                assert re.search(pattern, text), pattern
                text = re.sub(pattern, replacement, text)
        (folder / source.name).write_text(text)
    subprocess.run(["make", "-s", "-C", str(folder), f"OUT={folder}"], check=True)
    return str(folder / "datapath.o")
