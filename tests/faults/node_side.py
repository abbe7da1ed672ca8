# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on the node: the modules' own code, and how the node is now. Prints JSON.

node_side.py change MTU SECONDS | checkpoint STATE NAME | revert | state
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils import (
    _checkpoint,
    _journal,
    _nic_persist,
    _nic_tuning,
    _plan,
    _revert_node,
)

NIC = "wire0"


def command(words: Sequence[str]) -> tuple[int, str, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def digest(path: str) -> str | None:
    file = Path(path)
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.exists() else None


def state() -> dict[str, Any]:
    """Return what a change of a NIC may touch, and what the journal says of the last one."""
    files = (_nic_persist.SETTINGS, _nic_persist.PROGRAM, _nic_persist.UNIT, _nic_persist.RULES)
    return {
        "mtu": int(Path(f"/sys/class/net/{NIC}/mtu").read_text()),
        "files": {path: digest(path) for path in files},
        "checkpoint": _checkpoint.status(_journal.read()),
        "boot": _journal.boot_id(),
    }


def do(words: Sequence[str]) -> dict[str, Any]:
    if words[0] == "change":
        nics = [{"name": NIC, "mtu": int(words[1])}]
        return _nic_tuning.run(nics, True, False, command, confirm_timeout=int(words[2]))[0]
    if words[0] == "checkpoint":
        return _checkpoint.run(words[2], words[1], "the test asked", {}, False, command)
    if words[0] == "revert":
        return _revert_node.run(_revert_node.CONCERNS, False, False, command)[0]
    return state()


def main() -> None:
    try:
        print(json.dumps(do(sys.argv[1:])))
    except _plan.Problem as problem:
        print(json.dumps({"problem": str(problem)}))


if __name__ == "__main__":
    main()
