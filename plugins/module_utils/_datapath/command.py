# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command podnet-datapath, which bpf_attach leaves on the node. Private to this collection."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence

from .._core.bundle import PACKAGE, archive, interpreter
from .._core.files import replace_file
from .._core.plan import Problem
from .._kernel.bpf import DEFAULT_PIN_PATH, BpfError
from . import drops as _drops
from . import info, interfaces
from .store import Store


def program() -> bytes:
    """Return the command as a file that runs."""
    code = archive(f"from {PACKAGE}._datapath.command import main\n\nmain()\n")
    return f"#!{interpreter()}\n".encode() + code


def install(path: str, check: bool = False) -> str:
    """Write the command to ``path``, with ``check`` only plan it; return create, replace, or an empty string.

    Raises ``Problem``.
    """
    wanted = program()
    try:
        with open(path, "rb") as file:
            found = file.read()
    except FileNotFoundError:
        found = b""
    if found == wanted:
        return ""
    if found and not re.match(rb"#!\S*python\S*\nPK", found):
        raise Problem(f"command: '{path}' is not managed by this collection: move it, or choose another path")
    if not os.path.isdir(os.path.dirname(path)):
        raise Problem(f"command: the directory of '{path}' does not exist: create it, or choose another path")
    if not check:
        replace_file(path, wanted, 0o755)
    return "replace" if found else "create"


class _Names:
    """Names of Pods by their place in the counters, and of devices; asked anew once a second at most."""

    def __init__(self, pin_path: str) -> None:
        self._store = Store(pin_path)
        self._until = 0.0
        self.pods: dict[int, str] = {}
        self.devices: dict[int, str] = {}

    def refresh(self) -> None:
        if time.monotonic() < self._until:
            return
        self._until = time.monotonic() + 1
        self.pods = {s: name for record in self._store.read().values() for name, s in record.slots.items()}
        self.devices = {one.ifindex: name for name, one in interfaces.read_interfaces().items()}


def _follow_drops(pin_path: str, wait: float | None) -> None:
    """Print a line for each dropped packet, until ``wait`` seconds pass without one."""
    reasons = info.reasons(pin_path)
    names = _Names(pin_path)
    with contextlib.closing(_drops.Ring(pin_path)) as ring:
        while True:
            for drop in ring.read():
                names.refresh()
                sys.stdout.write(_drops.line(drop, reasons, names.pods, names.devices) + "\n")
                sys.stdout.flush()
            if not ring.wait(wait):
                return


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="podnet-datapath", description="What the BPF programs do on this node."
    )
    parser.add_argument("--pin-path", default=DEFAULT_PIN_PATH, help="where their maps are (%(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    drops = commands.add_parser("drops", help="a line for each packet that is dropped, as it happens")
    drops.add_argument("--wait", type=float, help="end after so many seconds without one")
    commands.add_parser("info", help="programs, Pods, policy, services and counters, as JSON")
    commands.add_parser("prometheus", help="counters for node_exporter's textfile collector")
    given = parser.parse_args(arguments)
    try:
        if given.command == "drops":
            _follow_drops(given.pin_path, given.wait)
        elif given.command == "info":
            sys.stdout.write(json.dumps(info.gather(given.pin_path), indent=1) + "\n")
        else:
            sys.stdout.write(info.prometheus(info.gather(given.pin_path)))
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(0)  # whoever read has gone: nothing is left to flush to
    except (BpfError, OSError) as error:
        raise SystemExit(f"podnet-datapath: {error}") from None
