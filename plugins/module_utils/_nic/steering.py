# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolve steering options (RPS, XPS, RFS, interrupt affinity) to settings of queues and interrupts.

Source: Documentation/networking/scaling.rst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .cpus import Cpus, format_list, parse_list
from .sysfs import Value

_MISSING = {
    "rps": "no receive queue in /sys",
    "xps": "a single transmit queue",
    "irqs": "no interrupts",
}
_PATTERNS = {"rps": r"queues\..*\.rps_cpus", "xps": r"queues\..*\.xps_cpus", "irqs": r"irqs\..*"}


def resolve(
    values: Mapping[str, object], desired: Mapping[str, object], cpus: Cpus, irqbalance: bool
) -> tuple[dict[str, Value], list[str]]:
    """Return the settings of queues and interrupts, and an error for each invalid option.

    RPS assigns all chosen CPUs to every receive queue. XPS and interrupts get one CPU each, round robin. RFS
    divides the flows among the receive queues, rounded down to powers of two.
    """
    settings: dict[str, Value] = {}
    problems = []
    for option, value in desired.items():
        try:
            if option == "rfs":
                settings.update(_rfs_settings(values, value, cpus))
                continue
            chosen = sorted(_chosen_cpus(f"steering: {option}", value, cpus))
            present = _sorted(name for name in values if re.fullmatch(_PATTERNS[option], name))
            if not present:
                raise ValueError(
                    f"steering: {option}: this NIC has {_MISSING[option]}: remove it, or list"
                    f" steering.{option} in optional"
                )
            if option == "irqs" and not chosen:
                raise ValueError("steering: irqs: an interrupt needs a CPU: choose local, all or a list")
            if option == "irqs" and irqbalance:
                raise ValueError(
                    "steering: irqs: irqbalance runs and would move the interrupts: stop it, or remove irqs"
                )
            for number, setting in enumerate(present):
                one = [chosen[number % len(chosen)]] if chosen else []
                settings[setting] = format_list(chosen if option == "rps" else one)
        except ValueError as error:
            problems.append(str(error))
    return settings, problems


def _chosen_cpus(option: str, value: object, cpus: Cpus) -> frozenset[int]:
    """Return the CPUs of a keyword or list; raises ``ValueError``."""
    if value == "local":
        return cpus.local
    if value == "all":
        return cpus.online
    if value == "none":
        return frozenset()
    try:
        found = parse_list(str(value))
    except ValueError:
        raise ValueError(f"{option}: {value!r} is not local, all, none or a list such as 0-3,8") from None
    offline = found - cpus.online
    if offline:
        raise ValueError(
            f"{option}: CPU {format_list(offline)} is not online; online: {format_list(cpus.online)}"
        )
    return found


def _sorted(settings: Iterable[str]) -> list[str]:
    """Return settings sorted by the numbers in their names."""
    return sorted(settings, key=lambda text: [int(number) for number in re.findall(r"\d+", text)])


def _rfs_settings(values: Mapping[str, object], value: object, cpus: Cpus) -> dict[str, Value]:
    queues = [name for name in values if name.endswith(".rps_flow_cnt")]
    if isinstance(value, bool) or not str(value).isdecimal():
        raise ValueError(f"steering: rfs: {value!r} is not a number of flows")
    flows = int(str(value))
    if not queues:
        raise ValueError("steering: rfs: this kernel does not support RFS (CONFIG_RFS_ACCEL or CONFIG_RPS)")
    if flows > cpus.flows:
        raise ValueError(
            f"steering: rfs: {flows} flows exceed net.core.rps_sock_flow_entries, which is {cpus.flows}:"
            " increase it with sysctl_zc first"
        )
    share = max(flows // len(queues), 1)
    return dict.fromkeys(queues, 1 << (share.bit_length() - 1) if flows else 0)
