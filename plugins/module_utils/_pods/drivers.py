# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Select the driver of Pods' devices, and look up pinned programs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping

from .._core.command import RunCommand
from .._kernel import bpf, netlink
from .model import NO_PROGRAM, UNKNOWN_PROGRAM

_REMEDIES = {
    "meta": "run the role podnet.datapath.meta_driver on this node, or choose driver: auto",
    "netkit": "boot a kernel from 6.7 on with CONFIG_NETKIT, or choose driver: auto",
    "veth": "boot a kernel with CONFIG_VETH",
}


def load_meta(command: RunCommand, check: bool) -> str:
    """Load the kernel module meta (dry run with ``check``). Return an error message, empty on success."""
    modprobe = shutil.which("modprobe", path=f"{os.environ.get('PATH', os.defpath)}:/sbin:/usr/sbin")
    if modprobe is None:
        return "modprobe is not installed: install kmod"
    code, _out, error = command([modprobe, *(["--dry-run"] if check else []), "meta"])
    return "" if code == 0 else error.strip() or f"modprobe exited with status {code}"


def driver_problem(driver: str, load: Callable[[], str]) -> str | None:
    """Return why this node cannot create devices of a driver, None if it can.

    ``load`` loads the kernel module meta, or checks that it can be loaded, and returns an error message.
    """
    if driver == "meta" and not os.path.exists("/sys/module/meta"):
        refusal = load()
        return f"the kernel module meta cannot be loaded ({refusal})" if refusal else None
    if not netlink.has_link_kind(driver):
        return f"kernel {os.uname().release} has no {driver}"
    return None


def choose_drivers(
    wanted: Iterable[str], load: Callable[[], str], trusted_pods: bool = True
) -> tuple[dict[str, str], str, list[str]]:
    """Return the driver for each value of the option, the reason of auto's selection, and problems.

    auto prefers meta to netkit if Pods are not trusted.
    """
    names = set(wanted)
    chosen = {name: name for name in names if name != "auto"}
    problems = []
    reason = ""
    if "auto" in names:
        reasons = [] if trusted_pods else ["Pods are not trusted"]
        for driver in ("netkit", "meta", "veth") if trusted_pods else ("meta", "netkit", "veth"):
            problem = driver_problem(driver, load)
            if problem is None:
                reasons.append(f"{driver} is available")
                chosen["auto"] = driver
                break
            reasons.append(problem)
        else:
            chosen["auto"] = "veth"
            problems.append(f"driver: auto finds no driver: {'; '.join(reasons)}")
        reason = "auto: " + "; ".join(reasons)
    for driver in sorted(names - {"auto"}):
        problem = driver_problem(driver, load)
        if problem is not None:
            problems.append(f"driver: {driver}: {problem}: {_REMEDIES[driver]}")
    return chosen, reason, problems


def program_ids(paths: Mapping[str, str | None], check: bool) -> tuple[dict[str, int], list[str]]:
    """Return the IDs of pinned programs by direction, and problems.

    An empty path stands for no program. With ``check``, a program that is not pinned yet is no problem.
    """
    ids: dict[str, int] = {}
    problems = []
    for direction, path in paths.items():
        if path is None:
            continue
        if not path:
            ids[direction] = NO_PROGRAM
            continue
        try:
            with bpf.closing(bpf.obj_get(path)) as descriptor:
                if "bpf-prog" not in os.readlink(f"/proc/self/fd/{descriptor}"):
                    raise bpf.BpfError("the pinned object is not a program")
                ids[direction] = bpf.program_info(descriptor).id
        except (OSError, bpf.BpfError) as error:
            if check and isinstance(error, FileNotFoundError):
                ids[direction] = UNKNOWN_PROGRAM
            else:
                problems.append(f"programs.{direction}: {path}: {error}: pin a program there with bpf_attach")
    return ids, problems
