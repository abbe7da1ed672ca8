# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: ladder
short_description: Sum up the runs of a benchmark as a ladder
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Takes the runs that M(podnet.datapath.netperf_ladder) returned and gives, for each rung and test, the
    samples with their median, smallest and largest value, half their range as a part of the median, and the
    ratio to the first rung of the group and to the rung before it.
  - A ratio is the median of the ratios within each round, so that drift of the machine from round to round
    cancels out.
  - Discarded runs do not count.
positional: rungs
options:
  _input:
    description: RV(podnet.datapath.netperf_ladder#module:runs) of the module.
    type: list
    elements: dict
    required: true
  rungs:
    description:
      - The rungs in the order of the ladder, at least C(group) and C(name) of each. What else they hold is
        kept in the result.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: The median of each rung
  ansible.builtin.debug:
    msg: "{{ item.name }}: {{ item.tests.tcp_rr.metrics.transactions.median }} transactions a second"
  loop: "{{ (measured.runs | podnet.datapath.ladder(rungs)).0.rungs }}"
"""

RETURN = r"""
_value:
  description: A list of groups, each with its rungs.
  type: list
  elements: dict
  sample:
    - name: wire
      rungs:
        - name: host
          tests:
            tcp_stream:
              headline: mbits
              metrics:
                mbits: {samples: [101.0, 99.0, 100.0], median: 100.0, min: 99.0, max: 101.0}
              variation: 0.01
              of_first: 1.0
              of_previous: null
"""

import statistics
from typing import Any

from ansible.errors import AnsibleFilterError

# The figure of each test that the ladder is built on; more is better.
HEADLINES = {"tcp_rr": "transactions", "tcp_stream": "mbits"}
# What is in a run besides its figures.
NO_FIGURES = ("round", "warmup", "group", "rung", "test", "start", "elapsed")


def spread(samples: list[float]) -> dict[str, Any]:
    """Return the samples with their median, smallest and largest."""
    return {
        "samples": samples,
        "median": statistics.median(samples),
        "min": min(samples),
        "max": max(samples),
    }


def variation(samples: list[float]) -> float:
    """Return half the range as a part of the median: 0.1 is ±10 %."""
    return round((max(samples) - min(samples)) / 2 / statistics.median(samples), 4)


def ratio(runs: list[dict[str, Any]], to: list[dict[str, Any]], figure: str) -> float | None:
    """Return the median of the ratios of each round that both have; None where they share no round."""
    other = {run["round"]: run[figure] for run in to}
    ratios = [run[figure] / other[run["round"]] for run in runs if other.get(run["round"])]
    return round(statistics.median(ratios), 4) if ratios else None


def ladder(runs: list[dict[str, Any]], rungs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups in the order in which ``rungs`` names them first."""
    samples: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for run in runs:
        if not run["warmup"]:
            samples.setdefault((run["group"], run["rung"], run["test"]), []).append(run)
    groups: dict[str, list[dict[str, Any]]] = {}
    for rung in rungs:
        try:
            groups.setdefault(rung["group"], []).append(rung)
        except (KeyError, TypeError) as e:
            raise AnsibleFilterError(f"ladder: a rung needs 'group' and 'name', this one is {rung!r}") from e
    result = []
    for group, members in groups.items():
        summed = []
        for position, rung in enumerate(members):
            tests = {}
            for test, headline in HEADLINES.items():
                own = samples.get((group, rung["name"], test))
                if not own:
                    continue
                first = samples.get((group, members[0]["name"], test), [])
                previous = samples.get((group, members[position - 1]["name"], test), []) if position else []
                tests[test] = {
                    "headline": headline,
                    "metrics": {
                        figure: spread([run[figure] for run in own])
                        for figure in own[0]
                        if figure not in NO_FIGURES
                    },
                    "variation": variation([run[headline] for run in own]),
                    "of_first": ratio(own, first, headline),
                    "of_previous": ratio(own, previous, headline),
                }
            summed.append({**rung, "tests": tests})
        result.append({"name": group, "rungs": summed})
    return result


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return it by name."""
        return {"ladder": ladder}
