# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules whose changes can be made under a checkpoint."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation fragment C(podnet.datapath.confirm): change under a checkpoint, then confirm."""

    DOCUMENTATION = r"""
options:
  confirm_timeout:
    description:
      - Seconds within which M(podnet.datapath.checkpoint) must confirm the change. Without confirmation, the
        node rolls the change back by itself; it needs neither controller nor network for that. If the node
        reboots before the confirmation, it rolls back at boot.
      - V(0) makes the change without a checkpoint.
      - A call that changes nothing creates no checkpoint. RV(checkpoint) names the checkpoint to confirm.
      - While a checkpoint is pending, all other changes to this node are rejected.
    type: int
    default: 0
  confirm_name:
    description:
      - Name of the checkpoint, up to 64 letters, digits, C(.), C(-) and C(_). Each change needs a new name.
        By default the module generates one.
      - With a given name you can confirm exactly this change even if the connection broke before the module
        returned its result.
      - Used with O(confirm_timeout).
    type: str
    default: ""
  confirm_paths:
    description:
      - Network paths, usually between Pods, that must still work after the change.
      - Each path is probed with ten packets just before the change. Paths that answer at least eight of them
        must answer eight again before M(podnet.datapath.checkpoint) confirms. Other paths are ignored, so you
        can list paths that do not exist yet.
      - Used with O(confirm_timeout).
    type: list
    elements: dict
    default: []
    suboptions:
      netns:
        description: Name of the network namespace to send from. The default is the host's namespace.
        type: str
      to:
        description: IPv4 or IPv6 address to send ICMP echo requests to.
        type: str
        required: true
      size:
        description: Size of the IP packet in bytes, headers included. The packets have the DF flag set.
        type: int
        default: 84
seealso:
  - module: podnet.datapath.checkpoint
"""
