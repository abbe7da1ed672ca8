# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the controller's costs of a rollout: site.yml in check mode for many hosts, all this machine.

A wrapper around the modules' Python measures the CPU time that nodes would spend. To measure Ansible's own
cost, a second run has the same number of tasks without modules. Prints both and writes them to
reports/scale/HOSTS.json.

usage: python3 -m bench.rollout_scale.bench [--hosts 1000] [--forks 20]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.support.checkout import CHECKOUT

HERE = Path(__file__).resolve().parent
# The node's Python, which logs its CPU time (times(1p): of the shell, then of its children).
NODE_PYTHON = """#!/bin/sh
{python} "$@"
status=$?
times >> {folder}/times.$$
exit $status
"""


def run(playbook: Path, hosts: int, forks: int, *arguments: str) -> dict[str, Any]:
    """Run a playbook over ``hosts`` names of this machine; return its costs and the tasks per host."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {
            "ansible_connection": "local",
            "ansible_pipelining": True,  # ansible.cfg sets it for SSH
            "ansible_become": False,
            "ansible_python_interpreter": f"{folder}/python3",
            "preflight_install_packages": False,
            "fleet_remaining_hosts_file": f"{folder}/remaining-hosts",
            "pods_endpoints": [{"name": "pod1", "addresses": ["10.99.0.1/32"]}],
            "pods_mtu": 1500,
        }
        python = Path(folder) / "python3"
        python.write_text(NODE_PYTHON.format(python=sys.executable, folder=folder))
        python.chmod(0o755)
        names = {f"node{number:04}": {} for number in range(hosts)}
        inventory = Path(folder) / "hosts.yml"
        inventory.write_text(yaml.safe_dump({"all": {"hosts": names, "vars": variables}}))
        # Programs are pinned, and this machine may have no BPF file system.
        command = ["unshare", "--mount", "sh", "-c", 'mount -t bpf bpf /sys/fs/bpf && exec "$@"', "sh"]
        command += [
            "ansible-playbook",
            "-i",
            str(inventory),
            "--forks",
            str(forks),
            str(playbook),
            *arguments,
        ]
        environment = {
            **os.environ,
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE),
            "ANSIBLE_CALLBACKS_ENABLED": "count_tasks",
            "COUNT_TASKS": f"{folder}/counts",
        }
        begin = time.monotonic()
        with open(f"{folder}/log", "w+") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            dummy, status, usage = os.wait4(process.pid, 0)
            if status:
                log.seek(0)
                sys.exit(f"{playbook.name} failed:\n{log.read()[-3000:]}")
        counts = json.loads(Path(f"{folder}/counts").read_text())
        used = Path(folder).glob("times.*")
        spent = [time for path in used for time in re.findall(r"(\d+)m([\d.]+)s", path.read_text())[2:]]
        on_nodes = sum(60 * int(minutes) + float(seconds) for minutes, seconds in spent)
    return {
        "hosts": hosts,
        "tasks": statistics.median_low(counts["all"].values()),
        "remote_tasks": max(counts["remote"].values(), default=0),
        "seconds": round(time.monotonic() - begin, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime - on_nodes, 1),
        "node_cpu_seconds": round(on_nodes, 1),
        "memory_mib": round(usage.ru_maxrss / 1024),
        # shows tasks that grow faster than the number of hosts
        "slowest": sorted(((round(s, 1), task) for task, s in counts["seconds"].items()), reverse=True)[:8],
    }


def empty_playbook(folder: Path, tasks: int) -> Path:
    """Write a playbook of tasks that start no module."""
    task = {"name": "Nothing", "ansible.builtin.debug": {"msg": "nothing", "verbosity": 4}}
    plays = [{"name": "Empty", "hosts": "all", "gather_facts": False, "tasks": [task] * tasks}]
    path = folder / "empty.yml"
    path.write_text(yaml.safe_dump(plays))
    return path


def print_costs(name: str, one: dict[str, Any]) -> None:
    """Print a run's costs."""
    cpu, on_node = (one[key] / one["hosts"] for key in ("cpu_seconds", "node_cpu_seconds"))
    print(
        f"{name}: {one['hosts']} hosts, {one['tasks']} tasks each, {one['remote_tasks']} of them remote; "
        f"{one['seconds']} s; CPU s a host: {cpu:.2f} of the controller, {on_node:.2f} of the node; "
        f"{one['memory_mib']} MiB",
        *(f"{seconds:10.1f} s  {task}" for seconds, task in one["slowest"]),
        sep="\n",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--forks", type=int, default=20)
    given = parser.parse_args()
    site = run(
        CHECKOUT / "site.yml", given.hosts, given.forks, "--check", "-e", '{"fleet_batches": ["100%"]}'
    )
    print_costs("site", site)
    with tempfile.TemporaryDirectory() as folder:
        empty = run(empty_playbook(Path(folder), site["tasks"]), given.hosts, given.forks)
    print_costs("empty", empty)
    found = {"site": site, "empty": empty}
    report = CHECKOUT / f"reports/scale/{given.hosts}.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
