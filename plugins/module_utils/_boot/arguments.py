# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requested kernel arguments: parse them, list the risks and the devices that they would break.

Source: Documentation/admin-guide/kernel-parameters.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .._core.plan import Problem
from .._node.host import Host
from .command_line import END, canonical, is_repeated, name_of

# Characters without a special meaning in the shell, which reads GRUB's settings, and in grub.cfg.
_SAFE = re.compile(r"[A-Za-z0-9_.,:=/@%+~-]+")

_NO_IOMMU = (
    "devices can read and write all memory, and VFIO and SR-IOV for guests no longer work;"
    " iommu=pt keeps both and costs little"
)
_NO_INIT = "the kernel does not clear the memory that it allocates, so bugs leak its former contents"
# By argument: the value that disables a protection, and the risk.
_RISKS = {
    "iommu": ("off", _NO_IOMMU),
    "intel_iommu": ("off", _NO_IOMMU),
    "amd_iommu": ("off", _NO_IOMMU),
    "init_on_alloc": ("0", _NO_INIT),
}
_FALSE = re.compile(r"0|n|f|d|of", re.IGNORECASE)  # kstrtobool()


def parse(args: object) -> list[str]:
    """Return the requested arguments as words of a command line; raises ``Problem``."""
    if isinstance(args, dict):
        pairs = list(args.items())
    elif isinstance(args, list):
        pairs = [(token, None) for token in args]
    else:
        raise Problem(f"args: {args!r} is neither a dictionary nor a list")
    tokens: list[str] = []
    problems = []
    for name, value in pairs:
        if isinstance(value, (bool, dict, list)):
            problems.append(f"args: {name}: {value!r} is not a valid value: write a string, such as '1'")
            continue
        token = str(name) if value is None else f"{name}={value}"
        if not _SAFE.fullmatch(token) or token.startswith("="):
            problems.append(
                f"args: {token!r} has characters that a boot loader may interpret, such as spaces or quotes:"
                " use letters, digits and _.,:=/@%+~-"
            )
        elif token == END:
            problems.append(
                f"args: {END} ends the arguments of the kernel: set those of init in the boot loader's files"
            )
        elif is_repeated(token) or canonical(token) not in map(canonical, tokens):
            tokens.append(token)
    if problems:
        raise Problem("\n".join(problems))
    return tokens


def risks(tokens: Iterable[str]) -> dict[str, str]:
    """Return the arguments that disable a protection, each with its risk."""
    found = {}
    for token in tokens:
        value = token.partition("=")[2]
        disabled, risk = _RISKS.get(name_of(token), ("", ""))
        off = disabled == "off" and any(word.startswith("off") for word in value.split(","))
        if off or (disabled == "0" and _FALSE.match(value)):
            found[token] = risk
    return found


def stale(former: Iterable[str], kept: Iterable[str], running: Iterable[str]) -> list[str]:
    """Return the ``former`` arguments that the running kernel has and the next boot will not have."""
    gone = {*map(canonical, running)} - {*map(canonical, kept)}
    return sorted({token for token in former if canonical(token) in gone})


def iommu_users(node: Host) -> list[str]:
    """Return the PCI devices that need the IOMMU: bound to VFIO, or with virtual functions."""
    drivers = [name for name in node.names("/sys/bus/pci/drivers") if "vfio" in name]
    bound = [
        f"{device} (bound to {driver})"
        for driver in drivers
        for device in node.names(f"/sys/bus/pci/drivers/{driver}")
        if ":" in device
    ]
    virtual = [
        f"{device} (with virtual functions)"
        for device in node.names("/sys/bus/pci/devices")
        if node.number(f"/sys/bus/pci/devices/{device}/sriov_numvfs", 0)
    ]
    return bound + virtual
