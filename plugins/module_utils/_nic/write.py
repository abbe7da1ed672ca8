# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write one step of changes to a NIC: ethtool, link, qdisc or sysfs."""

from __future__ import annotations

import errno

from .._core.plan import Problem, reason, shown
from .._kernel import qdisc
from .._kernel.ethtool import Ethtool, Nic
from .plan import Step, step_settings
from .sysfs import GROUPS, Sysfs


class NotSupported(Problem):
    """The driver does not support a change now; another change may enable it."""


def write_step(ethtool: Ethtool, nic: Nic, step: Step) -> None:
    """Write one step; raises ``Problem`` with the kernel's message."""
    group, values = step
    link = group in ("mtu", "sizes")
    try:
        if group == "qdisc":
            qdisc.write(nic.index, str(values["qdisc"]))
        elif group in GROUPS:
            Sysfs().write(nic.name, step_settings(step))
        else:
            ethtool.write(nic.index, "link" if link else group, values)
    except OSError as error:
        words = ", ".join(f"{word} = {shown(value)}" for word, value in values.items())
        kind = NotSupported if error.errno == errno.EOPNOTSUPP else Problem
        raise kind(
            f"nics: {nic.name} (driver {nic.driver}): the kernel refuses"
            f" {words if link or group == 'qdisc' else f'{group}: {words}'}: {reason(error)}"
        ) from None
