# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run specs of Kubernetes' own end-to-end suite on a new cluster.

Usage: python3 -m tests.kubernetes.conformance [--cni CNI] [--version RELEASE] [--focus REGEX] REPORT

Writes the results of all specs to REPORT, and their output to a file .log beside it. Exits with an error if a
spec failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from lablib import common

from tests.kubernetes.cluster import build, e2e
from tests.kubernetes.cluster.cluster import Cluster, checkout_name

FOCUS = r"\[sig-network\].*\[Conformance\]"
JUNIT = "/tmp/junit.xml"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.kubernetes.conformance", description=__doc__)
    parser.add_argument("--cni", default="podnet")
    parser.add_argument("--version", default=build.KUBERNETES)
    parser.add_argument("--focus", default=FOCUS, help="specs to run (default: %(default)s)")
    parser.add_argument("report", type=Path)
    options = parser.parse_args()
    cluster = Cluster(checkout_name("conformance"), options.version)
    try:
        cluster.up(options.cni, e2e.layers(options.version))
        e2e.tag_images(cluster.nodes)
        options.report.parent.mkdir(parents=True, exist_ok=True)
        results = run(cluster, options.focus, options.report.with_suffix(".log"))
    except common.LabError as error:
        sys.exit(f"error: {error}")
    finally:
        cluster.down()
    passed = sum(results.values())
    summary = f"Kubernetes {options.version}, CNI {options.cni}: {passed} of {len(results)} passed"
    lines = [f"{'passed' if results[name] else 'FAILED'}  {name}" for name in sorted(results)]
    options.report.write_text("\n".join([summary, *lines]) + "\n")
    print("\n".join([*(line for line in lines if line.startswith("FAILED")), summary]))
    print(f"Report: {options.report}")
    sys.exit(passed < len(results))


def run(cluster: Cluster, focus: str, log: Path) -> dict[str, bool]:
    """Run the specs that match an expression, with their output in a log; return whether each one passed."""
    control = cluster.control
    control.write("/etc/kubernetes/admin.conf", cluster.server.kubeconfig(), 0o600)
    command = control.enter(
        *("KUBECONFIG=/etc/kubernetes/admin.conf", e2e.PROGRAM, "--provider=skeleton"),
        *("--kubeconfig=/etc/kubernetes/admin.conf", f"--num-nodes={len(cluster.nodes)}"),
        *("--disable-log-dump", "--ginkgo.no-color", "--ginkgo.succinct", f"--ginkgo.focus={focus}"),
        f"--ginkgo.junit-report={JUNIT}",
    )
    with common.step("end-to-end suite", 480), log.open("w") as output:
        subprocess.run(command, stdout=output, stderr=output, check=False)
    report = control.path(JUNIT)
    if not report.exists():
        raise common.LabError(f"the suite ended without a report: {common.tail(log)}")
    cases = ElementTree.parse(report).iter("testcase")
    return {
        case.get("name", "").removeprefix("[It] "): case.get("status") == "passed"
        for case in cases
        if case.get("name", "").startswith("[It]") and case.get("status") != "skipped"
    }


main()
