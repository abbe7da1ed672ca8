# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The MTU with which a TCP packet carries whole pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: page_mtu
short_description: The MTU with which a TCP packet carries whole pages
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Adds to the data the headers of IP and of TCP, and the timestamps, which each packet carries.
  - The MTU for IPv6 leaves 20 bytes too many in packets of IPv4. Where both are used, take the one for IPv6,
    and have the IPv4 routes of both ends advertise a segment size of the data and the timestamps.
options:
  _input:
    description: How many pages of 4096 bytes.
    type: int
    required: true
  family:
    description: V(ipv6), V(ipv4), or V(advmss) for the segment size to advertise instead.
    type: str
    choices: [ipv6, ipv4, advmss]
    default: ipv6
"""

EXAMPLES = r"""
- name: 8264, 8244 and 8204
  ansible.builtin.debug:
    msg: "{{ 2 | podnet.datapath.page_mtu }}, {{ 2 | podnet.datapath.page_mtu('ipv4') }},
      {{ 2 | podnet.datapath.page_mtu('advmss') }}"
"""

RETURN = r"""
_value:
  description: Bytes.
  type: int
"""

PAGE = 4096
_TIMESTAMPS = 12  # RFC 7323, with the padding
_HEADERS = {"ipv6": 40 + 20, "ipv4": 20 + 20, "advmss": 0}
_LARGEST = 65535


def page_mtu(pages: Any, family: str = "ipv6") -> int:
    """Return the MTU, or the MSS to advertise, for so many pages of data in each packet."""
    if family not in _HEADERS:
        raise AnsibleFilterError(f"page_mtu: {family!r} is none of {', '.join(_HEADERS)}")
    if isinstance(pages, bool) or not str(pages).isdecimal() or int(pages) < 1:
        raise AnsibleFilterError(f"page_mtu: {pages!r} is no number of pages")
    size = int(pages) * PAGE + _TIMESTAMPS + _HEADERS[family]
    if size > _LARGEST:
        raise AnsibleFilterError(f"page_mtu: {pages} pages do not fit into a packet of {_LARGEST} bytes")
    return size


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"page_mtu": page_mtu}
