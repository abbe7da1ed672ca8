#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bpf_attach
short_description: Load, pin and attach BPF programs, replacing them atomically
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
extends_documentation_fragment: [podnet.datapath.confirm]
description:
  - Brings the BPF programs of one object file, their maps and their attachments to the declared state.
  - Programs are compared by what the kernel made of them (tag, read-only data, layout of the maps). If these
    differ, new programs are loaded first, maps of the same layout are kept with their entries, and every
    attachment changes over atomically, those of other owners too. A map whose layout differs is made anew and
    is empty.
  - If anything fails, the former programs and attachments stand.
  - Only what is pinned below O(pin_path) is ever replaced or detached.
attributes:
  check_mode:
    description: Loads the programs to compare them, pins and attaches nothing, and returns what would change.
    support: full
  diff_mode:
    description: Shows maps, programs and attachments before and after.
    support: full
  idempotent:
    description: An unchanged object with unchanged attachments changes nothing.
    support: full
options:
  state:
    description:
      - V(absent) detaches and unpins everything below O(pin_path), of all owners. The maps' entries are lost.
      - A meta device without a program follows its policy, which drops packets by default.
    type: str
    choices: [present, absent]
    default: present
  object:
    description: Compiled BPF object file on the node. Required unless O(state=absent).
    type: path
  pin_path:
    description:
      - Folder for the pins, in a mounted BPF file system. It is made if it is missing.
      - Programs are pinned as C(progs/<program>), maps as C(maps/<map>), attachments below C(links/).
    type: path
    default: /sys/fs/bpf/podnet
  rodata:
    description: Values for the object's read-only variables, by name. The others stay as compiled.
    type: dict
    default: {}
  command:
    description:
      - Where to leave the command C(podnet-datapath), which shows drops as they happen, counters and state.
      - Not at all if omitted. O(state=absent) leaves it.
    type: path
  allow_connection_loss:
    description:
      - Whether programs that keep connections in another form may replace those that run.
      - Established connections to services and of masqueraded Pods break then. Without it, that is refused.
    type: bool
    default: false
  confirm_timeout:
    description:
      - Seconds after which the node takes the change back by itself, controller and network or not, unless
        M(podnet.datapath.checkpoint) confirms it. V(0) goes without.
      - Used where programs at hooks C(ingress) and C(egress) change, those of uplinks; Pods' devices carry
        nothing of the node's own. With O(state=absent) too.
      - Former programs and maps stay in the kernel until then.
    type: int
    default: 0
  owner:
    description:
      - Whose attachments O(attachments) are. Attachments of this owner that are not listed are detached,
        those of other owners stay.
      - Letters, digits, C(_) and C(-).
    type: str
    default: site
  attachments:
    description: All attachments that this owner shall have.
    type: list
    elements: dict
    default: []
    suboptions:
      program:
        description: Name of a program of the object.
        type: str
        required: true
      device:
        description: Network device. For a Pod, the host's end of its pair.
        type: str
        required: true
      hook:
        description:
          - V(from_pod) sees what a Pod sends. It is the peer's side of meta and netkit, tc ingress of others.
          - V(to_pod) sees what the host sends to a Pod. It is the primary's side of meta and netkit, tc
            egress of others.
          - V(ingress) and V(egress) are the tc hooks of any device.
        type: str
        required: true
        choices: [from_pod, to_pod, ingress, egress]
      type:
        description:
          - How the program is attached. V(auto) takes the device's own way for meta and netkit, and on others
            V(tcx) where the kernel has it (Linux 6.6), else V(clsact).
        type: str
        choices: [auto, meta, netkit, tcx, clsact]
        default: auto
"""

EXAMPLES = r"""
- name: Load the programs and route what comes in from the wire
  podnet.datapath.bpf_attach:
    object: /usr/local/lib/podnet-datapath.o
    attachments:
      - {program: host_ingress, device: wire0, hook: ingress}

- name: Attach to a Pod's device as well, under an owner of its own
  podnet.datapath.bpf_attach:
    object: /usr/local/lib/podnet-datapath.o
    owner: pods
    # an attachment of this owner that is not listed is detached
    attachments:
      - {program: pod_egress, device: pn0123456789ab, hook: from_pod}
      - {program: pod_ingress, device: pn0123456789ab, hook: to_pod}

- name: Take everything away
  podnet.datapath.bpf_attach:
    state: absent
"""

RETURN = r"""
programs:
  description: The programs of the object.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the program.
      type: str
    tag:
      description: The kernel's digest of its instructions.
      type: str
    id:
      description: The kernel's number for it; none in check mode where it is yet to be pinned.
      type: int
    path:
      description: Where it is pinned.
      type: str
  sample:
    - {name: host_ingress, tag: a1f47e97001f3dc4, id: 21, path: /sys/fs/bpf/podnet/progs/host_ingress}
attachments:
  description: This owner's attachments.
  returned: success
  type: list
  elements: dict
  contains:
    program:
      description: Name of the program.
      type: str
    device:
      description: Network device.
      type: str
    hook:
      description: Hook as it was asked for.
      type: str
    type:
      description: How it is attached.
      type: str
  sample:
    - {program: host_ingress, device: wire0, hook: ingress, type: tcx}
checkpoint:
  description: The name of what is to be confirmed, empty where nothing is.
  returned: success
  type: str
changes:
  description: What was, or would be, changed.
  returned: success
  type: list
  elements: str
  sample: ["create attachment site/wire0-ingress"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.bpf import (
    DEFAULT_OWNER,
    DEFAULT_PIN_PATH,
    BpfError,
)
from ansible_collections.podnet.datapath.plugins.module_utils._ops import confirm
from ansible_collections.podnet.datapath.plugins.module_utils._programs.attach import (
    Wish,
    absent,
    install_command,
    parse_rodata,
    present,
)
from ansible_collections.podnet.datapath.plugins.module_utils._programs.hooks import HOOKS, TYPES
from ansible_collections.podnet.datapath.plugins.module_utils._programs.revert import Journalled
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import checkpoint


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "object": {"type": "path"},
            "pin_path": {"type": "path", "default": DEFAULT_PIN_PATH},
            "rodata": {"type": "dict", "default": {}},
            "command": {"type": "path"},
            "allow_connection_loss": {"type": "bool", "default": False},
            **confirm.ARGUMENTS,
            "owner": {"type": "str", "default": DEFAULT_OWNER},
            "attachments": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "program": {"type": "str", "required": True},
                    "device": {"type": "str", "required": True},
                    "hook": {"type": "str", "required": True, "choices": list(HOOKS)},
                    "type": {"type": "str", "default": "auto", "choices": list(TYPES)},
                },
            },
        },
        required_if=[("state", "present", ["object"])],
        supports_check_mode=True,
    )
    p = module.params
    try:
        journalled = Journalled(confirm.terms(p), module.run_command)
        if p["state"] == "absent":
            outcome = absent(p["pin_path"], module.check_mode, journalled.guard)
        else:
            wishes = [Wish(**a) for a in p["attachments"]]
            rodata = parse_rodata(p["rodata"])
            if p["command"]:  # What is wrong with it is said before the first change.
                install_command(p["command"], check=True)
            outcome = present(
                p["pin_path"],
                p["object"],
                rodata,
                wishes,
                p["owner"],
                module.check_mode,
                p["allow_connection_loss"],
                journalled.guard,
            )
            if p["command"]:
                outcome.changes += install_command(p["command"], module.check_mode)
        news = checkpoint.news()
        if not module.check_mode:
            checkpoint.told(news)
    except (BpfError, Problem, OSError) as e:
        module.fail_json(msg=str(e))
    for sentence in news.values():
        module.warn(sentence)
    module.exit_json(
        changed=bool(outcome.changes),
        changes=[f"{c.action} {c.kind} {c.name}" for c in outcome.changes],
        programs=outcome.programs,
        attachments=outcome.attachments,
        checkpoint=journalled.checkpoint,
        diff=outcome.diff,
    )


if __name__ == "__main__":
    main()
