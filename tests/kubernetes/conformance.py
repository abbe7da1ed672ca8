# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a third-party suite on a new cluster: specs of Kubernetes' own end-to-end suite, or cyclonus.

Usage: python3 -m tests.kubernetes.conformance [OPTIONS] REPORT

Writes the results of all cases to REPORT, and the suite's output to a file .log beside it. Exits with an
error if a case failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from lablib import common

from tests.kubernetes.cluster import build, cyclonus, e2e
from tests.kubernetes.cluster.cluster import Cluster, checkout_name
from tests.support.policy_lab import has_sctp

# Specs of the end-to-end suite by suite
FOCUS = {
    "conformance": r"\[sig-network\].*\[Conformance\]",
    "policies": r"\[sig-network\] Netpol",
    "services": r"\[sig-network\] (Services|Networking Granular Checks|.*Granular Checks: Services)",
}
CYCLONUS = "cyclonus"
# Specs that restart programs by SSH, or that need a cloud's load balancer
SKIP = r"\[Disruptive\]|\[Feature:LoadBalancer\]"
SCTP = r"\[Feature:SCTPConnectivity\]"
KUBECONFIG = "/etc/kubernetes/admin.conf"
JUNIT = "/tmp/junit.xml"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.kubernetes.conformance", description=__doc__)
    parser.add_argument("--suite", choices=(*FOCUS, CYCLONUS), default="conformance")
    parser.add_argument("--cni", default="podnet")
    parser.add_argument("--version", default=build.KUBERNETES)
    parser.add_argument("--focus", default="", help="specs to run instead of those of the suite")
    parser.add_argument("report", type=Path)
    options = parser.parse_args()
    cluster = Cluster(checkout_name("conformance"), options.version)
    try:
        layers = e2e.layers(options.version)
        cluster.up(options.cni, [*layers, *([cyclonus.layer()] if options.suite == CYCLONUS else ())])
        options.report.parent.mkdir(parents=True, exist_ok=True)
        log = options.report.with_suffix(".log")
        if options.suite == CYCLONUS:
            results = run_cyclonus(cluster, log)
        else:
            results = run_specs(cluster, options.focus or FOCUS[options.suite], log)
    except common.LabError as error:
        sys.exit(f"error: {error}")
    finally:
        cluster.down()
    passed = sum(results.values())
    summary = (
        f"Kubernetes {options.version}, CNI {options.cni}, {options.suite}: {passed} of {len(results)} passed"
    )
    lines = [f"{'passed' if results[name] else 'FAILED'}  {name}" for name in sorted(results)]
    options.report.write_text("\n".join([summary, *lines]) + "\n")
    print("\n".join([*(line for line in lines if line.startswith("FAILED")), summary]))
    print(f"Report: {options.report}")
    sys.exit(passed < len(results))


def run_specs(cluster: Cluster, focus: str, log: Path) -> dict[str, bool]:
    """Run the specs that match an expression; return whether each one passed."""
    e2e.tag_images(cluster.nodes)
    skip = SKIP if has_sctp() else f"{SKIP}|{SCTP}"
    command = (
        *(e2e.PROGRAM, "--provider=skeleton", f"--kubeconfig={KUBECONFIG}"),
        *(f"--num-nodes={len(cluster.nodes)}", "--disable-log-dump"),
        *("--ginkgo.no-color", "--ginkgo.succinct"),
        *(f"--ginkgo.focus={focus}", f"--ginkgo.skip={skip}", f"--ginkgo.junit-report={JUNIT}"),
    )
    return {
        case.get("name", "").removeprefix("[It] "): case.get("status") == "passed"
        for case in _run(cluster, command, log)
        if case.get("name", "").startswith("[It]") and case.get("status") != "skipped"
    }


def run_cyclonus(cluster: Cluster, log: Path) -> dict[str, bool]:
    """Run all cases of cyclonus; return whether each one passed, by its number and description."""
    cyclonus.tag_image(cluster.nodes)
    protocols = "TCP,UDP,SCTP" if has_sctp() else "TCP,UDP"
    command = (
        *(cyclonus.PROGRAM, "generate", "--exclude=", f"--server-protocol={protocols}"),
        *("--perturbation-wait-seconds=2", "--job-timeout-seconds=2", "--retries=0"),
        *("--pod-creation-timeout-seconds=180", f"--junit-results-file={JUNIT}"),
        # A Pod that connects to its own service reaches itself inside of its namespace, and "a Pod cannot
        # block access to itself" (kubernetes.io/docs, "Network Policies").
        "--ignore-loopback",
    )
    names: Counter[str] = Counter()
    results = {}
    for case in _run(cluster, command, log):
        name = case.get("name", "")
        names[name] += 1
        results[f"{name} ({names[name]})"] = case.find("failure") is None
    return results


def _run(cluster: Cluster, command: Sequence[str], log: Path) -> list[ElementTree.Element]:
    """Run a suite on the control plane; return the cases of its report. ``log`` gets its output."""
    control = cluster.control
    control.write(KUBECONFIG, cluster.server.kubeconfig(), 0o600)
    with common.step(command[0], 480), log.open("w") as output:
        entered = control.enter(f"KUBECONFIG={KUBECONFIG}", *command)
        subprocess.run(entered, stdout=output, stderr=output, check=False)
    report = control.path(JUNIT)
    if not report.exists():
        raise common.LabError(f"the suite ended without a report: {common.tail(log)}")
    return list(ElementTree.parse(report).iter("testcase"))


main()
