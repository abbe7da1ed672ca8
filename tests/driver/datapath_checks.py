# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the checks of policies and services on a node, on the devices that only a node has.

usage: datapath_checks meta.ko datapath.o EVERY KIND...

KIND is a driver, or a driver and a mode (``netkit-l2``); EVERY is 1 for all checks, 2 for every second one. A
check's name begins with the kind.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from tests.support import node_checks
from tests.support.namespaces import Namespaces
from tests.support.pod_nodes import Devices
from tests.support.policy_lab import Lab
from tests.support.stack_nat_checks import CHECKS

BPFFS = "/sys/fs/bpf"


def check_kind(kind: str, datapath_object: str, every: int) -> None:
    """Run the checks on Pods with devices of a kind."""
    driver, dummy, mode = kind.partition("-")
    namespaces = Namespaces()
    try:
        lab = Lab(namespaces, BPFFS, datapath_object, Devices(driver, mode or "l3"))
        try:
            for name in list(CHECKS)[::every]:
                node_checks.report(f"{kind}: {name}", node_checks.run(partial(CHECKS[name], lab)))
        finally:
            lab.close()
    finally:
        namespaces.delete()


def main() -> None:
    module, datapath_object, every, *kinds = sys.argv[1:]
    subprocess.run(["insmod", module], check=True)
    subprocess.run(["modprobe", "sctp"], check=True)
    for kind in kinds:
        check_kind(kind, datapath_object, int(every))
    subprocess.run(["rmmod", "meta"], check=True)


if __name__ == "__main__":
    main()
