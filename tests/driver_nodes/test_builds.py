# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Twenty hosts with two kernels need two builds. Each host is a name with the root of a node's image.

A host's Python runs in that root, with the kernel's compiler and headers; the facts of node_info are given.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from tests.support.lab_node import lab

KERNELS = ("6.1", "6.12")
NODES = 20


def test_twenty_hosts_with_two_kernels_need_two_builds(tmp_path: Path) -> None:
    hosts, releases = {}, []
    for number, kernel in enumerate(KERNELS):
        root = Path(lab("root", "--kernel", kernel).strip())
        (build,) = (root / "lib/modules").glob("*/build")
        releases.append(build.parent.name)
        python = tmp_path / f"python-{kernel}"
        python.write_text(f'#!/bin/sh\nexec chroot {root} /usr/bin/python3 "$@"\n')
        python.chmod(0o755)
        facts = {
            "kernel": {"release": releases[-1], "architecture": "x86_64", "version": f"of {kernel}"},
            "driver": "meta",
            "builder": {"possible": True, "missing": [], "packages": []},
        }
        # Every other host has the newer kernel, as in a fleet during an upgrade.
        for node in range(number, NODES, len(KERNELS)):
            hosts[f"node{node:02}"] = {"facts": facts, "ansible_python_interpreter": str(python)}
    variables = {
        "ansible_connection": "local",
        "ansible_pipelining": True,
        "ansible_become": False,
        "preflight_node": "{{ facts }}",
        "meta_driver_build": "fleet",
        "meta_driver_cache": str(tmp_path / "cache"),
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": variables}}))
    role = {"name": "podnet.datapath.meta_driver", "tasks_from": "prepare"}
    tasks = [{"name": "Build the driver for all kernels", "ansible.builtin.import_role": role}]
    play = {"name": "Build", "hosts": "all", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        ["ansible-playbook", "-i", str(tmp_path / "hosts.yml"), "--forks", "4", str(tmp_path / "play.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    sections = re.split(r"^TASK ", done.stdout, flags=re.MULTILINE)
    output = "".join(section for section in sections if section.split("]")[0].endswith(": Build the driver"))
    builds = re.findall(r"^(?:changed|ok): .*", output, re.MULTILINE)
    assert len(builds) == len(KERNELS), done.stdout
    kept = list((tmp_path / "cache").rglob("*.ko"))
    magic = [subprocess.check_output(["modinfo", "-F", "vermagic", path], text=True) for path in kept]
    assert sorted(line.split()[0] for line in magic) == sorted(releases)
