# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure what services and policies cost per transaction, in one emulated guest (see bench.py).

Prints transactions per 10^9 instructions, and shares of those without services and policies. Fails if a share
is below its minimum. Writes reports/icount/services-<kernel>.json.

usage: python3 -m bench.icount.services [--kernel 6.12] [--driver meta] [--paths cross,local]
"""

from __future__ import annotations

import argparse
from typing import Any

from lablib import recipe

from bench.icount.bench import measure

TITLES = {
    "rr": "TCP_RR",
    "crr": "TCP_CRR",
    "udp_rr": "UDP_RR",
    "udp_rr_unconnected": "UDP_RR, unconnected sockets",
}
TESTS = tuple(TITLES)
SERVICES = 1000
DIRECT, FEW = "direct, nothing declared", "direct, policy of 10 rules"
CASES: list[dict[str, Any]] = [
    {"name": DIRECT},
    {"name": f"direct, {SERVICES} services", "services": SERVICES, "sockets": True},
    {"name": f"by a service of {SERVICES}", "services": SERVICES, "sockets": True, "by_service": True},
    {"name": FEW, "rules": 10},
    {"name": "direct, policy of 1,000 rules", "rules": 1000},
    # The last one, because packets of Pods that had a translated connection look for one.
    {"name": f"by a service of {SERVICES}, per packet", "services": SERVICES, "by_service": True},
]
# Minimal shares of a case, by test
MINIMA = {
    f"by a service of {SERVICES}": (DIRECT, {"rr": 0.995, "crr": 0.98, "udp_rr": 0.995}),
    f"direct, {SERVICES} services": (DIRECT, {"rr": 0.995, "crr": 0.98, "udp_rr": 0.995}),
    "direct, policy of 1,000 rules": (FEW, dict.fromkeys(TESTS, 0.98)),
}


def report(found: list[dict[str, Any]], paths: list[str]) -> tuple[list[str], list[str]]:
    """Return a Markdown table and its failures."""
    value = {(r["case"], r["path"], r["test"]): r["median"] for r in found if r["kind"] == "result"}
    columns = [(path, test) for path in paths for test in TESTS]
    lines = [
        "| case | " + " | ".join(f"{path} {TITLES[test]}" for path, test in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for case in CASES:
        cells = []
        for column in columns:
            one, base = value[(case["name"], *column)], value[(DIRECT, *column)]
            cells.append(f"{one:,.0f} ({one / base:.3f})")
        lines.append(f"| {case['name']} | {' | '.join(cells)} |")
    failures = [
        f"{name}, {path} {TITLES[test]}: {share:.4f} of {base!r} is less than {minimum}"
        for name, (base, minima) in MINIMA.items()
        for test, minimum in minima.items()
        for path in paths
        if (share := value[name, path, test] / value[base, path, test]) < minimum
    ]
    return lines, failures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", default="6.12", choices=recipe.KERNELS)
    parser.add_argument("--driver", default="meta", choices=("meta", "netkit", "veth"))
    parser.add_argument("--paths", default="cross,local")
    options = parser.parse_args()
    paths = options.paths.split(",")
    plan = {"driver": options.driver, "cases": CASES, "paths": paths, "tests": TESTS}
    file = f"services-{options.kernel}"
    release, found = measure(options.kernel, "bench.icount.services_node", plan, file)
    failed = [f"{one['error']}\n{one['trace']}" for one in found if one["kind"] == "failed"]
    if failed:
        raise SystemExit("\n".join(failed))
    print(f"Kernel {release}, {options.driver}: transactions per 10^9 instructions (share of {DIRECT!r})\n")
    lines, failures = report(found, paths)
    print("\n".join(lines))
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
