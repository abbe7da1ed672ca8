# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The names and files of one lab: its folder in the cache, its state, its network namespace."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from lablib import common
from lablib.common import LabError
from lablib.state import Node, State

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,19}")


def require_valid_name(what: str, name: str) -> None:
    """Raise LabError unless ``name`` is fit for paths and network namespaces; ``what`` is the option."""
    if not NAME.fullmatch(name):
        raise LabError(
            f"{what} {name!r} is not a valid name; use 1 to 20 characters of a-z, 0-9 and -, the first not -"
        )


class LabFiles:
    """The names and files of the lab ``name``. Raise LabError if the name is invalid."""

    def __init__(self, name: str) -> None:
        require_valid_name("--name", name)
        self.name = name
        self.folder = common.cache_dir() / "labs" / name
        # The hash distinguishes labs of the same name in different caches.
        self.namespace = f"podnet-{name}-{hashlib.sha256(str(self.folder).encode()).hexdigest()[:6]}"

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory.yml"

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def snapshots(self) -> Path:
        return self.folder / "snapshots"

    def node_folder(self, node: Node) -> Path:
        return self.folder / node.name

    def snapshot_names(self) -> list[str]:
        """Return the names of the lab's complete snapshots."""
        return sorted(path.name for path in self.snapshots.glob("[!.]*"))

    def load_state(self) -> State | None:
        """Return the lab's state, or None if the lab does not exist."""
        try:
            return State.from_json((self.folder / "state.json").read_text())
        except FileNotFoundError:
            return None

    def require_state(self) -> State:
        """Return the lab's state; raise LabError if the lab does not exist."""
        state = self.load_state()
        if state is None:
            raise LabError(f"lab {self.name!r} does not exist; create it: lab.py up --name {self.name}")
        return state

    def save_state(self, state: State) -> None:
        """Write state.json."""
        common.write_atomic(self.folder / "state.json", state.to_json())
