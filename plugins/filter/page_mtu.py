# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MTU with which each TCP packet carries a whole number of pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: page_mtu
short_description: Return the MTU with which each TCP packet carries a whole number of pages
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Adds the IP header, the TCP header and the TCP timestamp option to the data.
  - With the MTU for IPv6, IPv4 packets carry 20 bytes more than whole pages. If both families are used, set
    the MTU for IPv6, and V(advmss) on the IPv4 routes of both ends.
options:
  _input:
    description: Number of pages of 4096 bytes in each packet.
    type: int
    required: true
  family:
    description: V(ipv6) or V(ipv4) for the MTU, V(advmss) for the MSS to advertise.
    type: str
    choices: [ipv6, ipv4, advmss]
    default: ipv6
"""

EXAMPLES = r"""
- name: Show 8264, 8244 and 8204
  ansible.builtin.debug:
    msg: "{{ 2 | podnet.datapath.page_mtu }}, {{ 2 | podnet.datapath.page_mtu('ipv4') }},
      {{ 2 | podnet.datapath.page_mtu('advmss') }}"
"""

RETURN = r"""
_value:
  description: MTU or MSS in bytes.
  type: int
"""

PAGE = 4096
_TIMESTAMPS = 12  # bytes of the option with padding, RFC 7323
_HEADERS = {"ipv6": 40 + 20, "ipv4": 20 + 20, "advmss": 0}
_LARGEST = 65535


def page_mtu(pages: Any, family: str = "ipv6") -> int:
    """Return the MTU, or the MSS to advertise, in bytes for a number of pages in each packet."""
    if family not in _HEADERS:
        raise AnsibleFilterError(f"page_mtu: {family!r} is not one of {', '.join(_HEADERS)}")
    if isinstance(pages, bool) or not str(pages).isdecimal() or int(pages) < 1:
        raise AnsibleFilterError(f"page_mtu: {pages!r} is not a number of pages of at least 1")
    size = int(pages) * PAGE + _TIMESTAMPS + _HEADERS[family]
    if size > _LARGEST:
        raise AnsibleFilterError(
            f"page_mtu: {pages} pages exceed the maximum packet size of {_LARGEST} bytes"
        )
    return size


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"page_mtu": page_mtu}
