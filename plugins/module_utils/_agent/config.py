# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration file of the agent, which the role ``cni`` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .._core.plan import Problem
from .._kernel.bpf import DEFAULT_PIN_PATH
from .._pods.api import PROGRAMS, NodeSpec
from .._programs import sockets
from .._programs.resolve import Request

PATH = "/etc/podnet/agent.json"
OWNER = "cni"
UPLINK_PROGRAMS = {"ingress": "host_ingress", "egress": "host_egress"}  # by hook


@dataclass(frozen=True)
class Config:
    """How the agent attaches Pods; options of the role ``cni`` without its prefix.

    ``pod_cidrs`` are the address ranges of this node's Pods, by default those of its Node object.
    With a ``kubeconfig``, ``routes`` to other nodes come from their Node objects, unless it is ``none``,
    ``network_policies`` is whether NetworkPolicy objects are enforced. With these, services are translated
    for Pods; for all clients and addresses, with the host ports of Pods, if ``kube_proxy`` is ``replace``.
    ``masquerade`` is that of the module ``pods``; all Pods are masqueraded if it has an address. The health
    and metrics endpoint is disabled if ``metrics_port`` is 0. ``object`` is loaded after a boot, and attached
    to the ``uplinks`` at the hook ``hook_type``, and to the sockets of ``cgroup_path`` as ``socket_lb``
    requires.
    """

    node: str
    object: str
    driver: str = "auto"
    trusted_pods: bool = True
    mode: str = "l3"
    mtu: int | None = None
    gso_max_size: int | None = None
    gro_max_size: int | None = None
    gso_ipv4_max_size: int | None = None
    gro_ipv4_max_size: int | None = None
    ipv4_advmss: int | None = None
    pin_path: str = DEFAULT_PIN_PATH
    uplinks: Sequence[str] = ()
    hook_type: str = "auto"
    socket_lb: str = "disabled"
    cgroup_path: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    masquerade: Mapping[str, Any] = field(default_factory=dict)
    stack_services: Sequence[str] = ()
    pod_cidrs: Sequence[str] = ()
    kubeconfig: str = ""
    routes: str = "kubernetes"
    network_policies: bool = True
    kube_proxy: str = "keep"
    metrics_address: str = "127.0.0.1"
    metrics_port: int = 0

    def node_spec(self) -> NodeSpec:
        """Return what all Pods of the agent share."""
        in_cluster = bool(self.kubeconfig and self.network_policies)
        shared = {one.name: getattr(self, one.name) for one in fields(self) if one.name in _SHARED}
        return NodeSpec(
            name=self.node,
            owner=OWNER,
            masquerade=self.masquerade or None,
            in_cluster=in_cluster,
            **shared,
        )

    def uses_cluster(self) -> bool:
        """Return whether the datapath has policies or services of a cluster."""
        return bool(self.kubeconfig) and (self.network_policies or self.kube_proxy == "replace")

    def programs(self) -> set[str]:
        """Return the programs that Pods and uplinks require."""
        return {*self._uplink_programs().values(), *PROGRAMS.values()}

    def _uplink_programs(self) -> dict[str, str]:
        """Return the programs of uplinks by hook: at egress, only the translation of services needs one."""
        hooks = UPLINK_PROGRAMS if self.kube_proxy == "replace" else ("ingress",)
        return {hook: UPLINK_PROGRAMS[hook] for hook in hooks}

    def requests(self) -> list[Request]:
        """Return the attachments to the uplinks and to sockets. Raises ``Problem``."""
        uplinks = [
            Request(program, device, hook, self.hook_type)
            for device in self.uplinks
            for hook, program in self._uplink_programs().items()
        ]
        return [*uplinks, *sockets.select(self.socket_lb, self.cgroup_path).requests]


_SHARED = {one.name for one in fields(NodeSpec)} - {"name", "owner", "masquerade", "in_cluster"}


def read(path: str = PATH) -> Config:
    """Return the configuration. Raises ``Problem``."""
    try:
        with open(path, encoding="utf-8") as file:
            raw = json.load(file)
        return Config(**raw)
    except (OSError, ValueError, TypeError) as error:
        raise Problem(f"{path}: {error}: run the role podnet.datapath.cni again") from None
