# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure the programs' instructions per packet by feature and scale, and their rate limits, in a guest.

As in bench.py, a nanosecond of the guest is one instruction, so results are the same on every machine. Costs
are those of the programs, by BPF_PROG_TEST_RUN; rates are those of streams between Pods on meta. Fails if a
cost grows with scale, a rate is missed or a packet is lost. Writes reports/icount/datapath-<kernel>.json.

At 390 Mbit/s the sender of datagrams takes all of the guest's processor, so rates have to be lower.

usage: python3 -m bench.icount.datapath [--kernel 6.12] [--scales 2,1000] [--rates 20,100]
"""

from __future__ import annotations

import argparse
from typing import Any

from lablib import recipe

from bench.icount.bench import measure

FLAT = 0.02  # allowed growth, relative to the cost of the smallest scale
KEPT = 0.05  # allowed deviation from the requested rate

Found = list[dict[str, Any]]


def of_kind(found: Found, kind: str) -> Found:
    return [one for one in found if one["kind"] == kind]


def costs(found: Found) -> tuple[list[str], list[str]]:
    """Return a Markdown table and its failures."""
    by_scale: dict[tuple[str, str], Found] = {}
    for one in of_kind(found, "cost"):
        by_scale.setdefault((one["feature"], one["path"]), []).append(one)
    lines = [
        "| feature | to | Pods | policy entries | first packet | following packets, mean |",
        "|---|---|---:|---:|---:|---:|",
    ]
    failures = []
    for (feature, path), ones in by_scale.items():
        for one in ones:
            shares = {of: one[of] / ones[0][of] for of in ("first", "following")}
            cells = [
                f"{one[of]:,.0f}" + (f" ({share:.3f})" if one is not ones[0] else "")
                for of, share in shares.items()
            ]
            lines.append(f"| {feature} | {path} | {one['pods']} | {one['entries']} | {' | '.join(cells)} |")
            failures += [
                f"{feature}, {path}, {of}: {share:.3f} times as many instructions with {one['pods']} Pods"
                for of, share in shares.items()
                if share > 1 + FLAT
            ]
    return lines, failures


def rates(found: Found) -> tuple[list[str], list[str]]:
    """Return a Markdown table and its failures."""
    lines = [
        "| requested, Mbit/s | stream | on the wire, Mbit/s | share of requested | lost |",
        "|---:|---|---:|---:|---:|",
    ]
    failures = []
    for one in of_kind(found, "rate"):
        share = one["measured"] / one["requested"]
        name = f"{one['protocol']} IPv{one['family']}"
        lost = one["lost"] + one["dropped"]
        lines.append(f"| {one['requested']} | {name} | {one['measured']:.1f} | {share:.3f} | {lost} |")
        if abs(share - 1) > KEPT or lost:
            failures.append(lines[-1])
    return lines, failures


def latencies(found: Found) -> tuple[list[str], list[str]]:
    """Return a Markdown table and its failures: packets lost by pacing."""
    lines = [
        "| Mbit/s | shaper | segment size | ping beside 4 streams, median ms | p99 ms | retransmits |",
        "|---:|---|---|---:|---:|---:|",
    ]
    failures = []
    for one in of_kind(found, "latency"):
        cells = (
            one["requested"],
            one["shaper"],
            one["segments"],
            f"{one['median']:.2f}",
            f"{one['p99']:.2f}",
        )
        lines.append(f"| {' | '.join(map(str, cells))} | {one['lost']} |")
        if one["shaper"].startswith("programs") and one["lost"]:
            failures.append(lines[-1])
    return lines, failures


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kernel", default="6.12", choices=recipe.KERNELS)
    parser.add_argument("--scales", default="2,1000", type=numbers)
    parser.add_argument("--rates", default="20,100", type=numbers)
    options = parser.parse_args()

    plan = {"scales": options.scales, "rates": options.rates}
    file = f"datapath-{options.kernel}"
    release, found = measure(options.kernel, "bench.icount.datapath_node", plan, file)
    print(f"Kernel {release}: instructions of the programs\n")
    failures = [f"{one['error']}\n{one['trace']}" for one in of_kind(found, "failed")]
    for part in (costs, rates, latencies):
        lines, problems = part(found)
        print("\n".join(lines) + "\n")
        failures += problems
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
