# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules whose changes are to be confirmed."""

from __future__ import annotations


class ModuleDocFragment:
    """C(podnet.datapath.confirm): the name of a change, and the paths that it must not cut."""

    DOCUMENTATION = r"""
options:
  confirm_name:
    description:
      - The name under which M(podnet.datapath.checkpoint) confirms the change, of up to 64 letters, digits,
        C(.), C(-) and C(_). Each change needs another. Made up if left out.
      - Whoever gives it can confirm this change and no other even where the connection was lost before the
        module's result came. Used with O(confirm_timeout).
    type: str
    default: ""
  confirm_paths:
    description:
      - Paths, those of Pods above all, that the change must not cut. Each is tried just before the change.
        Where answers to eight in ten packets come back then, as many have to come back before
        M(podnet.datapath.checkpoint) confirms.
      - So paths may be listed that are not there yet. Used with O(confirm_timeout).
    type: list
    elements: dict
    default: []
    suboptions:
      netns:
        description: Name of the network namespace to send from. The host's own if left out.
        type: str
      to:
        description: IPv4 or IPv6 address to send ICMP echo requests to.
        type: str
        required: true
      size:
        description: Bytes of the whole IP packet, sent with the "don't fragment" flag.
        type: int
        default: 84
"""
