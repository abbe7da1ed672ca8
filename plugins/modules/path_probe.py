#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: path_probe
short_description: Test the paths between Pods, and whether they bypass the upper stack
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Sends bursts of ICMP echo requests from network namespaces of a node and TCP streams between two of them,
    and returns the results.
  - Reads the IP counters of the host before and after. If Pods use BPF host routing, the upper stack forwards
    none of their packets, except while it resolves the next hop. Therefore one request of each burst is sent
    before the counters are read.
extends_documentation_fragment: [podnet.datapath.attributes.info]
options:
  probes:
    description: Bursts of ICMP echo requests, sent one after the other.
    type: list
    elements: dict
    default: []
    suboptions:
      netns:
        description: Name of the network namespace to send from. The default is the host's namespace.
        type: str
      to:
        description: IPv4 or IPv6 address of the destination.
        type: str
        required: true
      count:
        description: Number of packets in the burst.
        type: int
        default: 200
      size:
        description:
          - Size of the IP packet in bytes, headers included. A size of 8264 tests a path of that MTU.
          - The packets have the DF flag set.
        type: int
        default: 84
      timeout:
        description: Seconds to wait for replies after the last packet.
        type: float
        default: 2
  streams:
    description:
      - TCP transfers between two namespaces of this node, one after the other. The received data is compared
        with the sent data.
    type: list
    elements: dict
    default: []
    suboptions:
      from_netns:
        description: Name of the sender's network namespace. The default is the host's namespace.
        type: str
      to_netns:
        description: Name of the receiver's network namespace. The default is the host's namespace.
        type: str
      to:
        description: IPv4 or IPv6 address of the receiver.
        type: str
        required: true
      optional:
        description: Whether to skip the stream with a warning if one of the namespaces does not exist.
        type: bool
        default: false
      bytes:
        description: Number of bytes to send.
        type: int
        default: 16777216
      timeout:
        description: Maximum duration of the transfer in seconds.
        type: float
        default: 60
  max_loss:
    description: Maximum packet loss of each burst in percent. With V(100), loss is only reported.
    type: float
    default: 0
  host_counters:
    description: Whether to return RV(host_counters).
    type: bool
    default: true
  expect_bypass:
    description:
      - Whether to fail if the upper stack of the host forwards more than O(max_forwarded) packets during the
        test.
      - Other traffic that the host forwards counts, too. Raise O(max_forwarded) on a busy node.
    type: bool
    default: false
  max_forwarded:
    description: Maximum number of packets that the upper stack may forward. Used with O(expect_bypass).
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Check that Pods reach each other locally and across the wire, bypassing the upper stack
  podnet.datapath.path_probe:
    probes:
      - {netns: pod1, to: 10.31.1.12}
      - {netns: pod1, to: 10.31.2.11}
      - {netns: pod1, to: "fd31:2::11"}
    streams:
      - {from_netns: pod1, to_netns: pod2, to: 10.31.1.12}
    expect_bypass: true

- name: Check that packets of 8264 bytes pass without fragmentation
  podnet.datapath.path_probe:
    probes:
      - {netns: pod1, to: 10.31.2.11, size: 8264, count: 3}
      - {netns: pod1, to: "fd31:2::11", size: 8264, count: 3}

- name: Measure the packet loss without failing
  podnet.datapath.path_probe:
    probes:
      - {to: 172.31.0.2, count: 1000}
    max_loss: 100
"""

RETURN = r"""
probes:
  description: Results of the bursts, in the order of O(probes).
  returned: always; on failure, if the bursts completed
  type: list
  elements: dict
  contains:
    netns:
      description: Network namespace of the sender; null for the host's namespace.
      type: str
    to:
      description: Destination address.
      type: str
    size:
      description: Size of each packet in bytes.
      type: int
    sent:
      description: Number of packets sent.
      type: int
    received:
      description: Number of replies with unchanged payload.
      type: int
    loss:
      description: Packet loss in percent.
      type: float
    rtt:
      description: Minimum (C(min)), mean (C(avg)) and maximum (C(max)) round-trip time in milliseconds.
      type: dict
    ttl:
      description: TTL of the last reply, 64 minus the number of routers. IPv4 only.
      type: int
    path_mtu:
      description: Path MTU in bytes, as known to the sending kernel.
      type: int
    errors:
      description: Errors that the kernel reported, without duplicates.
      type: list
      elements: str
  sample:
    - {netns: pod1, to: 10.31.2.11, size: 84, sent: 200, received: 200, loss: 0.0,
       rtt: {min: 0.31, avg: 0.44, max: 1.9}, ttl: 62, path_mtu: 8264, errors: []}
streams:
  description: Results of the streams, in the order of O(streams).
  returned: always; on failure, if the streams completed
  type: list
  elements: dict
  contains:
    from_netns:
      description: Network namespace of the sender; null for the host's namespace.
      type: str
    to_netns:
      description: Network namespace of the receiver; null for the host's namespace.
      type: str
    to:
      description: Address of the receiver.
      type: str
    bytes:
      description: Number of bytes transferred and compared.
      type: int
    seconds:
      description: Duration in seconds.
      type: float
    mbits:
      description: Throughput of this Python implementation in Mbit/s. Not suited as a benchmark.
      type: float
    window_scale:
      description: TCP window scale that the receiver announced.
      type: int
    mss:
      description: MSS of the sender in bytes.
      type: int
host_counters:
  description:
    - Increase of the host's IP counters during the test.
    - C(in_receives) includes the traffic of the host itself, for example SSH.
    - For IPv6, C(interfaces) contains the counters of each interface that counted packets.
  returned: when O(host_counters) or O(expect_bypass) is true
  type: dict
  sample:
    ipv4: {in_receives: 6, forwarded: 0}
    ipv6: {in_receives: 0, forwarded: 0}
    interfaces: {wire0: {ipv6_in_receives: 0, ipv6_forwarded: 0}}
"""

import os
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
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
    """Return whether a namespace of the stream does not exist; warn if so."""
    names = [stream[end] for end in ("from_netns", "to_netns") if stream[end]]
    missing = [name for name in names if not os.path.exists(netns.path_of(name))]
    if missing:
        module.warn(
            f"streams: skipped the stream to {stream['to']}: no network namespace {' and '.join(missing)}"
        )
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
    reject_negative(module)
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
        # Until the next hop is resolved, its packets pass through the stack.
        for probe in probes:
            run_probe(replace(probe, count=1))
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
        module.fail_json(
            msg=f"packet loss exceeds max_loss of {p['max_loss']:g} %: {'. '.join(lost)}", **result
        )
    if p["expect_bypass"] and counted.forwarded > p["max_forwarded"]:
        module.fail_json(
            msg=(
                f"the host's upper stack forwarded {counted.ip4_forwarded} IPv4 and {counted.ip6_forwarded}"
                f" IPv6 packets during the test, max_forwarded is {p['max_forwarded']}: check that the"
                " programs are attached (podnet.datapath.bpf_attach) and that each Pod has its endpoint"
                " entry (podnet.datapath.bpf_state)"
            ),
            **result,
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
