# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: batches
short_description: Split the hosts of a rollout into batches of limited size
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Accepts sizes like the play keyword C(serial), and returns the batches as lists of hosts.
  - The last size is repeated until all hosts are assigned.
positional: sizes, cap
options:
  _input:
    description: The hosts, in the order of the rollout.
    type: list
    elements: str
    required: true
  sizes:
    description: Numbers of hosts, or percentages such as V(10%), as a list or separated by commas.
    type: raw
    required: true
  cap:
    description: Maximum size of a batch. V(0) means no limit.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Split into one node, 10 %, and the remaining nodes, with at most twenty nodes in a batch
  ansible.builtin.debug:
    msg: "{{ ansible_play_hosts | podnet.datapath.batches([1, '10%', '100%'], 20) }}"
"""

RETURN = r"""
_value:
  description: The batches in order. They contain each host exactly once.
  type: list
  elements: list
"""

import re
from collections.abc import Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def _count(size: Any, hosts: int) -> int:
    """Return the number of hosts that a size stands for; raise AnsibleFilterError if it is invalid."""
    match = re.fullmatch(r"\s*([1-9]\d*)(%?)\s*", str(size))
    if not match:
        raise AnsibleFilterError(
            f"fleet_batches: {size!r} is not a valid batch size: use numbers from 1 and percentages from 1%, "
            "such as [1, '10%', '100%']"
        )
    number = int(match[1])
    return max(1, hosts * number // 100) if match[2] else number


def batches(hosts: Sequence[str], sizes: Sequence[Any], cap: int = 0) -> list[list[str]]:
    """Return the hosts in batches of the given sizes, none larger than ``cap`` (0: no limit)."""
    if isinstance(sizes, str):  # from an AWX survey or -e
        sizes = sizes.strip("[] ").replace('"', "").replace("'", "").split(",")
    if not sizes:
        raise AnsibleFilterError(
            f"fleet_batches: {sizes!r} contains no batch sizes: use a list such as [1, '100%']"
        )
    counts = [_count(size, len(hosts)) for size in sizes]
    result: list[list[str]] = []
    start = 0
    while start < len(hosts):
        count = counts[min(len(result), len(counts) - 1)]
        if cap > 0:
            count = min(count, cap)
        result.append(list(hosts[start : start + count]))
        start += count
    return result


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by name."""
        return {"batches": batches}
