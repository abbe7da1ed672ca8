# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compile a declaration to an image of the maps of this node, and single Pods to changes of the image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .cluster import CLUSTER
from .compile_services import ServiceCompiler, has_external
from .identities import Identities, object_of
from .image import Device, Endpoint, Image, ImageChanges
from .layout import (
    CIDR_NO_MASQUERADE,
    CIDR_STACK_NAT,
    FEATURE_EXTERNAL,
    FEATURE_HOST_BACKENDS,
    FEATURE_MASQUERADE,
    FEATURE_NODE_PORTS,
    FEATURE_SERVICES,
    FEATURE_STACK_NAT,
    POD_ANY_SOURCE,
    POD_L2,
    POD_MASQUERADE,
    POD_META,
    POD_NETKIT,
    encode_cidr,
    number_of,
)
from .masquerade import encode_node
from .model import Address, Declaration, Masquerade, Network, Pod, Policy, Service
from .node import Interface, Node

_MAX_AFFECTED = 2000  # addresses that policies change; with more, computing the whole image is as fast
Slots = Mapping[tuple[str, str], int]  # of Pods in the map ``metrics``, by owner and name


class Compiler:
    """The image of a declaration, and what its Pods change.

    ``problems`` has a problem for each policy of an owner with too many port ranges, ``unenforced`` for each
    object of the cluster that cannot be enforced: what these concern is denied. Changes of single Pods raise
    ``Full`` if they do not fit into the maps.
    """

    def __init__(
        self, declaration: Declaration, node: Node, slots: Slots, former: Image | None = None
    ) -> None:
        """Identities keep their numbers of the image ``former`` if they can."""
        masquerades = any(pod.masquerade for pod in declaration.pods if pod.device in node.interfaces)
        flags = dict.fromkeys(declaration.stack_services, CIDR_STACK_NAT)
        for network in declaration.masquerade.excluded if masquerades else ():
            flags[network] = flags.get(network, 0) | CIDR_NO_MASQUERADE
        former = former or Image()
        numbers = [one.identity for kind in (former.endpoints, former.pods) for one in kind.values()]
        numbers += [number for number, dummy in former.cidrs.values()]
        self._interfaces = {**node.interfaces}
        self._addresses = node.addresses
        self._slots = {**slots}
        self._changes = ImageChanges()
        self._left_out: set[str] = set()
        self._services = ServiceCompiler()
        while True:
            excess = self._compile_policies(declaration, flags, numbers, former)
            if not excess:
                break
            self._left_out.update(excess)
        self.image.features |= FEATURE_MASQUERADE * masquerades
        self.image.features |= FEATURE_STACK_NAT * bool(declaration.stack_services)
        self._masquerade = declaration.masquerade if masquerades else Masquerade()
        self.set_services(declaration.services, node, declaration.unenforced)
        self._identities.seal()
        self.take_changes()

    def _compile_policies(
        self, declaration: Declaration, flags: Mapping[Network, int], numbers: Sequence[int], former: Image
    ) -> list[str]:
        """Compute Pods and policies; return policies of the cluster whose rules have to be left out."""
        policies = [
            replace(one, rules=()) if one.owner == CLUSTER and object_of(one) in self._left_out else one
            for one in declaration.policies
        ]
        self._identities = Identities(policies, flags, numbers)
        excess = self._identities.excess_prefixes()
        if excess:
            return excess
        self.image = Image(policy=self._identities.entries)
        self._prefer(declaration.pods, former)
        for pod in declaration.pods:
            for address in pod.addresses:
                self.set_address(address, pod)
            self.set_device(pod)
        for network, (key, bits) in self._identities.selection.prefixes.items():
            self.image.cidrs[encode_cidr(network)] = (self._identities.acquire(key, subject=False), bits)
        excess = self._identities.excess_pairs()
        if not excess:
            self._identities.build()
            excess = self._identities.excess_rulesets()
        return excess

    def set_services(self, services: Sequence[Service], node: Node, conflicts: Sequence[str]) -> None:
        """Replace all services of the image, and problems of those that conflict with others."""
        self._conflicts = [*conflicts]
        self.image.services, self.image.backends, self.image.node_addresses = {}, {}, frozenset()
        self._services.add(self.image, services, node)
        external, masquerade = has_external(services), self._masquerade
        if external:  # Connections from the wire to backends of other nodes have this node's address.
            masquerade = replace(
                masquerade,
                ipv4=masquerade.ipv4 or node.sources.ipv4,
                ipv6=masquerade.ipv6 or node.sources.ipv6,
            )
        if self.image.pods or external:
            self.image.node = encode_node(masquerade.ipv4, masquerade.ipv6, node.masquerade_ports)
        else:
            self.image.node = Image().node
        self.image.features &= FEATURE_MASQUERADE | FEATURE_STACK_NAT
        self.image.features |= FEATURE_SERVICES * bool(self.image.services)
        self.image.features |= FEATURE_NODE_PORTS * any(one.address.is_unspecified for one in services)
        self.image.features |= FEATURE_EXTERNAL * external
        self.image.features |= FEATURE_HOST_BACKENDS * self._services.has_host_backends

    @property
    def problems(self) -> list[str]:
        return self._identities.problems

    @property
    def unenforced(self) -> list[str]:
        return [
            *self._conflicts,
            *(
                f"policies ({name}): the maps have no room for its rules; what they allow is denied"
                for name in sorted(self._left_out)
            ),
            *self._identities.unenforced,
        ]

    def _prefer(self, pods: Iterable[Pod], former: Image) -> None:
        """Assign the numbers that identities have in ``former``, before other ones get a number."""
        selection, numbers = self._identities.selection, self._identities.numbers

        for pod in pods:
            key = selection.of_pod(pod)
            for address in pod.addresses:
                known = former.endpoints.get(address.packed)
                if known:
                    numbers.prefer(key | selection.of_address(address), known.identity)
            interface = self._interfaces.get(pod.device)
            if interface and interface.ifindex in former.pods:
                numbers.prefer(key, former.pods[interface.ifindex].identity)
        for network, (key, dummy) in selection.prefixes.items():
            if encode_cidr(network) in former.cidrs:
                numbers.prefer(key, former.cidrs[encode_cidr(network)][0])

    # Policies

    def change_policies(
        self, removed: Sequence[Policy], added: Sequence[Policy], pods: Iterable[tuple[Address, Pod]]
    ) -> bool:
        """Change policies of the cluster; return False if the image has to be computed again.

        ``pods`` are the Pods that have addresses. Raises ``Full``: then, too, it has to be computed again.
        """
        change = self._identities.plan_change(removed, added)
        if change is None or self._left_out:
            return False
        affected, local = [], {}
        for address, pod in pods:
            before = self.image.endpoints.get(address.packed)
            if before is None:
                continue
            if before.ifindex:  # The default verdicts may change.
                local[pod.device] = pod
            elif not change.affects(self._identities.numbers.keys[before.identity], pod):
                continue
            affected.append((address, pod))
        if len(affected) > _MAX_AFFECTED:
            return False
        entries = {**self.image.policy}
        self._identities.begin_change(change)
        for address, pod in affected:
            self.set_address(address, pod)
        for pod in local.values():
            self.set_device(pod)
        self._identities.end_change()
        changes = self._identities.changes
        for key in [key for key, value in changes.items() if entries.get(key) == value]:
            del changes[key]
        return True

    # Single Pods

    def add_interfaces(self, interfaces: Mapping[str, Interface], slots: Slots) -> None:
        """Add devices of new Pods and their slots."""
        self._interfaces.update(interfaces)
        self._slots.update(slots)

    def set_address(self, address: Address, pod: Pod | None) -> None:
        """Change the Pod that has an address; None: no Pod.

        No Pod of another node has an address of this node, whatever its kubelet reports: packets of the node
        would lose their identity.
        """
        if pod and not pod.device and address in self._addresses:
            pod = None
        before = self.image.endpoints.get(address.packed)
        after = self._endpoint(address, pod) if pod else None
        if before:
            self._identities.release(before.identity, subject=bool(before.ifindex))
        if before == after:
            return
        if after:
            self.image.endpoints[address.packed] = after
        else:
            del self.image.endpoints[address.packed]
        self._changes.endpoints[address.packed] = after

    def set_device(self, pod: Pod, remove: bool = False) -> None:
        """Change the device of a Pod, if it is one of this node, or remove it."""
        interface = self._interfaces.get(pod.device)
        if interface is None:
            return
        before = self.image.pods.get(interface.ifindex)
        after = None if remove else self._device(pod, interface)
        if before:
            self._identities.release(before.identity, subject=True)
        if remove:
            del self._interfaces[pod.device]
            self.image.pods.pop(interface.ifindex, None)
        elif after:
            self.image.pods[interface.ifindex] = after
        if before != after:
            self._changes.pods[interface.ifindex] = after

    def take_changes(self) -> ImageChanges:
        """Return the changes of the image since the last call."""
        changes, self._changes = self._changes, ImageChanges()
        changes.policy = self._identities.take_changes()
        return changes

    def _endpoint(self, address: Address, pod: Pod) -> Endpoint:
        selection = self._identities.selection
        key = selection.of_pod(pod) | selection.of_address(address)
        interface = self._interfaces.get(pod.device)
        identity = self._identities.acquire(key, subject=interface is not None)
        if interface is None:
            return Endpoint(0, number_of(pod.owner), identity, 0, 0, 0)
        return Endpoint(
            interface.ifindex,
            number_of(pod.owner),
            identity,
            self._identities.enforce(identity),
            self._slots.get((pod.owner, pod.name), 0),
            _flags(pod, interface),
        )

    def _device(self, pod: Pod, interface: Interface) -> Device:
        identity = self._identities.acquire(self._identities.selection.of_pod(pod), subject=True)
        return Device(
            number_of(pod.owner),
            self._slots.get((pod.owner, pod.name), 0),
            _flags(pod, interface),
            identity,
            self._identities.enforce(identity),
            interface.mac,
            pod.netns_cookie & 0xFFFFFFFF,
            pod.rate,
        )


def _flags(pod: Pod, interface: Interface) -> int:
    return (
        POD_NETKIT * (interface.kind == "netkit")
        | POD_META * (interface.kind == "meta")
        | POD_L2 * interface.has_arp
        | POD_MASQUERADE * pod.masquerade
        | POD_ANY_SOURCE * (not pod.anti_spoof)
    )
