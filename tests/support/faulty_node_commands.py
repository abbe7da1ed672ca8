# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the modules' code on a node, or read the node's state. Prints JSON.

usage: faulty_node_commands nic '{"name": ...}' SECONDS
       faulty_node_commands program OBJECT DEVICE SECONDS
       faulty_node_commands checkpoint STATE NAME
       faulty_node_commands revert | state
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._core import plan
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool as _ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply, device, persist, revert
from ansible_collections.podnet.datapath.plugins.module_utils._ops import confirm, revert_node
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach as _bpf_attach
from ansible_collections.podnet.datapath.plugins.module_utils._programs import hooks
from ansible_collections.podnet.datapath.plugins.module_utils._programs import revert as _revert_programs
from ansible_collections.podnet.datapath.plugins.module_utils._programs.resolve import Request
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import arm, checkpoint, journal

NICS = ("mgmt0", "wire0")
FILES = (persist.SETTINGS, persist.PROGRAM, persist.UNIT, persist.RULES)


def command(words: Sequence[str]) -> tuple[int, str, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def digest(path: str) -> str | None:
    file = Path(path)
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12] if file.exists() else None


def programs(nic: str) -> list[int]:
    """Return the IDs of the programs at a NIC's tc hooks."""
    index = hooks.read_devices()[nic].ifindex
    return [f.program_id for hook in ("ingress", "egress") for f in hooks.read_filters(index, hook)]


def state() -> dict[str, Any]:
    """Return the settings that a change may touch, and the journal's last checkpoint."""
    ethtool = _ethtool.Ethtool()
    return {
        "nics": {nic: device.read(ethtool, nic).values for nic in NICS},
        "programs": {nic: programs(nic) for nic in NICS},
        "pins": sorted(str(path) for path in Path("/sys/fs/bpf").rglob("*")),
        "files": {path: digest(path) for path in FILES},
        "checkpoint": checkpoint.status(journal.read()),
        "boot": journal.boot_id(),
    }


def attach(path: str, device: str, seconds: str) -> dict[str, Any]:
    recorder = _revert_programs.CheckpointRecorder(arm.Confirmation(int(seconds)), command)
    attachment = Request("drop_all", device, "ingress")
    desired = _bpf_attach.Desired(bpf.DEFAULT_PIN_PATH, [attachment])
    _bpf_attach.present(desired, path, {}, recorder=recorder)
    return {"checkpoint": recorder.checkpoint}


def do(words: Sequence[str]) -> dict[str, Any]:
    if words[0] == "nic":
        nics = [json.loads(words[1])]
        return apply.run(nics, True, False, command, confirmation=arm.Confirmation(int(words[2]))).as_dict()
    if words[0] == "program":
        return attach(*words[1:])
    if words[0] == "checkpoint":
        subsystems = {"nics": revert.Nics(), "programs": _revert_programs.Programs()}
        options = {"name": words[2], "state": words[1], "reason": "requested by the test", "errors": {}}
        return confirm.run(options, False, command, subsystems).as_dict()
    if words[0] == "revert":
        return revert_node.run(revert_node.SUBSYSTEMS, False, False, command).as_dict()
    return state()


def main() -> None:
    try:
        print(json.dumps(do(sys.argv[1:])))
    except (plan.Problem, bpf.BpfError) as problem:
        print(json.dumps({"problem": str(problem)}))


if __name__ == "__main__":
    main()
