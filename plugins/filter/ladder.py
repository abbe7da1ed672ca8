# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: ladder
short_description: Summarize the runs of a benchmark
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Takes the runs that M(podnet.datapath.netperf_ladder) returned. For each rung and test, returns the
    samples with median, minimum and maximum, their variation, and the ratios to the first rung of the group
    and to the previous rung.
  - A ratio is the median of the ratios within each round, so that drift between rounds cancels out.
  - Ignores warm-up runs.
positional: rungs
options:
  _input:
    description: Runs as in RV(podnet.datapath.netperf_ladder#module:runs).
    type: list
    elements: dict
    required: true
  rungs:
    description:
      - The rungs in the order of the ladder, each with at least C(group) and C(name). Other keys are copied
        to the result.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the median of each rung
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.tests.tcp_rr.metrics.transactions.median }} transactions/s"
  loop: "{{ (measured.runs | podnet.datapath.ladder(rungs)).0.rungs }}"
"""

RETURN = r"""
_value:
  description: Groups with their rungs.
  type: list
  elements: dict
  sample:
    - name: wire
      rungs:
        - name: host
          tests:
            tcp_stream:
              primary_metric: mbits
              metrics:
                mbits: {samples: [101.0, 99.0, 100.0], median: 100.0, min: 99.0, max: 101.0}
              variation: 0.01
              ratio_to_first: 1.0
              ratio_to_previous: null
"""

import statistics
from typing import Any

from ansible.errors import AnsibleFilterError

# The metric of each test for which variation and ratios are computed; higher is better.
PRIMARY_METRICS = {"tcp_rr": "transactions", "tcp_stream": "mbits"}
# Keys of a run that are not metrics.
NOT_METRICS = ("round", "warmup", "group", "rung", "test", "start", "elapsed")


def summarize_samples(samples: list[float]) -> dict[str, Any]:
    """Return the samples with their median, minimum and maximum."""
    return {
        "samples": samples,
        "median": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
    }


def variation(samples: list[float]) -> float:
    """Return half the range relative to the median: 0.1 means ±10 %."""
    return round((max(samples) - min(samples)) / 2 / statistics.median(samples), 4)


def median_ratio(runs: list[dict[str, Any]], reference: list[dict[str, Any]], metric: str) -> float | None:
    """Return the median of the ratios within the common rounds, or None if there is no common round."""
    other = {run["round"]: run[metric] for run in reference}
    ratios = [run[metric] / other[run["round"]] for run in runs if other.get(run["round"])]
    return round(statistics.median(ratios), 4) if ratios else None


def ladder(runs: list[dict[str, Any]], rungs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups with the summary of each rung, in the order in which ``rungs`` introduces them."""
    samples: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        if not run["warmup"]:
            samples.setdefault((run["group"], run["rung"], run["test"]), []).append(run)
    groups: dict[str, list[dict[str, Any]]] = {}
    for rung in rungs:
        try:
            groups.setdefault(rung["group"], []).append(rung)
        except (KeyError, TypeError) as e:
            raise AnsibleFilterError(f"ladder: rung {rung!r} lacks 'group' or 'name'") from e
    result = []
    for group, members in groups.items():
        summaries = []
        for position, rung in enumerate(members):
            tests = {}
            for test, metric in PRIMARY_METRICS.items():
                own = samples.get((group, rung["name"], test))
                if not own:
                    continue
                first = samples.get((group, members[0]["name"], test), [])
                previous = samples.get((group, members[position - 1]["name"], test), []) if position else []
                tests[test] = {
                    "primary_metric": metric,
                    "metrics": {
                        name: summarize_samples([run[name] for run in own])
                        for name in own[0]
                        if name not in NOT_METRICS
                    },
                    "variation": variation([run[metric] for run in own]),
                    "ratio_to_first": median_ratio(own, first, metric),
                    "ratio_to_previous": median_ratio(own, previous, metric),
                }
            summaries.append({**rung, "tests": tests})
        result.append({"name": group, "rungs": summaries})
    return result


class FilterModule:
    """Ansible filter plugin."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by its name."""
        return {"ladder": ladder}
