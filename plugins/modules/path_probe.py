#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: path_probe
short_description: Send packets between Pods and see whether the host's upper stack saw them
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Sends bursts of ICMP echo requests from network namespaces of a node, and TCP streams between two of them,
    and reports what came back.
  - Reads the IP counters of the host before and after. Where Pods use BPF host routing, the upper stack
    forwards none of their packets.
  - Never changes the node.
extends_documentation_fragment: [podnet.datapath.attributes.info]
options:
  probes:
    description: Bursts of echo requests, sent one burst after the other.
    type: list
    elements: dict
    default: []
    suboptions:
      netns:
        description: Name of the network namespace to send from. The host's own if left out.
        type: str
      to:
        description: IPv4 or IPv6 address to send to.
        type: str
        required: true
      count:
        description: Packets in the burst.
        type: int
        default: 200
      size:
        description:
          - Bytes of the whole IP packet, headers included. A size of 8264 tests a path of that MTU.
          - All packets carry the "don't fragment" flag.
        type: int
        default: 84
      timeout:
        description: Seconds to wait for answers after the last packet.
        type: float
        default: 2
  streams:
    description:
      - TCP transfers between two namespaces of this node, one after the other. The bytes are compared.
    type: list
    elements: dict
    default: []
    suboptions:
      from_netns:
        description: Name of the sender's network namespace. The host's own if left out.
        type: str
      to_netns:
        description: Name of the receiver's network namespace. The host's own if left out.
        type: str
      to:
        description: Address of the receiver.
        type: str
        required: true
      optional:
        description: Leave it out, with a warning, where one of the namespaces is not there.
        type: bool
        default: false
      bytes:
        description: Bytes to send.
        type: int
        default: 16777216
      timeout:
        description: Seconds that the transfer may take.
        type: float
        default: 60
  max_loss:
    description: Fail where a burst loses more than this many per cent. V(100) only looks.
    type: float
    default: 0
  host_counters:
    description: Return what the host's IP layer counted while the packets were under way.
    type: bool
    default: true
  expect_bypass:
    description:
      - Fail where the host's upper stack forwarded more than O(max_forwarded) packets meanwhile.
      - The host's other forwarded traffic counts as well, so on a busy node raise O(max_forwarded).
    type: bool
    default: false
  max_forwarded:
    description: Packets that the upper stack may forward while the bursts run. Used with O(expect_bypass).
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Pods reach each other, locally and across the wire, past the upper stack
  podnet.datapath.path_probe:
    probes:
      - {netns: pod1, to: 10.31.1.12}
      - {netns: pod1, to: 10.31.2.11}
      - {netns: pod1, to: "fd31:2::11"}
    streams:
      - {from_netns: pod1, to_netns: pod2, to: 10.31.1.12}
    expect_bypass: true

- name: Packets of 8264 bytes pass unfragmented
  podnet.datapath.path_probe:
    probes:
      - {netns: pod1, to: 10.31.2.11, size: 8264, count: 3}
      - {netns: pod1, to: "fd31:2::11", size: 8264, count: 3}

- name: See what is lost, without failing
  podnet.datapath.path_probe:
    probes:
      - {to: 172.31.0.2, count: 1000}
    max_loss: 100
"""

RETURN = r"""
probes:
  description: A result for each burst, in the order given.
  returned: always, also on failure once the bursts ran
  type: list
  elements: dict
  contains:
    netns:
      description: Namespace sent from, or none for the host's own.
      type: str
    to:
      description: Address sent to.
      type: str
    size:
      description: Bytes of each packet.
      type: int
    sent:
      description: Packets sent.
      type: int
    received:
      description: Answers that came back with the same bytes.
      type: int
    loss:
      description: Per cent that did not come back.
      type: float
    rtt:
      description: Smallest (C(min)), mean (C(avg)) and largest (C(max)) round-trip time in milliseconds.
      type: dict
    ttl:
      description: TTL of the last answer, 64 less one for each router. IPv4 only.
      type: int
    path_mtu:
      description: MTU of the path as the sending kernel knows it.
      type: int
    errors:
      description: What the kernel reported on the way, each kind once.
      type: list
      elements: str
  sample:
    - {netns: pod1, to: 10.31.2.11, size: 84, sent: 200, received: 200, loss: 0.0,
       rtt: {min: 0.31, avg: 0.44, max: 1.9}, ttl: 62, path_mtu: 8264, errors: []}
streams:
  description: A result for each stream, in the order given.
  returned: always, also on failure once the streams ran
  type: list
  elements: dict
  contains:
    from_netns:
      description: Namespace of the sender.
      type: str
    to_netns:
      description: Namespace of the receiver.
      type: str
    to:
      description: Address of the receiver.
      type: str
    bytes:
      description: Bytes sent and compared.
      type: int
    seconds:
      description: Time it took.
      type: float
    mbits:
      description: Speed in megabits a second, as seen by Python; no benchmark.
      type: float
    window_scale:
      description: TCP window scale that the receiver announced.
      type: int
    mss:
      description: Bytes in a full segment of the sender.
      type: int
host_counters:
  description:
    - What the host's IP layer counted from the first packet to the last.
    - The host's own traffic, SSH too, is counted in C(in_receives).
    - IPv6 is counted by interface as well; interfaces that counted nothing are left out.
  returned: when O(host_counters) or O(expect_bypass) is true
  type: dict
  sample:
    ipv4: {in_receives: 6, forwarded: 0}
    ipv6: {in_receives: 0, forwarded: 0}
    interfaces: {wire0: {ipv6_in_receives: 0, ipv6_forwarded: 0}}
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netns
from ansible_collections.podnet.datapath.plugins.module_utils._measure.probe import (
    Probe,
    ProbeError,
    Stream,
    parse_address,
    read_host_counters,
    run_probe,
    run_stream,
)


def _missing(module: AnsibleModule, stream: dict[str, Any]) -> bool:
    """Tell whether a namespace of a stream is not there, and warn of it."""
    names = [stream[end] for end in ("from_netns", "to_netns") if stream[end]]
    missing = [name for name in names if not os.path.exists(netns.path_of(name))]
    if missing:
        module.warn(f"streams: the one to {stream['to']} is left out: there is no {' and no '.join(missing)}")
    return bool(missing)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "probes": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "netns": {"type": "str"},
                    "to": {"type": "str", "required": True},
                    "count": {"type": "int", "default": 200},
                    "size": {"type": "int", "default": 84},
                    "timeout": {"type": "float", "default": 2},
                },
            },
            "streams": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "from_netns": {"type": "str"},
                    "to_netns": {"type": "str"},
                    "to": {"type": "str", "required": True},
                    "optional": {"type": "bool", "default": False},
                    "bytes": {"type": "int", "default": 16 * 1024 * 1024},
                    "timeout": {"type": "float", "default": 60},
                },
            },
            "max_loss": {"type": "float", "default": 0},
            "host_counters": {"type": "bool", "default": True},
            "expect_bypass": {"type": "bool", "default": False},
            "max_forwarded": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    p = module.params
    result = {"changed": False, "probes": [], "streams": []}
    try:
        probes = [
            Probe(parse_address("probes: to", o["to"]), o["netns"], o["count"], o["size"], o["timeout"])
            for o in p["probes"]
        ]
        streams = [
            Stream(
                o["from_netns"],
                o["to_netns"],
                parse_address("streams: to", o["to"]),
                o["bytes"],
                o["timeout"],
            )
            for o in p["streams"]
            if not (o["optional"] and _missing(module, o))
        ]
        before = read_host_counters()
        bursts = [run_probe(probe) for probe in probes]
        result["probes"] = [burst.as_dict() for burst in bursts]
        result["streams"] = [run_stream(stream).as_dict() for stream in streams]
        counted = read_host_counters().since(before)
    except ProbeError as e:
        module.fail_json(msg=str(e), **result)
    if p["host_counters"] or p["expect_bypass"]:
        result["host_counters"] = counted.as_dict()
    lost = [burst.describe() for burst in bursts if burst.loss > p["max_loss"]]
    if lost:
        module.fail_json(msg=f"more than {p['max_loss']:g} % lost: {'. '.join(lost)}", **result)
    if p["expect_bypass"] and counted.forwarded > p["max_forwarded"]:
        module.fail_json(
            msg=(
                f"the host's upper stack forwarded {counted.ip4_forwarded} IPv4 and {counted.ip6_forwarded}"
                f" IPv6 packets while the bursts ran, max_forwarded is {p['max_forwarded']}: look whether the"
                " programs are attached (podnet.datapath.bpf_attach) and each Pod has its endpoint entry"
                " (podnet.datapath.bpf_state)"
            ),
            **result,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
