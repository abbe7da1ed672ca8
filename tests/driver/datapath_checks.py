# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies and services on a node, on Pods of other kinds.

``datapath_checks.py meta.ko datapath.o EVERY KIND...``; EVERY is 1 for all checks, 2 for every second one.
Prints a JSON object for each check of policy_checks.py: its name with the kind of device, and what went wrong
("" for nothing). The collection and the files of tests/datapath lie beside this file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import traceback

from namespaces import Namespaces
from policy_checks import CHECKS
from policy_lab import Lab

BPFFS = "/sys/fs/bpf"


def check(kind: str, datapath_object: str, every: int) -> None:
    driver, dummy, mode = kind.partition("-")
    namespaces = Namespaces()
    try:
        lab = Lab(namespaces, BPFFS, datapath_object, driver, mode or "l3")
        try:
            for name in list(CHECKS)[::every]:
                failure = ""
                try:
                    CHECKS[name](lab)
                except Exception:
                    failure = traceback.format_exc()
                print(json.dumps({"check": f"{kind}: {name}", "failure": failure}), flush=True)
        finally:
            lab.close()
    finally:
        namespaces.delete()


def main() -> None:
    module, datapath_object, every, *kinds = sys.argv[1:]
    subprocess.run(["insmod", module], check=True)
    subprocess.run(["modprobe", "sctp"], check=True)
    for kind in kinds:
        check(kind, datapath_object, int(every))
    subprocess.run(["rmmod", "meta"], check=True)


if __name__ == "__main__":
    main()
