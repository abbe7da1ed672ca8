# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is asked of a run, from the environment, and what it leaves."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass

from tests.support.kernel_log import Log

KERNEL = os.environ.get("PODNET_KERNEL", "6.1")
MINUTES = float(os.environ.get("PODNET_MINUTES") or 10)
SEED = int(os.environ.get("PODNET_SEED") or random.randrange(1 << 32))
# By name: why a check cannot run here.
UNFIT = {"netpoll_is_refused": "netconsole is a module that a test loads by its name; here is no module tree"}


@dataclass
class Run:
    """What a boot with the driver left."""

    log: Log
    checks: dict[str, str]
    operations: dict[str, object]
