# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parameters of a run, from the environment, and its results."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

from tests.support.kernel_log import Log

KERNEL = os.environ.get("PODNET_KERNEL", "6.1")
MINUTES = float(os.environ.get("PODNET_MINUTES") or 10)
SEED = int(os.environ.get("PODNET_SEED") or random.randrange(1 << 32))
# Checks that cannot run in this kernel, with the reason.
EXCLUDED = {"netpoll_is_refused": "needs netconsole as a module, but this kernel has no module tree"}


@dataclass
class Run:
    """Results of a boot with the driver."""

    log: Log
    checks: dict[str, str]
    operations: dict[str, object]
