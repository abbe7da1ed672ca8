# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the driver's checks on a node.

usage: driver_checks meta.ko driver.bpf.o [CHECK...]

Each check has its own namespaces (the host's, two Pods', one behind a wire) and fails if the kernel logs a
complaint.
"""

from __future__ import annotations

import contextlib
import sys
from functools import partial

from tests.driver import (
    driver_checks_device,
    driver_checks_headers,
    driver_checks_lifetime,
    driver_checks_owner,
    driver_checks_redirect,
    driver_checks_refusal,
)
from tests.support import driver_node as node
from tests.support import node_checks
from tests.support.driver_node import Programs, run
from tests.support.driver_topology import CHECKS, Topology

# Importing them registers their checks.
SUBJECTS = (
    driver_checks_device,
    driver_checks_redirect,
    driver_checks_headers,
    driver_checks_owner,
    driver_checks_refusal,
    driver_checks_lifetime,
)
REMOVAL = "module_is_removed_without_complaints"  # runs after all others


def main() -> None:
    module, objects = sys.argv[1:3]
    complaints = node.watch_kernel_log()

    def check(name: str) -> None:
        with contextlib.closing(Topology(module, programs)) as topology:
            CHECKS[name](topology)

    run("insmod", module)
    programs = Programs(objects)
    for name in sys.argv[3:] or CHECKS:
        outcome = node_checks.run(partial(check, name))
        outcome.failure += complaints()
        node_checks.report(name, outcome)
    programs.close()
    run("rmmod", "meta")
    node_checks.report(REMOVAL, node_checks.Outcome(complaints()))


if __name__ == "__main__":
    main()
