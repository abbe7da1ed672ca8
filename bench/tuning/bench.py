# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the costs of a converged run: node_tuning against loops over ansible.posix.sysctl and ethtool.

Both apply the settings of settings.yml to one lab node, then run alternately, so that a loaded machine slows
both. The time of an empty play, Ansible's startup, is subtracted. Prints modules started on the node, median
seconds, and their ratios.

usage: python3 -m bench.tuning.bench [--turns 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from tests.support.checkout import CHECKOUT

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ["PODNET_CACHE"])
LAB = "tuning"
# The Ansible community package, which contains ansible.posix.
PACKAGE = "ansible==12.3.0"
NOTHING = [{"hosts": "lab", "gather_facts": False, "tasks": [{"ansible.builtin.ping": None}]}]


def ansible_posix() -> Path:
    """Return a collections folder with ansible.posix, downloaded once."""
    folder = CACHE / "collections" / PACKAGE
    if not folder.exists():
        with tempfile.TemporaryDirectory() as wheels:
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", wheels, PACKAGE]
            subprocess.run(pip, check=True)
            (wheel,) = Path(wheels).iterdir()
            made = folder.with_suffix(".new")
            with zipfile.ZipFile(wheel) as archive:
                wanted = [n for n in archive.namelist() if n.startswith("ansible_collections/ansible/posix/")]
                archive.extractall(made, wanted)
        made.rename(folder)
    return folder


def run(playbook: Path, *arguments: str) -> tuple[int, int, float]:
    """Run a playbook; return its modules started on the node, its changes and its seconds."""
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": f"{os.environ['ANSIBLE_COLLECTIONS_PATH']}:{ansible_posix()}",
        "ANSIBLE_CALLBACK_PLUGINS": str(HERE),
        "ANSIBLE_CALLBACKS_ENABLED": "count_modules",
    }
    with tempfile.NamedTemporaryFile() as counts:
        environment["COUNT_MODULES"] = counts.name
        inventory = CACHE / "labs" / LAB / "inventory.yml"
        begin = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", "-i", str(inventory), str(playbook), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - begin
        if done.returncode:
            sys.exit(f"{playbook.name} failed:\n{done.stdout[-3000:]}")
        found = json.loads(Path(counts.name).read_text())
    return found["started"], found["changed"], seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=3)
    turns = parser.parse_args().turns
    lab = [sys.executable, str(CHECKOUT / "roles/lab_node/files/lab.py")]
    subprocess.run([*lab, "up", "--name", LAB, "--nodes", "1"], check=True)
    playbooks = {"role": HERE / "role.yml", "loops": HERE / "loops.yml"}
    with tempfile.TemporaryDirectory() as folder:
        playbooks["nothing"] = Path(folder) / "nothing.yml"
        playbooks["nothing"].write_text(json.dumps(NOTHING))
        for playbook in playbooks.values():
            run(playbook)
        results = [(name, run(playbook)) for dummy in range(turns) for name, playbook in playbooks.items()]
    subprocess.run([*lab, "down", "--name", LAB], check=True)

    changed = {name for name, (dummy, changes, dummy_seconds) in results if changes}
    if changed:
        sys.exit(f"a tuned node was changed again by: {', '.join(changed)}")
    started = {name: result[0] for name, result in results}
    seconds = {name: statistics.median(r[2] for n, r in results if n == name) for name in playbooks}
    for name in ("role", "loops"):
        print(f"{name}: {started[name]} modules started, {seconds[name] - seconds['nothing']:.1f} s")
    ratio = (seconds["loops"] - seconds["nothing"]) / (seconds["role"] - seconds["nothing"])
    print(f"loops to role: {started['loops'] / started['role']:.1f} in modules, {ratio:.1f} in seconds")


if __name__ == "__main__":
    main()
