# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Start or remove a cluster."""

from __future__ import annotations

import argparse
import os
import sys

from lablib import common

from tests.kubernetes.cluster import build
from tests.kubernetes.cluster.cluster import CNIS, Cluster


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.kubernetes.cluster", description=__doc__)
    parser.add_argument("state", choices=("up", "down"))
    parser.add_argument("--name", default="kube", help="name of the cluster (default: %(default)s)")
    parser.add_argument("--version", default=build.KUBERNETES, help="release of Kubernetes (%(default)s)")
    parser.add_argument("--cni", default="podnet", help=f"{', '.join(sorted(CNIS))} (default: %(default)s)")
    options = parser.parse_args()
    cluster = Cluster(options.name, options.version)
    if options.state == "down":
        cluster.down()
        return
    try:
        cluster.up(options.cni)
    except common.LabError as error:
        sys.exit(f"error: {error}\n`make kube-down` removes what was started.")
    print(cluster.kubectl("get", "nodes,pods", "-A", "-o", "wide"))
    sudo = "sudo " if "SUDO_USER" in os.environ else ""
    print("The cluster runs until `make kube-down`. Use it with:\n")
    print(f"    alias kubectl='{sudo}{cluster.folder}/kubectl'")


main()
