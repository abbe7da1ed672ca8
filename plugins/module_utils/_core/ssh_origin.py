# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the address from which the controller connected to this node.

Source: ssh(1), ENVIRONMENT; proc_pid_environ(5), proc_pid_stat(5).
"""

from __future__ import annotations

import ipaddress
import os

_VARIABLE = b"SSH_CLIENT="


def address() -> str:
    """Return the client address of the SSH connection that started this process, empty if there is none.

    sudo removes SSH_CLIENT, so the environments of parent processes are searched as well.
    """
    pid = os.getpid()
    try:
        while pid > 1:
            with open(f"/proc/{pid}/environ", "rb") as file:
                for entry in file.read().split(b"\0"):
                    if entry.startswith(_VARIABLE):
                        text = entry[len(_VARIABLE) :].split(b" ")[0].decode("ascii")
                        return str(ipaddress.ip_address(text))
            with open(f"/proc/{pid}/stat", "rb") as file:
                pid = int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError):  # A process ended or belongs to another user, or sshd has no address.
        pass
    return ""
