# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan depends on: a node's kernel, its agent, and the cluster's objects that configure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

OWN_NAME = "zz-podnet"  # prefix of our CiliumNodeConfigs
# Conflicts that the agent does not check, so that operators may accept them.
CONFLICTS = ISTIO, KATA, GKE = "istio", "kata", "gke_workload_identity"


@dataclass(frozen=True)
class Node:
    """What a node's kernel and devices support; ``gso_limit`` is the smallest limit of Cilium's devices.

    ``tunnel_big_tcp``: its agent has BIG TCP over a tunnel, which it probes and does not report otherwise.
    """

    kernel: str
    netkit: bool = False
    netkit_scrub: bool = False
    missing_helpers: Sequence[str] = ()
    ipv4_big_tcp: bool = False
    ipv6_big_tcp: bool = False
    gso_limit: int = 0
    bbr: bool = False
    fq: bool = True
    tunnel_big_tcp: bool = False


@dataclass(frozen=True)
class Agent:
    """What a node's agent reports: its release, the settings in effect, and the keys that all nodes share."""

    version: str
    settings: Mapping[str, str]
    cluster: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Override:
    """A CiliumNodeConfig that applies to the node."""

    name: str
    keys: Mapping[str, str]


@dataclass(frozen=True)
class Cluster:
    """What the API says about the node's configuration.

    ``config`` is the ConfigMap; ``overrides`` are the CiliumNodeConfigs of others that apply to the node.
    ``allowed`` and ``denied`` limit the keys that they may override. ``conflicts`` maps conflicting software
    to the objects that show it.
    """

    config: Mapping[str, str]
    overrides: Sequence[Override] = ()
    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()
    conflicts: Mapping[str, str] = field(default_factory=dict)

    def configured(self, own: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the configuration of an agent that starts now, with the keys ``own`` in our override."""
        found = dict(self.config)
        # As the agent: the last name in lexicographic order wins.
        for override in sorted([*self.overrides, Override(OWN_NAME, own or {})], key=lambda one: one.name):
            found.update({key: value for key, value in override.keys.items() if self.may_override(key)})
        return found

    def may_override(self, key: str) -> bool:
        """Return whether the agents' DaemonSet lets a CiliumNodeConfig override a key."""
        return key in self.allowed if self.allowed else key not in self.denied


@dataclass(frozen=True)
class Target:
    """The node that gets settings. ``accepted`` are the conflicts that do not concern its Pods."""

    name: str
    cluster: Cluster
    node: Node
    agent: Agent
    accepted: frozenset[str] = frozenset()

    @property
    def conflicts(self) -> dict[str, str]:
        """Return the conflicts that are not accepted, with the objects that show them."""
        found = self.cluster.conflicts
        return {name: objects for name, objects in found.items() if name not in self.accepted}


def agent_of(facts: Mapping[str, Any]) -> Agent:
    """Return the agent from the return values of cilium_info."""
    return Agent(str(facts["version"]), dict(facts["settings"]), dict(facts["cluster"]))


def node_of(facts: Mapping[str, Any]) -> Node:
    """Return the node from the return values of cilium_info."""
    return Node(**{**facts["node"], "missing_helpers": tuple(facts["node"]["missing_helpers"])})
