#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bpf_state
short_description: Tell the BPF programs which Pods live on this node
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings the entries of the programs' maps that belong to one owner to the declared state, in batches.
  - Entries of other owners stay, and an address that another owner has is refused.
  - Everything declared is checked before anything is written.
attributes:
  check_mode:
    description: Reads the maps and returns what would change.
    support: full
  diff_mode:
    description: Shows this owner's entries before and after.
    support: full
  idempotent:
    description: A run that changes nothing writes nothing.
    support: full
options:
  pin_path:
    description: Folder in the BPF file system where M(podnet.datapath.bpf_attach) pinned the programs' maps.
    type: path
    default: /sys/fs/bpf/podnet
  owner:
    description: Whose entries these are. Entries of this owner that are not listed are removed.
    type: str
    default: site
  endpoints:
    description: All Pods of this owner on this node.
    type: list
    elements: dict
    required: true
    suboptions:
      addresses:
        description: IPv4 and IPv6 addresses of the Pod. A prefix length is allowed and ignored.
        type: list
        elements: str
        required: true
      device:
        description: The host's end of the Pod's device.
        type: str
        required: true
"""

EXAMPLES = r"""
- name: Two Pods live on this node
  podnet.datapath.bpf_state:
    # an entry of this owner that is not listed is removed
    endpoints:
      - addresses: [10.31.1.11, "fd31:1::11"]
        device: pn0123456789ab
      - addresses: [10.31.1.12, "fd31:1::12"]
        device: pnba9876543210
"""

RETURN = r"""
updated:
  description: Addresses whose entry was written, or would be.
  returned: success
  type: list
  elements: str
  sample: [10.31.1.11, "fd31:1::11"]
deleted:
  description: Addresses whose entry was deleted, or would be.
  returned: success
  type: list
  elements: str
  sample: [10.31.1.13]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._bpf import (
    DEFAULT_OWNER,
    DEFAULT_PIN_PATH,
    BpfError,
)
from ansible_collections.podnet.datapath.plugins.module_utils._bpf_state import run


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "pin_path": {"type": "path", "default": DEFAULT_PIN_PATH},
            "owner": {"type": "str", "default": DEFAULT_OWNER},
            "endpoints": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "addresses": {"type": "list", "elements": "str", "required": True},
                    "device": {"type": "str", "required": True},
                },
            },
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        outcome = run(p["pin_path"], p["owner"], p["endpoints"], module.check_mode)
    except (BpfError, OSError) as e:
        module.fail_json(msg=str(e))
    module.exit_json(
        changed=bool(outcome.changes),
        updated=[str(a) for a in outcome.changes.update],
        deleted=[str(a) for a in outcome.changes.delete],
        diff={"before": outcome.before, "after": outcome.after},
    )


if __name__ == "__main__":
    main()
