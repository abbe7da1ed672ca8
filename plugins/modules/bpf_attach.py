#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bpf_attach
short_description: Load, pin, attach and atomically replace BPF programs
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Brings the BPF programs of one object file, their maps and their attachments to the declared state.
  - Compares programs by what the kernel loaded (tag, read-only data, map layouts). If they differ, the module
    loads the new programs first, reuses maps of the same layout with their entries, and then replaces every
    attachment atomically, those of other owners included.
  - A map whose layout changed is recreated. Configuration maps are filled from the declarations of
    M(podnet.datapath.bpf_state), connections are copied, all other maps start empty.
  - If a step fails, the former programs and attachments remain in place.
  - Only objects pinned below O(pin_path) are replaced or detached.
  - With O(confirm_timeout), changes of programs at the hooks V(ingress) and V(egress) create a checkpoint,
    also with O(state=absent), because these hooks are those of uplinks. Changes on Pod devices do not, as
    they cannot disconnect the node. The kernel keeps the former programs and maps until the checkpoint is
    confirmed or reverted.
extends_documentation_fragment:
  - podnet.datapath.attributes
  - podnet.datapath.confirm
attributes:
  check_mode:
    details:
      - The module loads the programs to compare them, but pins and attaches nothing.
requirements:
  - pyroute2 >= 0.7.2 (C(python3-pyroute2) on Debian)
options:
  state:
    description:
      - V(absent) detaches and unpins everything below O(pin_path), for all owners. Map entries are lost.
      - A meta or netkit device without a program follows its policy, which drops packets by default. A veth
        device of M(podnet.datapath.pods) or M(podnet.datapath.meta_device) is set down before its programs
        are detached, also with O(state=present), because it would forward all packets without them.
    type: str
    choices: [present, absent]
    default: present
  object:
    description: Path of the compiled BPF object file on the node. Required if O(state=present).
    type: path
  pin_path:
    description:
      - Directory for the pins, in a mounted BPF file system. The module creates it if it does not exist.
      - Programs are pinned as C(progs/<program>), maps as C(maps/<map>), attachments below C(links/).
    type: path
    default: /sys/fs/bpf/podnet
  rodata:
    description: Values for read-only variables of the object, by name. Others keep their compiled value.
    type: dict
    default: {}
  command:
    description:
      - Where to install the command C(podnet-datapath), which shows drops as they happen, counters and state.
      - By default the command is not installed. O(state=absent) does not remove it.
    type: path
  socket_lb:
    description:
      - Whether to translate services at connect() and sendmsg() of all processes, so that their packets need
        no translation. Otherwise each packet to a service is translated, and the node's own processes do not
        reach services.
      - V(auto) attaches the programs if a cgroup v2 hierarchy is mounted and the kernel supports it (Linux
        6.1 with CONFIG_CGROUP_BPF), and warns if not. V(required) fails then.
      - Other programs at the same hooks, such as those of systemd, remain attached and run as well.
    type: str
    choices: [auto, required, disabled]
    default: disabled
  cgroup_path:
    description:
      - The cgroup of version 2 whose processes O(socket_lb) applies to.
      - By default this is the root of the mounted hierarchy, and so all processes of the node.
    type: path
  allow_connection_loss:
    description:
      - Allow replacing the running programs by programs with a different layout of connection entries.
      - Established connections to services and of masqueraded Pods then break. With V(false), the module
        rejects such a replacement.
    type: bool
    default: false
  owner:
    description:
      - Owner of O(attachments). Attachments of this owner that are not listed are detached, attachments of
        other owners remain.
      - Letters, digits, C(_) and C(-).
    type: str
    default: site
  attachments:
    description: All attachments of this owner.
    type: list
    elements: dict
    default: []
    suboptions:
      program:
        description: Name of a program in the object.
        type: str
        required: true
      device:
        description: Network device. For a Pod, the host end of its pair.
        type: str
        required: true
      hook:
        description:
          - V(from_pod) sees packets that the Pod sends. It is the peer program of meta and netkit, and tc
            ingress on other devices.
          - V(to_pod) sees packets that the host sends to the Pod. It is the primary program of meta and
            netkit, and tc egress on other devices.
          - V(ingress) and V(egress) are the tc hooks of any device.
        type: str
        required: true
        choices: [from_pod, to_pod, ingress, egress]
      type:
        description:
          - Attachment type. V(auto) uses the device's own hook for meta and netkit. On other devices it uses
            V(tcx) if the kernel supports it (Linux 6.6), otherwise V(clsact).
        type: str
        choices: [auto, meta, netkit, tcx, clsact]
        default: auto
"""

EXAMPLES = r"""
- name: Load the programs and attach host_ingress to the uplink
  podnet.datapath.bpf_attach:
    object: /usr/local/lib/podnet-datapath.o
    attachments:
      - {program: host_ingress, device: wire0, hook: ingress}
    socket_lb: auto

- name: Attach to the device of a Pod, as another owner
  podnet.datapath.bpf_attach:
    object: /usr/local/lib/podnet-datapath.o
    owner: pods
    # attachments of this owner that are not listed are detached
    attachments:
      - {program: pod_egress, device: pn0123456789ab, hook: from_pod}
      - {program: pod_ingress, device: pn0123456789ab, hook: to_pod}

- name: Replace the programs, and roll back unless confirmed within two minutes
  podnet.datapath.bpf_attach:
    object: /usr/local/lib/podnet-datapath.o
    attachments:
      - {program: host_ingress, device: wire0, hook: ingress}
    confirm_timeout: 120

- name: Detach all programs and remove all pins
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
      description: The kernel's hash of the program's instructions.
      type: str
    id:
      description: The kernel's program ID. Null in check mode if the program is not pinned yet.
      type: int
    path:
      description: Path of the pin.
      type: str
  sample:
    - {name: host_ingress, tag: a1f47e97001f3dc4, id: 21, path: /sys/fs/bpf/podnet/progs/host_ingress}
attachments:
  description: The attachments of this owner.
  returned: success
  type: list
  elements: dict
  contains:
    program:
      description: Name of the program.
      type: str
    device:
      description: Network device, or the cgroup of a program of O(socket_lb).
      type: str
    hook:
      description: The requested hook.
      type: str
    type:
      description: The attachment type in use.
      type: str
  sample:
    - {program: host_ingress, device: wire0, hook: ingress, type: tcx}
checkpoint:
  description: Name of the checkpoint to confirm; empty if none was created.
  returned: success
  type: str
socket_lb:
  description: Where services are translated at socket level.
  returned: O(state=present)
  type: dict
  contains:
    cgroup:
      description: The cgroup; empty if O(socket_lb) is disabled or not supported.
      type: str
    reason:
      description: Why there is none, else empty.
      type: str
  sample: {cgroup: /sys/fs/cgroup, reason: ""}
changes:
  description: The changes, in check mode the planned ones.
  returned: success
  type: list
  elements: str
  sample: ["create attachment site/wire0-ingress"]
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._core.command import clean
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import command
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.bpf import (
    DEFAULT_OWNER,
    DEFAULT_PIN_PATH,
)
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.messages import require_pyroute2
from ansible_collections.podnet.datapath.plugins.module_utils._ops import confirm
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach, sockets
from ansible_collections.podnet.datapath.plugins.module_utils._programs.hooks import HOOKS, TYPES
from ansible_collections.podnet.datapath.plugins.module_utils._programs.resolve import Request
from ansible_collections.podnet.datapath.plugins.module_utils._programs.revert import CheckpointRecorder
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import checkpoint


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "object": {"type": "path"},
            "pin_path": {"type": "path", "default": DEFAULT_PIN_PATH},
            "rodata": {"type": "dict", "default": {}},
            "command": {"type": "path"},
            "socket_lb": {"type": "str", "choices": list(sockets.MODES), "default": "disabled"},
            "cgroup_path": {"type": "path"},
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
    reject_negative(module)
    p = module.params
    try:
        require_pyroute2()
        recorder = CheckpointRecorder(confirm.confirmation(p), clean(module.run_command))
        if p["state"] == "absent":
            result = attach.absent(p["pin_path"], module.check_mode, recorder)
        else:
            socket_lb = sockets.select(p["socket_lb"], p["cgroup_path"] or "")
            requests = [*(Request(**a) for a in p["attachments"]), *socket_lb.requests]
            desired = attach.Desired(p["pin_path"], requests, p["owner"], p["allow_connection_loss"], True)
            rodata = attach.parse_rodata(p["rodata"])
            if p["command"]:  # Fail before the first change.
                command.install(p["command"], check=True)
            result = attach.present(desired, p["object"], rodata, module.check_mode, recorder)
            result.values["socket_lb"] = {"cgroup": socket_lb.cgroup, "reason": socket_lb.reason}
            if p["socket_lb"] != "disabled" and socket_lb.reason:
                result.warnings.append(f"services are translated per packet: {socket_lb.reason}")
            if p["command"]:
                action = command.install(p["command"], module.check_mode)
                if action:
                    result.changed = True
                    result.values["changes"].append(f"{action} command {p['command']}")
        rollbacks = checkpoint.unreported()
        if not module.check_mode:
            checkpoint.mark_reported(rollbacks)
    except (Problem, OSError) as e:
        module.fail_json(msg=str(e))
    result.warnings += rollbacks.values()
    result.values["checkpoint"] = recorder.checkpoint
    result.exit(module)


if __name__ == "__main__":
    main()
