# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: batches
short_description: Split the nodes of a roll-out into batches, none larger than the cap
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Takes sizes as C(serial) of a play does, and gives the batches that they mean, as lists of hosts.
  - The last size is repeated until every host has its batch.
positional: sizes, cap
options:
  _input:
    description: The hosts, in the order of the roll-out.
    type: list
    elements: str
    required: true
  sizes:
    description: Numbers of hosts, or percentages such as V(10%). In a text there are commas between them.
    type: raw
    required: true
  cap:
    description: The largest size that a batch may have; V(0) for no cap.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: One node, then a tenth, then all others, but never more than twenty at once
  ansible.builtin.debug:
    msg: "{{ ansible_play_hosts | podnet.datapath.batches([1, '10%', '100%'], 20) }}"
"""

RETURN = r"""
_value:
  description: The batches, in their order. All hosts are in them, each once.
  type: list
  elements: list
"""

import re
from collections.abc import Sequence
from typing import Any

from ansible.errors import AnsibleFilterError


def _count(size: Any, hosts: int) -> int:
    match = re.fullmatch(r"\s*([1-9]\d*)(%?)\s*", str(size))
    if not match:
        raise AnsibleFilterError(
            f"fleet_batches: {size!r} is no size of a batch: give numbers from 1 and percentages from 1%, "
            "such as [1, '10%', '100%']"
        )
    number = int(match[1])
    return max(1, hosts * number // 100) if match[2] else number


def batches(hosts: Sequence[str], sizes: Sequence[Any], cap: int = 0) -> list[list[str]]:
    """Return the hosts in batches."""
    if isinstance(sizes, str):  # from a survey, or -e
        sizes = sizes.strip("[] ").replace('"', "").replace("'", "").split(",")
    if not sizes:
        raise AnsibleFilterError(
            f"fleet_batches: {sizes!r} is no list of sizes: give one, such as [1, '100%']"
        )
    counts = [_count(size, len(hosts)) for size in sizes]
    found: list[list[str]] = []
    start = 0
    while start < len(hosts):
        count = counts[min(len(found), len(counts) - 1)]
        if cap > 0:
            count = min(count, cap)
        found.append(list(hosts[start : start + count]))
        start += count
    return found


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return it by name."""
        return {"batches": batches}
