# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: target_hosts
short_description: Fail if a host pattern matches no host
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Returns the pattern unchanged, for the keyword C(hosts) of a play.
  - Ansible skips a play without hosts and reports success. With this filter it fails.
positional: groups, limit
options:
  _input:
    description: A host pattern, or a list of patterns.
    type: raw
    required: true
  groups:
    description: The groups of the inventory.
    type: dict
    required: true
  limit:
    description: The pattern of C(--limit).
    type: str
    default: all
"""

EXAMPLES = r"""
- name: Fail if podnet_hosts matches no host
  hosts: "{{ podnet_hosts | podnet.datapath.target_hosts(groups, ansible_limit | default('all')) }}"
"""

RETURN = r"""
_value:
  description: The pattern.
  type: raw
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ansible import context
from ansible.errors import AnsibleFilterError
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader

from ansible_collections.podnet.datapath.plugins.filter.option import option
from ansible_collections.podnet.datapath.plugins.plugin_utils import content

# With these arguments, ansible-playbook runs nothing and often gets no inventory.
_WITHOUT_RUN = ("syntax", "listtasks", "listtags")


def target_hosts(pattern: Any, groups: Mapping[str, Sequence[str]], limit: str = "all") -> Any:
    """Return the pattern; raise AnsibleFilterError if it and the limit match no host."""
    content.preload()
    pattern = option(pattern, "podnet_hosts")
    if any(context.CLIARGS.get(argument) for argument in _WITHOUT_RUN):
        return pattern
    inventory = InventoryManager(DataLoader(), parse=False)
    for group, hosts in groups.items():
        inventory.add_group(group)
        for host in hosts:
            inventory.add_host(host, group=group)
    inventory.subset(limit)
    if not pattern or not inventory.get_hosts(pattern):
        with_limit = "" if limit == "all" else f" with --limit {limit}"
        raise AnsibleFilterError(
            f"podnet_hosts: {pattern!r}{with_limit} matches no host of the inventory, which has "
            f"{len(groups.get('all', []))}; correct podnet_hosts, --limit or the inventory"
        )
    return pattern


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return the filter by name."""
        return {"target_hosts": target_hosts}
