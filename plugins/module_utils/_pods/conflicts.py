# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Conflicts of the desired state with other objects on the node. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from .model import SIZES, Desired, Device, Namespace, Node, NodeRoute, Route, State

DEFAULT_PRIORITIES = (0, 1024)  # of a route without a metric, IPv4 and IPv6

_Routes = Mapping[str, Sequence[NodeRoute]]  # by destination


def exclude_foreign(desired: Desired, node: Node, owner: str, managed: frozenset[Route]) -> State:
    """Return the desired state without namespaces and host routes that exist and are not managed.

    They are used as they are and never removed. ``managed`` are the host routes that this owner added.
    """
    foreign = {
        path
        for path, namespace in node.namespaces.items()
        if namespace.state == "live" and node.created_namespaces.get(path) != owner
    }
    routes = {one.route for one in node.routes} - managed
    state = desired.state
    return replace(state, namespaces=state.namespaces - foreign, host_routes=state.host_routes - routes)


def conflicts(
    desired: Desired, node: Node, owner: str, managed: frozenset[Route], excluded: Collection[str] = ()
) -> list[str]:
    """Return a message for each conflict of the desired state with objects of other owners.

    For the Pods ``excluded``, the contents of their namespaces are ignored.
    """
    used = {key for device in desired.state.devices.values() for key in device.host.settings if key in SIZES}
    problems = [
        f"{size}: this kernel does not support it: omit the option"
        for size in sorted(used - node.supported_sizes)
    ]
    routes: dict[str, list[NodeRoute]] = {}
    for one in node.routes:
        routes.setdefault(one.route.to, []).append(one)
    for device in desired.state.devices.values():
        found = [
            *_interface_conflicts(device, node, owner),
            *(() if device.name in excluded else namespace_conflicts(device, desired, node, owner)),
            *_address_conflicts(device, node, owner, routes),
        ]
        problems += [f"Pod {device.name}: {problem}" for problem in found]
    problems += _route_conflicts(desired.state, node, managed, routes)
    return problems + _controller_conflicts(desired.state, node)


def shared_values(desired: State, others: Mapping[str, Device]) -> list[str]:
    """Return what the desired Pods have in common with the owner's other Pods, which stay as they are."""

    def values(device: Device) -> list[tuple[str, str]]:
        ips = [str(ipaddress.ip_interface(text).ip) for text in sorted(device.pod.addresses)]
        return [
            ("netns", device.netns),
            ("host_interface", device.host_interface),
            *(("addresses", ip) for ip in ips),
        ]

    used = {value: device.name for device in others.values() for value in values(device)}
    return [
        f"Pod {device.name}: {option}: {value} is already used by Pod {used[option, value]}"
        for device in desired.devices.values()
        for option, value in values(device)
        if (option, value) in used
    ]


def _interface_conflicts(device: Device, node: Node, owner: str) -> list[str]:
    link = node.interfaces.get(device.host_interface)
    if link is None or link.belongs_to(owner):
        return []
    whose = f"belongs to Pod {link.pod} of owner {link.owner}" if link.owner else "is not managed"
    return [f"host_interface: {device.host_interface} exists and {whose}: remove it or choose another name"]


def namespace_conflicts(device: Device, desired: Desired, node: Node, owner: str) -> list[str]:
    """Return a message for each conflict of a Pod with its namespace, whose contents the Pod may control."""
    problems = []
    namespace = node.namespaces.get(device.netns, Namespace("absent"))
    if namespace.unreadable:
        problems.append(f"netns: {device.netns}: {namespace.unreadable}: remove them")
    if namespace.state == "absent" and device.netns in desired.existing_namespaces:
        problems.append(
            f"netns: {device.netns} does not exist: create it, or give a name to have the module create it"
        )
    if namespace.state == "other" and node.created_namespaces.get(device.netns) != owner:
        problems.append(f"netns: {device.netns} is not a network namespace: remove the file")
    inner = namespace.interfaces.get(device.interface)
    if inner is not None and inner.owner != owner:
        problems.append(
            f"interface: {device.interface} exists in {device.netns} and does not belong to this Pod:"
            f" remove it or"
            " choose another name"
        )
    destinations = {route.to for route in device.pod.routes}
    for one in namespace.routes:
        link = namespace.interfaces.get(one.route.dev)
        managed = link is not None and link.owner == owner  # changed, or removed with its interface
        if one.route.to in destinations and not managed and one.priority in DEFAULT_PRIORITIES:
            problems.append(
                f"netns: {device.netns} already has a default route ({one.route}): remove that route"
            )
    return problems


def _address_conflicts(device: Device, node: Node, owner: str, routes: _Routes) -> list[str]:
    problems = []
    for text in sorted(device.pod.addresses):
        ip = ipaddress.ip_interface(text).ip
        if str(ip) in node.addresses:
            problems.append(f"addresses: {ip} is assigned to the node itself: choose another address")
        for one in routes.get(f"{ip}/{ip.max_prefixlen}", ()):
            link = node.interfaces.get(one.route.dev)
            if link is not None and link.owner == owner:
                continue
            remedy = "remove that route"
            if link is not None and link.pod:
                remedy = f"Pod {link.pod} of owner {link.owner} has it; choose another address"
            problems.append(f"addresses: the node has another route to {ip} ({one.route}): {remedy}")
    return problems


def _route_conflicts(state: State, node: Node, managed: frozenset[Route], routes: _Routes) -> list[str]:
    problems = []
    for route in sorted(state.host_routes):
        if route.dev not in node.interfaces:
            problems.append(f"host_routes: {route}: interface {route.dev} does not exist")
        for other in routes.get(route.to, ()):
            foreign = other.route != route and other.route not in managed
            if foreign and other.priority in DEFAULT_PRIORITIES:
                problems.append(
                    f"host_routes: {route}: the node has another route to this network ({other.route}):"
                    f" remove one"
                    " of the two"
                )
    return problems


def _controller_conflicts(state: State, node: Node) -> list[str]:
    """Return what would change the path to the Ansible controller: no timer rolls that back."""
    if not node.controller or node.controller in node.addresses:
        return []
    controller = ipaddress.ip_address(node.controller)
    problems = [
        f"Pod {device.name}: addresses: {controller} is the address of the Ansible controller: choose another"
        for device in state.devices.values()
        if any(ipaddress.ip_interface(text).ip == controller for text in device.pod.addresses)
    ]
    matching = [
        (ipaddress.ip_network(one.route.to).prefixlen, -one.priority, one.route)
        for one in node.routes
        if controller in ipaddress.ip_network(one.route.to)
    ]
    length, _priority, current = max(matching, default=(0, 0, Route("another table")))
    for route in sorted(state.host_routes - {one.route for one in node.routes}):
        to = ipaddress.ip_network(route.to)
        moves = (route.via, route.dev) != (current.via, current.dev)
        if controller in to and to.prefixlen >= length and moves:
            problems.append(
                f"host_routes: {route}: it would change the path to the Ansible controller {controller} from"
                f" {current}: exclude that address, or run this from another host"
            )
    return problems
