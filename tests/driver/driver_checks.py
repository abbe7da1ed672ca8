# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The driver's checks, run on a node: ``driver_checks.py meta.ko driver.bpf.o [CHECK...]``.

Prints a JSON object for each check: its name, what went wrong ("" for nothing) and its seconds. Every check
begins with namespaces of its own (the host's, two Pods', one behind a wire) and ends with the kernel's log.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback

import driver_checks_device
import driver_checks_lifetime
import driver_checks_owner
import driver_checks_redirect
import driver_checks_refusal
import driver_node as node
from driver_node import Programs, run
from driver_world import CHECKS, World

# Each has entered its checks into CHECKS.
SUBJECTS = (
    driver_checks_device,
    driver_checks_redirect,
    driver_checks_owner,
    driver_checks_refusal,
    driver_checks_lifetime,
)
REMOVAL = "the_module_leaves_nothing_behind"  # the last, when all others are done


def report(name: str, failure: str, seconds: float) -> None:
    print(json.dumps({"check": name, "failure": failure, "seconds": round(seconds, 1)}), flush=True)


def main() -> None:
    module, objects = sys.argv[1:3]
    complaints = node.kernel_messages()
    run("insmod", module)
    programs = Programs(objects)
    for name in sys.argv[3:] or CHECKS:
        failure = ""
        start = time.monotonic()
        try:
            with contextlib.closing(World(module, programs)) as world:
                CHECKS[name](world)
        except Exception:
            failure = traceback.format_exc()
        report(name, failure + complaints(), time.monotonic() - start)
    programs.close()
    run("rmmod", "meta")
    report(REMOVAL, complaints(), 0)


if __name__ == "__main__":
    main()
