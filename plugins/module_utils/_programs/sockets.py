# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Request the programs that translate services at the sockets of all processes of the node."""

from __future__ import annotations

from dataclasses import dataclass

from .._core.plan import Problem
from .._kernel import bpf, mounts
from .hooks import SOCKET_PROGRAMS
from .resolve import Request

MODES = ("auto", "required", "disabled")


@dataclass(frozen=True)
class SocketLb:
    """The attachments to a cgroup, or why there are none."""

    requests: tuple[Request, ...] = ()
    cgroup: str = ""
    reason: str = ""


def select(mode: str, cgroup_path: str = "") -> SocketLb:
    """Return the attachments that a mode requires, by default to the root of the cgroup v2 hierarchy.

    Raises ``Problem`` if the mode is ``required`` and the node does not support them, or if ``cgroup_path``
    is no cgroup.
    """
    if mode == "disabled":
        return SocketLb(reason="disabled")
    reason = ""
    cgroup = cgroup_path or mounts.cgroup2_mount()
    if not bpf.has_socket_programs():
        reason = "the kernel has no programs of sockets: they need Linux 6.1 and CONFIG_CGROUP_BPF"
    elif cgroup_path and not mounts.cgroup_id(cgroup):
        raise Problem(f"cgroup_path: '{cgroup}' is not a cgroup of version 2; see mount -t cgroup2")
    elif not cgroup or not mounts.cgroup_id(cgroup):  # another mount may hide it
        reason = "no cgroup v2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified)"
    if not reason:
        requests = tuple(
            Request(program, cgroup, hook, "cgroup") for hook, program in SOCKET_PROGRAMS.items()
        )
        return SocketLb(requests, cgroup)
    if mode == "required":
        raise Problem(f"socket_lb: {reason}; or set socket_lb: auto")
    return SocketLb(reason=reason)
