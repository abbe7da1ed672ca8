# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: module_builders
short_description: Select the nodes that build a kernel module for each distinct kernel
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Accepts the return values of M(podnet.datapath.node_info) for each node, and returns a build plan for each
    distinct kernel of the nodes that need the module. Kernels are equal if release, architecture and
    version are.
  - Nodes with compiler and headers are preferred.
positional: batch
options:
  _input:
    description: Facts by node name, of all nodes known so far, including those of earlier batches.
    type: dict
    required: true
  batch:
    description: Names of the nodes that get the module in this batch.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show the build plan of each kernel
  ansible.builtin.debug:
    msg: "{{ facts | podnet.datapath.module_builders(ansible_play_batch) }}"
"""

RETURN = r"""
_value:
  description:
    - Build plans by kernel. C(candidates) are the nodes that can build, the preferred one first. C(agreement)
      is the number of nodes that must build the same module, 2 if several nodes have the kernel.
  type: dict
  sample:
    "6.1.0-56-amd64 x86_64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-01)":
      kernel: 6.1.0-56-amd64
      nodes: [node1, node2]
      candidates: [node1, node2]
      agreement: 2
"""

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.podnet.datapath.plugins.module_utils._kmod import delivery


def module_builders(nodes: Mapping[str, Mapping[str, Any]], batch: list[str]) -> dict[str, dict[str, Any]]:
    """Return the build plans by kernel; raise AnsibleFilterError for invalid facts."""
    try:
        return delivery.builders(nodes, batch)
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(
            f"module_builders: the input does not consist of facts of node_info: {error!r}"
        ) from error


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by name."""
        return {"module_builders": module_builders}
