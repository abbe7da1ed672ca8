# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds for hosts with two kernels. Each host is a name with the root of a node's image.

A host's Python runs in that root, with the kernel's compiler and headers; the facts of node_info are given.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import signing
from tests.support.lab_node import lab
from tests.support.module_build import make_signing_key

KERNELS = ("6.1", "6.12")
NODES = 20


def prepare(
    folder: Path,
    kernels: tuple[str, ...],
    nodes: int,
    compromised: str = "",
    prefix: str = "node",
    **options: Any,
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Build the driver for all hosts; return the finished playbook, and the kernels' releases.

    The compiler of the node ``compromised`` produces other code.
    """
    hosts, releases = {}, []
    for number, kernel in enumerate(kernels):
        root = Path(lab("root", "--kernel", kernel).strip())
        (build,) = (root / "lib/modules").glob("*/build")
        releases.append(build.parent.name)
        facts = {
            "kernel": {"release": releases[-1], "architecture": "x86_64", "version": f"of {kernel}"},
            "driver": "meta",
            "builder": {"possible": True, "missing": [], "packages": []},
        }
        # Every other host has the newer kernel, as in a fleet during an upgrade.
        for node in range(number, nodes, len(kernels)):
            name = f"{prefix}{node:02}"
            flags = "KCPPFLAGS=-falign-functions=64" if name == compromised else ""
            python = folder / f"python-{name}"
            python.write_text(f'#!/bin/sh\nexec chroot {root} env {flags} /usr/bin/python3 "$@"\n')
            python.chmod(0o755)
            hosts[name] = {"facts": facts, "ansible_python_interpreter": str(python)}
    variables = {
        "ansible_connection": "local",
        "ansible_pipelining": True,
        "ansible_become": False,
        "preflight_node": "{{ facts }}",
        "meta_driver_build": "fleet",
        "meta_driver_cache": str(folder / "cache"),
        **options,
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": variables}}))
    role = {"name": "podnet.datapath.meta_driver", "tasks_from": "prepare"}
    tasks = [{"name": "Build the driver for all kernels", "ansible.builtin.import_role": role}]
    play = {"name": "Build", "hosts": "all", "gather_facts": False, "tasks": tasks}
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        ["ansible-playbook", "-i", str(folder / "hosts.yml"), "--forks", "4", str(folder / "play.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    return done, releases


def test_twenty_hosts_with_two_kernels_need_two_builds_for_each(tmp_path: Path) -> None:
    """The two builds of a kernel are in different directories, and equal byte by byte."""
    done, releases = prepare(tmp_path, KERNELS, NODES)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    sections = re.split(r"^TASK ", done.stdout, flags=re.MULTILINE)
    output = "".join(section for section in sections if section.split("]")[0].endswith(": Build the driver"))
    builds = re.findall(r"^(?:changed|ok): .*", output, re.MULTILINE)
    assert len(builds) == 2 * len(KERNELS), done.stdout
    kept = list((tmp_path / "cache").glob("*/*.ko"))
    magic = [subprocess.check_output(["modinfo", "-F", "vermagic", path], text=True) for path in kept]
    assert sorted(line.split()[0] for line in magic) == sorted(releases)
    for folder in (tmp_path / "cache").glob("*.builds"):
        first, second = folder.iterdir()
        assert first.read_bytes() == second.read_bytes()


def test_the_module_of_a_compromised_builder_is_refused(tmp_path: Path) -> None:
    done, dummy = prepare(tmp_path, KERNELS[:1], 2, compromised="node00")
    said = done.stdout + done.stderr
    assert done.returncode and "node01 and node00 built different modules" in said, said[-6000:]
    assert not list((tmp_path / "cache").glob("*/*.ko"))


def test_a_single_builder_of_a_signed_module_must_be_trusted(tmp_path: Path) -> None:
    """The signature is valid on every node, even if the node builds for itself."""
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
    make_signing_key(key, certificate, "test")
    options = {"meta_driver_signing_key": key, "meta_driver_signing_certificate": certificate}
    done, dummy = prepare(tmp_path, KERNELS[:1], 1, **options)
    assert done.returncode and "see meta_driver_single_builder" in done.stdout, done.stdout[-6000:]
    assert not list((tmp_path / "cache").glob("*/*.ko"))
    done, dummy = prepare(tmp_path, KERNELS[:1], 1, meta_driver_single_builder=True, **options)
    (module,) = (tmp_path / "cache").glob("*/*.ko")
    assert done.returncode == 0 and module.read_bytes().endswith(signing.MAGIC)


def test_a_node_does_not_load_what_another_built_for_itself(tmp_path: Path) -> None:
    """Runs for one node each, as with --limit, build once for each."""
    folders: list[Path] = []
    for prefix in ("a", "b"):
        done, dummy = prepare(tmp_path, KERNELS[:1], 1, prefix=prefix)
        assert done.returncode == 0, done.stdout[-6000:]
        folders.append(max((tmp_path / "cache").iterdir(), key=lambda path: path.stat().st_mtime))
    assert folders[0] != folders[1]
