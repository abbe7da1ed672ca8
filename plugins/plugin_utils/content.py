# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Values of options that have the right type, but that a module would reject on every node.

The modules check them again. Here they are rejected before the first module changes anything.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.podnet.datapath.plugins.filter import ladder_plan
from ansible_collections.podnet.datapath.plugins.module_utils._agent import options as agent
from ansible_collections.podnet.datapath.plugins.module_utils._boot import arguments
from ansible_collections.podnet.datapath.plugins.module_utils._cilium import model
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem, listed, suggestion
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import parse as declarations
from ansible_collections.podnet.datapath.plugins.module_utils._measure import netperf
from ansible_collections.podnet.datapath.plugins.module_utils._nic.select import SELECTORS
from ansible_collections.podnet.datapath.plugins.module_utils._pods import parse as devices
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import keys

from . import options

# Options with destinations of packets.
_PATHS = (
    "node_tuning_path",
    "node_tuning_confirm_paths",
    "bpf_datapath_path",
    "bpf_datapath_confirm_paths",
    "rollout_peers",
    "rollout_streams",
)
# Lists whose items are names.
_NAMES = {
    "benchmark_rungs": tuple(ladder_plan.RUNGS),
    "benchmark_families": tuple(ladder_plan.VERSIONS),
    "benchmark_tests": tuple(netperf.UNITS),
    "cilium_accept_conflicts": model.CONFLICTS,
}
# Any driver: whether a node has it, and its programs, do not affect the options.
_DRIVERS = dict.fromkeys(("auto", "meta", "netkit", "veth"), "veth")


def preload() -> None:
    """Read all files; Ansible's worker processes inherit them and these imports from the main process."""
    for role in ("", *options.roles()):
        options.options(role)
        options.defaults(role)
    options.profiles()


def problems(values: Mapping[str, Any]) -> list[str]:
    """Return an error for each invalid value among the options of a host, converted to their types."""
    checks = (_names, _sysctls, _boot_arguments, _nics, _paths, _pods, _cni, _cilium)
    return [problem for check in checks for problem in check(values)]


def _raised(check: Callable[[], object]) -> list[str]:
    """Return the errors that a function raises."""
    try:
        check()
    except Problem as problem:
        return str(problem).splitlines()
    return []


def _names(values: Mapping[str, Any]) -> Iterator[str]:
    for name, known in _NAMES.items():
        for item in values.get(name, ()):
            if item not in known:
                hint = suggestion(item, known) or "; set one of them"
                yield f"{name}: {item!r} is not one of {listed(known)}{hint}"


def _sysctls(values: Mapping[str, Any]) -> Iterator[str]:
    pods = values.get("node_tuning_pods") or {}
    for name, sysctls in (
        ("node_tuning_sysctls", values.get("node_tuning_sysctls")),
        ("node_tuning_pods.sysctls", pods.get("sysctls")),
    ):
        yield from _raised(lambda sysctls=sysctls, name=name: keys.parse(sysctls or {}, name))  # type: ignore[misc]


def _boot_arguments(values: Mapping[str, Any]) -> Iterator[str]:
    requested = values.get("node_tuning_boot_args", {})
    profile = options.profiles()[values.get("node_tuning_profile", "none")]
    if isinstance(requested, Mapping):
        requested = {**profile["boot_args"], **requested}
    invalid = _raised(lambda: arguments.parse(requested))
    yield from (f"node_tuning_boot_{problem}" for problem in invalid)
    if not invalid and not values.get("node_tuning_acknowledge_risk"):
        for token, risk in arguments.risks(arguments.parse(requested)).items():
            yield (
                f"node_tuning_boot_args: {token}: {risk}: remove it or the profile that sets it, or set "
                "node_tuning_acknowledge_risk: true"
            )


def _nics(values: Mapping[str, Any]) -> Iterator[str]:
    for index, nic in enumerate(values.get("node_tuning_nics", ())):
        given = [selector for selector in SELECTORS if nic.get(selector)]
        if len(given) != 1:
            yield f"node_tuning_nics[{index}]: has {listed(given)} of {listed(SELECTORS)}; set exactly one"


def _paths(values: Mapping[str, Any]) -> Iterator[str]:
    for name in _PATHS:
        for index, path in enumerate(values.get(name, ())):
            try:
                ipaddress.ip_address(path["to"])
            except ValueError:
                yield (
                    f"{name}[{index}].to: {path['to']!r} is not an IPv4 or IPv6 address; write an address "
                    "without prefix length"
                )


def _pods(values: Mapping[str, Any]) -> Iterator[str]:
    """Check Pods, policies and services as the module pods does."""
    declared = {name[len("pods_") :]: value for name, value in values.items() if name.startswith("pods_")}
    owner = declared.get("owner", "site")
    pods = declared.get("endpoints", [])
    defaults = {"owner": owner, "driver": "auto", "mode": "l3", "policy": "drop"}
    found = devices.parse({**defaults, **declared, "pods": pods}, _DRIVERS, {})[1]
    # Both find the same problems of addresses.
    found += declarations.parse({**declared, "endpoints": [] if found else pods}, owner)[1]
    for problem in found:
        name = problem.partition("[")[0].partition(":")[0]
        yield f"pods_{'endpoints' + problem[4:] if name == 'pods' else problem}"


def _cni(values: Mapping[str, Any]) -> Iterator[str]:
    """Check the options of the CNI plugin and its agent as the module cni does."""
    given = {name[len("cni_") :]: value for name, value in values.items() if name.startswith("cni_")}
    yield from (f"cni_{problem}" for problem in agent.problems(given))


def _cilium(values: Mapping[str, Any]) -> Iterator[str]:
    if values.get("cilium_apply") and not values.get("cilium_chart"):
        yield "cilium_apply: true requires cilium_chart; set it to the chart of the installed release"
