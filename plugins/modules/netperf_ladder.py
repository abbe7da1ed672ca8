#!/usr/bin/python
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: netperf_ladder
short_description: Compare network paths between two nodes with netperf
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - On the server node, starts and stops netserver processes in network namespaces to match the declared
    state.
  - On the client node, runs netperf over several paths (rungs of the ladder). The runs alternate between the
    rungs, so that slow drift of the machines affects all rungs alike. Returns every sample.
  - During each run, counts the packets that the upper stack of the client host forwarded.
extends_documentation_fragment:
  - podnet.datapath.attributes
attributes:
  check_mode:
    support: partial
    details:
      - With O(state=measured), checks namespaces and servers, but does not run netperf.
  diff_mode:
    description: Returns the netserver processes before and after.
options:
  state:
    description:
      - V(serving) ensures that exactly O(servers) run. Other netservers that this module started are stopped.
      - V(stopped) stops all netservers that this module started. Other netservers are not affected.
      - V(measured) runs O(tests) on O(rungs) and changes nothing.
    type: str
    choices: [serving, stopped, measured]
    default: measured
  servers:
    description: The netservers to run. Used with O(state=serving).
    type: list
    elements: dict
    default: []
    suboptions:
      netns:
        description: Name of the network namespace. The default is the host's namespace.
        type: str
      address:
        description: The address to listen on.
        type: str
        required: true
  rungs:
    description: Paths to compare, in the order of the ladder. Required if O(state=measured).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description:
          - Name of the rung in the results.
          - The default is the kind of the outgoing device, for example C(veth) or C(meta).
        type: str
      group:
        description: Group of rungs to compare with each other, for example C(wire) or C(local).
        type: str
        default: wire
      netns:
        description: Name of the network namespace to run netperf in. The default is the host's namespace.
        type: str
      target:
        description: IPv4 or IPv6 address of the netserver.
        type: str
        required: true
  tests:
    description: Tests to run on each rung, request-response (V(tcp_rr)) or bulk transfer (V(tcp_stream)).
    type: list
    elements: str
    choices: [tcp_rr, tcp_stream]
    default: [tcp_rr, tcp_stream]
  samples:
    description: Number of runs of each test on each rung, in addition to one warm-up run.
    type: int
    default: 5
  seconds:
    description: Duration of a run in seconds.
    type: int
    default: 10
  port:
    description: TCP port of the netservers.
    type: int
    default: 12865
  devices:
    description: NICs to describe in RV(environment).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Start netservers for two rungs
  podnet.datapath.netperf_ladder:
    state: serving
    servers:
      - {address: 172.31.0.2}
      - {netns: pod3, address: 10.31.2.11}

- name: Measure both rungs
  podnet.datapath.netperf_ladder:
    rungs:
      - {name: host, target: 172.31.0.2}
      - {name: meta, netns: pod1, target: 10.31.2.11}
    samples: 5
    seconds: 10
    devices: [eth0]
  register: ladder

- name: Stop the netservers
  podnet.datapath.netperf_ladder:
    state: stopped
"""

RETURN = r"""
runs:
  description: All runs in chronological order.
  returned: O(state=measured); on failure, the completed runs
  type: list
  elements: dict
  contains:
    round:
      description: Number of the round. Round 0 is the warm-up.
      type: int
    warmup:
      description: Whether the run is a warm-up run, which the report excludes.
      type: bool
    group:
      description: Group of the rung.
      type: str
    rung:
      description: Name of the rung.
      type: str
    test:
      description: Name of the test.
      type: str
    start:
      description: Start time in seconds since the Unix epoch.
      type: float
    elapsed:
      description: Duration in seconds, as netperf measured it.
      type: float
    forwarded:
      description: Packets that the upper stack of the client host forwarded during the run.
      type: int
    transactions:
      description: Transactions per second (V(tcp_rr)).
      type: float
    min_us:
      description:
        - Minimum latency in microseconds (V(tcp_rr)). C(mean_us), C(p50_us), C(p90_us), C(p99_us) and
          C(max_us) are the mean, the percentiles and the maximum.
      type: float
    mbits:
      description: Throughput in Mbit/s (V(tcp_stream)).
      type: float
    retransmits:
      description: Segments that the sender retransmitted (V(tcp_stream)).
      type: float
  sample:
    - {round: 1, warmup: false, group: wire, rung: meta, test: tcp_rr, start: 1766000000.1, elapsed: 10.0,
       forwarded: 0, transactions: 26556.3, min_us: 31, mean_us: 37.5, p50_us: 36, p90_us: 41, p99_us: 60,
       max_us: 802}
paths:
  description: The rungs with their outgoing device, as input for P(podnet.datapath.ladder#filter).
  returned: O(state=measured)
  type: list
  elements: dict
  sample:
    - {group: wire, name: meta, netns: pod1, target: 10.31.2.11, source: 10.31.1.11, device: eth0, kind: meta,
       mtu: 8264}
environment:
  description: Kernel, CPU, NICs and settings of this node.
  returned: success
  type: dict
  sample: {kernel: 6.1.0-41-amd64, cpu: AMD EPYC, emulated: false, nics: {eth0: {driver: ice, mtu: 9000}}}
version:
  description: Version of netperf.
  returned: O(state=measured)
  type: str
  sample: "2.7.0"
servers:
  description: The netservers that run after this call, each as C(<namespace>-<address>-<port>).
  returned: O(state=serving) and O(state=stopped)
  type: list
  elements: str
  sample: [host-172.31.0.2-12865]
"""

from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.podnet.datapath.plugins.module_utils._core.arguments import reject_negative
from ansible_collections.podnet.datapath.plugins.module_utils._measure.environment import (
    environment,
    run_tool,
)
from ansible_collections.podnet.datapath.plugins.module_utils._measure.netperf import (
    NetperfError,
    Rung,
    Server,
    check_server,
    describe_path,
    find_tool,
    forget_dead,
    measure,
    plan_servers,
    read_running,
    schedule,
    start_server,
    stop_server,
    unique,
)
from ansible_collections.podnet.datapath.plugins.module_utils._measure.probe import (
    ProbeError,
    netns,
    parse_address,
)


def ensure_servers(module: AnsibleModule, result: dict[str, Any]) -> None:
    """Start and stop netservers until exactly ``servers`` run; set the module's result."""
    p = module.params
    wanted = [
        Server(str(parse_address("servers: address", o["address"])), o["netns"], p["port"])
        for o in (p["servers"] if p["state"] == "serving" else [])
    ]
    unique("servers", (server.name for server in wanted))
    running = read_running()
    to_stop, to_start = plan_servers(running, wanted)
    for server in to_start:
        with netns(server.netns):
            pass
    netserver = find_tool("netserver") if to_start else ""
    result["changed"] = bool(to_stop or to_start)
    result["servers"] = sorted((set(running) - set(to_stop)) | {server.name for server in to_start})
    result["diff"] = {
        "before": "".join(f"{name}\n" for name in sorted(running)),
        "after": "".join(f"{name}\n" for name in result["servers"]),
    }
    if module.check_mode:
        return
    started = {}
    try:
        for server in to_start:
            started[server.name] = start_server(netserver, server)
    except NetperfError:
        for name, process in started.items():
            stop_server(name, process)
        raise
    for name in to_stop:
        stop_server(name, running[name])
    forget_dead(result["servers"])


def run_ladder(module: AnsibleModule, result: dict[str, Any]) -> None:
    """Run the schedule and add each run to the result."""
    p = module.params
    rungs = [
        Rung(o["name"], str(parse_address("rungs: target", o["target"])), o["group"], o["netns"])
        for o in p["rungs"]
    ]
    if p["samples"] < 1 or p["seconds"] < 1:
        raise NetperfError(f"samples: {p['samples']}, seconds: {p['seconds']}: both must be at least 1")
    netperf = find_tool("netperf")
    result["version"] = (run_tool(netperf, "-V") or "").rpartition(" ")[2]
    result["paths"] = []
    for rung in rungs:
        check_server(rung, p["port"])
        result["paths"].append(describe_path(rung))
    rungs = [replace(rung, name=path["name"]) for rung, path in zip(rungs, result["paths"])]
    unique("rungs", (str(rung) for rung in rungs))
    if not module.check_mode:
        for run in schedule(rungs, p["tests"], p["samples"]):
            result["runs"].append(measure(netperf, run, p["seconds"], p["port"]))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["serving", "stopped", "measured"], "default": "measured"},
            "servers": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"netns": {"type": "str"}, "address": {"type": "str", "required": True}},
            },
            "rungs": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str"},
                    "group": {"type": "str", "default": "wire"},
                    "netns": {"type": "str"},
                    "target": {"type": "str", "required": True},
                },
            },
            "tests": {
                "type": "list",
                "elements": "str",
                "choices": ["tcp_rr", "tcp_stream"],
                "default": ["tcp_rr", "tcp_stream"],
            },
            "samples": {"type": "int", "default": 5},
            "seconds": {"type": "int", "default": 10},
            "port": {"type": "int", "default": 12865},
            "devices": {"type": "list", "elements": "str", "default": []},
        },
        required_if=[("state", "measured", ["rungs"])],
        supports_check_mode=True,
    )
    reject_negative(module)
    result = {"changed": False, "environment": environment(module.params["devices"])}
    try:
        if module.params["state"] == "measured":
            result["runs"] = []
            run_ladder(module, result)
        else:
            ensure_servers(module, result)
    except (NetperfError, ProbeError) as e:
        module.fail_json(msg=str(e), runs=result.get("runs", []))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
