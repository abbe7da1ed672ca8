# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure how long a node takes to start many Pods at once, beside Pods that need no CNI plugin.

Pods with hostNetwork need none, so the ratio is the plugin's share. Prints a Markdown table.

usage: python3 -m bench.kubernetes.pods [--count 100] [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import time

from tests.kubernetes.cluster.cluster import Cluster, checkout_name
from tests.kubernetes.cluster.deployment import deployment

KINDS = {"hostNetwork, no plugin": True, "podnet": False}


def manifest(count: int, node: str, host_network: bool) -> str:
    """Return a Deployment whose Pods run on one node."""
    pod = {"nodeSelector": {"kubernetes.io/hostname": node}, "hostNetwork": host_network}
    return deployment("bench", count, ["pause"], pod=pod)


def measure(cluster: Cluster, count: int, host_network: bool) -> float:
    """Return the seconds until all Pods are available; remove them afterwards."""
    began = time.monotonic()
    cluster.kubectl("apply", "-f", "-", given=manifest(count, cluster.nodes[0].name, host_network))
    cluster.kubectl("rollout", "status", "deployment/bench", "--timeout=600s")
    took = time.monotonic() - began
    cluster.kubectl("delete", "deployment", "bench", "--wait", "--cascade=foreground")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cluster = Cluster(checkout_name("bench"))
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    try:
        cluster.up("podnet")
        for _round in range(options.rounds):
            for kind, host_network in KINDS.items():
                found[kind].append(measure(cluster, options.count, host_network))
    finally:
        cluster.down()
    medians = {kind: statistics.median(seconds) for kind, seconds in found.items()}
    base = medians["hostNetwork, no plugin"]
    print("| Pods | seconds until available, median | ratio |\n|---|---|---|")
    for kind, median in medians.items():
        print(f"| {options.count}, {kind} | {median:.1f} | {median / base:.2f} |")


if __name__ == "__main__":
    main()
