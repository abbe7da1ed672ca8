# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a third-party suite on a new cluster: specs of Kubernetes' own end-to-end suite, or cyclonus.

Usage: python3 -m tests.kubernetes.conformance [OPTIONS] REPORT

Writes the results of all cases to REPORT, and the suite's output to a file .log beside it. Exits with an
error if a case failed, or if one was skipped that tests/kubernetes/suites.py does not exclude.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from lablib import common

from tests.kubernetes import suites
from tests.kubernetes.cluster import build, cyclonus, e2e
from tests.kubernetes.cluster.cluster import AnyCluster, Cluster, checkout_name
from tests.kubernetes.cluster.lab_cluster import LabCluster
from tests.support.policy_lab import has_sctp

KUBECONFIG = "/etc/kubernetes/admin.conf"
FOLDER, JUNIT = "/tmp", "junit.xml"
NODES = 3  # each is a zone; specs of topology hints require three
ZONE = "topology.kubernetes.io/zone"
PROCESSES = 4  # specs at the same time: most of the time, they wait
PASSED, FAILED, SKIPPED = "passed", "FAILED", "skipped"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.kubernetes.conformance", description=__doc__)
    parser.add_argument("--suite", choices=suites.SUITES, default="conformance")
    parser.add_argument("--cni", default="podnet")
    parser.add_argument(
        "--kernel", default="", help="of nodes in guests; by default this computer is all nodes"
    )
    parser.add_argument(
        "--driver", default="veth", help="of the Pods in guests; meta,netkit: one driver for each node"
    )
    parser.add_argument("--version", default=build.KUBERNETES)
    parser.add_argument("--focus", default="", help="specs to run instead of those of the suite")
    parser.add_argument("report", type=Path)
    options = parser.parse_args()
    options.report.parent.mkdir(parents=True, exist_ok=True)
    log = options.report.with_suffix(".log")
    layers = e2e.layers(options.version)
    cluster: AnyCluster
    start: Callable[[], None]
    if options.kernel:
        replaces = options.cni == "podnet-services"
        given = {"cni_kube_proxy": "replace", "cni_stack_services": []} if replaces else {}
        cluster = guests = LabCluster(options.kernel, options.driver, options.version, "suites", **given)
        start = partial(guests.up, layers)
    else:
        more = [cyclonus.layer()] if options.suite == suites.CYCLONUS else []
        cluster = machines = Cluster(checkout_name("conformance"), options.version, NODES)
        start = partial(machines.up, options.cni, [*more, *layers])
    try:
        start()
        if options.suite == suites.CYCLONUS:
            results = run_cyclonus(cluster, log)
        else:
            results = run_specs(cluster, options.suite, options.focus, log)
        if not results:
            raise common.LabError(f"no case ran, see {log}: --focus {options.focus!r} may match none")
    except common.LabError as error:
        sys.exit(f"error: {error}")
    finally:
        cluster.down()
    where = f"CNI {options.cni}" + (f", {options.driver} on {options.kernel}" if options.kernel else "")
    counts = Counter(results.values())
    summary = (
        f"Kubernetes {options.version}, {where}, {options.suite}: {counts[PASSED]} of {len(results)} passed"
    )
    lines = [f"{results[name]}  {name}" for name in sorted(results)]
    options.report.write_text("\n".join([summary, *lines]) + "\n")
    print("\n".join([*(line for line in lines if not line.startswith(PASSED)), summary]))
    print(f"Report: {options.report}")
    sys.exit(counts[PASSED] < len(results))


def run_specs(cluster: AnyCluster, suite: str, focus: str, log: Path) -> dict[str, str]:
    """Run the specs of a suite, or those that ``focus`` matches; return the result of each one."""
    for number, node in enumerate(cluster.nodes):
        cluster.kubectl("label", "node", node.name, f"{ZONE}=zone{number}")
    e2e.tag_images(cluster.control, cluster.nodes)
    expression, others = suites.SPECS[suite]
    native = isinstance(cluster, Cluster)
    applies = {
        suites.ALL: True,
        suites.WITHOUT_PROXY: not cluster.proxy,
        suites.WITHOUT_SCTP: native and not has_sctp(),
        suites.TWO_NODES: not native,
    }
    skip = [*others, *(name for kind, some in suites.EXCLUDED.items() if applies[kind] for name in some)]
    command = (
        *(e2e.RUNNER, f"--procs={PROCESSES}", "--timeout=4h", "--no-color", "--succinct", "--silence-skips"),
        *(f"--focus={focus or expression}", f"--skip={suites.skip_expression(skip)}"),
        *(f"--output-dir={FOLDER}", f"--junit-report={JUNIT}", f"/{build.BIN}/{e2e.PROGRAM}", "--"),
        *("--provider=skeleton", f"--kubeconfig={KUBECONFIG}"),
        *(f"--num-nodes={len(cluster.nodes)}", "--disable-log-dump"),
    )
    results = {}
    for case in _run(cluster, command, log):
        name = case.get("name", "").removeprefix("[It] ")
        skipped = case.find("skipped")
        reason = "" if skipped is None else skipped.get("message", "")
        # A spec that the command does not select has no reason.
        if name != case.get("name", "") and reason in ("", "skipped"):
            if skipped is None:
                results[name] = PASSED if case.get("status") == "passed" else FAILED
        elif reason:
            results[f"{name}: {reason}"] = SKIPPED
    return results


def run_cyclonus(cluster: AnyCluster, log: Path) -> dict[str, str]:
    """Run all cases of cyclonus; return the result of each one by its number and description."""
    cyclonus.tag_image(cluster.nodes)
    protocols = "TCP,UDP,SCTP" if has_sctp() else "TCP,UDP"
    command = (
        *(cyclonus.PROGRAM, "generate", "--exclude=", f"--server-protocol={protocols}"),
        # Denied connections take the timeout, which is most of the time. On a busy computer, allowed ones may
        # exceed it, too; then all connections of the case are tried again.
        *("--perturbation-wait-seconds=1", "--job-timeout-seconds=1", "--retries=2"),
        *("--pod-creation-timeout-seconds=180", f"--junit-results-file={FOLDER}/{JUNIT}"),
        # A Pod that connects to its own service reaches itself inside of its namespace, and "a Pod cannot
        # block access to itself" (kubernetes.io/docs, "Network Policies").
        "--ignore-loopback",
    )
    names: Counter[str] = Counter()
    results = {}
    for case in _run(cluster, command, log):
        name = case.get("name", "")
        names[name] += 1
        results[f"{name} ({names[name]})"] = PASSED if case.find("failure") is None else FAILED
    return results


def _run(cluster: AnyCluster, command: Sequence[str], log: Path) -> list[ElementTree.Element]:
    """Run a suite on the control plane; return the cases of its report. ``log`` gets its output."""
    control = cluster.control
    control.write(KUBECONFIG, cluster.server.kubeconfig(), 0o600)
    with common.step(command[0], 480), log.open("w") as output:
        entered = control.enter(f"KUBECONFIG={KUBECONFIG}", *command)
        subprocess.run(entered, stdout=output, stderr=output, check=False)
    report = control.path(f"{FOLDER}/{JUNIT}")
    if not report.exists():
        raise common.LabError(f"the suite ended without a report: {common.tail(log)}")
    return list(ElementTree.parse(report).iter("testcase"))


main()
