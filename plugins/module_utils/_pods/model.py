# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node's Pods should be and which changes take them there. Private to this collection.

Pure: nothing here asks or changes the kernel. ``resolve`` turns the options of C(meta_device) into the
desired state, ``conflicts`` holds it against what else is on the node, and ``plan`` compares two states.
Check mode, diff, apply and the way back after a failure all use the list of changes that ``plan`` returns.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from .._kernel import netns as _netns

# What a veth (or any pair in L2 mode) sends to: never assigned to anything, resolved by permanent neighbours.
GATEWAYS = {4: "169.254.1.1", 6: "fe80::1"}
DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}
DEFAULT_PRIORITIES = (0, 1024)  # of a route that names none, IPv4 and IPv6
IPV4_TCP = 40  # bytes of an IPv4 and a TCP header without options
SMALLEST_ADVMSS = 256  # net.ipv4.route.min_adv_mss, below which the kernel advertises that instead

SIZES = ("gso_max_size", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size")
LARGEST_SIZE = 8 * 65535  # GSO_MAX_SIZE of linux/netdevice.h, bytes
SMALLEST_MTU, SMALLEST_MTU6, LARGEST_MTU = 68, 1280, 65535  # RFC 791, RFC 8200, ETH_MAX_MTU; bytes

UNKNOWN_PROGRAM = -1  # a program that is still to be loaded (check mode only)
NO_PROGRAM = 0

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?\Z")
_OWNER = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")


class Route(NamedTuple):
    """A route by its destination (CIDR), next hop and device; the latter two may be empty.

    ``advmss`` is the MSS that TCP advertises over it, 0 for what follows from the MTU.
    """

    to: str
    via: str = ""
    dev: str = ""
    advmss: int = 0

    def __str__(self) -> str:
        words = [f"{word} {value}" for word, value in self._asdict().items() if value]
        return " ".join(words).removeprefix("to ")


@dataclass(frozen=True)
class End:
    """One end of a pair. ``settings`` holds only what is managed: mtu, mac, up, loopback and SIZES."""

    settings: Mapping[str, object] = field(default_factory=dict)
    addresses: frozenset[str] = frozenset()
    neighbours: frozenset[tuple[str, str]] = frozenset()
    routes: frozenset[Route] = frozenset()


@dataclass(frozen=True)
class Device:
    """A Pod's device: a pair whose first end is the host's and whose second end is in the Pod.

    ``driver_settings`` holds what is managed of: policy, peer_policy (pass or drop), from_pod and
    to_pod (program ids). An existing device whose second end was not found is not ``whole``.
    """

    name: str
    driver: str
    mode: str
    netns: str
    interface: str
    host_interface: str
    driver_settings: Mapping[str, object]
    host: End
    pod: End
    whole: bool = True


@dataclass(frozen=True)
class State:
    """Everything of one owner: devices by Pod, namespaces that the module made, routes of the host."""

    devices: Mapping[str, Device] = field(default_factory=dict)
    namespaces: frozenset[str] = frozenset()
    host_routes: frozenset[Route] = frozenset()


@dataclass(frozen=True)
class Change:
    """One step. ``option`` is the option of the Pod that asks for it, for error messages."""

    action: str
    option: str
    device: Device | None = None
    end: str = ""
    value: Any = None

    @property
    def of(self) -> Device:
        """The device of a change that has one."""
        if self.device is None:
            raise ValueError(f"{self.action} subsystems no device")
        return self.device

    def __str__(self) -> str:
        where = ""
        if self.device is not None:
            name = self.device.host_interface if self.end == "host" else self.device.interface
            where = f"{self.device.name}: "
            if self.end:
                where += f"{name} ({self.end} end): "
        value = self.value
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {_word(value[key])}" for key in sorted(value))
        elif isinstance(value, tuple) and not isinstance(value, Route):
            value = " at ".join(value)
        return where + self.action.replace("_", " ") + (f" {value}" if value is not None else "")


def _word(value: object) -> object:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


# Options to desired state


@dataclass(frozen=True)
class Desired:
    """The outcome of ``resolve``: the desired state, and of which namespaces the option gave a path."""

    state: State
    existing_namespaces: frozenset[str]


def host_interface_of(name: str) -> str:
    """Return the default name of the host's end: 14 characters, the same on every run."""
    return "pn" + hashlib.sha256(name.encode()).hexdigest()[:12]


def mac_of(name: str, end: str) -> str:
    """Return a stable, locally administered MAC address for one end of a Pod's device in L2."""
    digest = hashlib.sha256(f"{end}/{name}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in b"\x02" + digest[:5])


def interface_problem(name: str) -> str | None:
    """Say what is wrong with an interface name (dev_valid_name() of net/core/dev.c), or None."""
    if not name or len(name.encode()) > 15:
        return "must have 1 to 15 bytes"
    if name in (".", "..", "lo", "all", "default"):
        return "is a reserved name"
    if re.search(r"[\s/:%]", name):
        return "must not hold blanks, '/', ':' or '%'"
    return None


def _address(text: str) -> str:
    """Return an address in its canonical form with a prefix length; raise ``ValueError`` with the reason."""
    try:
        address = ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError("is no IP address (write it as 10.0.0.1/32 or fd00::1/128)") from None
    if address.ip.is_multicast or address.ip.is_unspecified or address.ip.is_loopback:
        raise ValueError("is no address that a Pod can have")
    if address.ip.is_link_local:
        raise ValueError("is link-local: the kernel and the Pod's gateway manage those, leave it out")
    return str(address)


def _route(entry: Mapping[str, Any]) -> Route:
    """Return a route of the host in canonical form; raise ``ValueError`` with the reason."""
    try:
        to = ipaddress.ip_network(entry["to"])
    except ValueError as error:
        raise ValueError(f"to: {entry['to']!r} is no network: {error}") from None
    via, dev = "", entry.get("dev") or ""
    if entry.get("via"):
        try:
            hop = ipaddress.ip_address(entry["via"])
        except ValueError:
            raise ValueError(f"via: {entry['via']!r} is no IP address") from None
        if hop.version != to.version:
            raise ValueError(f"via: {hop} and to: {to} are of two families")
        via = str(hop)
    if dev and interface_problem(dev):
        raise ValueError(f"dev: {dev!r} {interface_problem(dev)}")
    if not dev:
        raise ValueError(f"dev: missing for {to}")
    return Route(str(to), via, dev)


def _mtu_problem(mtu: int | None, addresses: Iterable[str]) -> str | None:
    if mtu is None:
        return None
    smallest = SMALLEST_MTU6 if any(":" in address for address in addresses) else SMALLEST_MTU
    if not smallest <= mtu <= LARGEST_MTU:
        return f"mtu: {mtu} is outside {smallest} to {LARGEST_MTU}" + (
            ", IPv6 needs 1280" if smallest == SMALLEST_MTU6 else ""
        )
    return None


def _advmss_problem(advmss: int | None, mtu: int | None) -> str | None:
    if advmss is None:
        return None
    most = (mtu or LARGEST_MTU) - IPV4_TCP
    if not SMALLEST_ADVMSS <= advmss <= most:
        return (
            f"ipv4_advmss: {advmss} is outside {SMALLEST_ADVMSS} to {most}, the MTU less {IPV4_TCP} bytes of"
            " headers: give the MTU that it is meant for too"
        )
    return None


def device_of(
    pod: Mapping[str, Any],
    options: Mapping[str, Any],
    driver: str,
    programs: Mapping[str, int],
    addresses: Sequence[str],
) -> Device:
    """Return the device that a valid Pod should have; ``programs`` has program ids by direction."""
    name = pod["name"]
    netns = _netns.path_of(pod.get("netns") or name)
    layer2 = driver == "veth" or options["mode"] == "l2"
    mtu = pod.get("mtu") or options.get("mtu")
    common: dict[str, object] = {"up": True}
    if mtu:
        common["mtu"] = mtu
    common.update({size: options[size] for size in SIZES if options.get(size)})
    macs = {end: mac_of(name, end) for end in ("host", "pod")}
    versions = sorted({ipaddress.ip_interface(address).version for address in addresses})
    bare = [ipaddress.ip_interface(address).ip for address in addresses]
    driver_settings: dict[str, object] = {}
    if driver != "veth":
        driver_settings = {"policy": options["policy"], "peer_policy": options["policy"]}
    if driver == "meta":
        driver_settings.update(programs)
    return Device(
        name=name,
        driver=driver,
        mode="l2" if layer2 else "l3",
        netns=netns,
        interface=pod.get("interface") or "eth0",
        host_interface=pod.get("host_interface") or host_interface_of(name),
        driver_settings=driver_settings,
        host=End(
            settings={**common, **({"mac": macs["host"]} if layer2 else {})},
            neighbours=frozenset((str(ip), macs["pod"]) for ip in bare) if layer2 else frozenset(),
            routes=frozenset(Route(f"{ip}/{ip.max_prefixlen}") for ip in bare),
        ),
        pod=End(
            settings={**common, "loopback": True, **({"mac": macs["pod"]} if layer2 else {})},
            addresses=frozenset(addresses),
            neighbours=frozenset((GATEWAYS[v], macs["host"]) for v in versions) if layer2 else frozenset(),
            routes=frozenset(
                Route(
                    DEFAULT_ROUTES[v],
                    GATEWAYS[v] if layer2 else "",
                    advmss=(options.get("ipv4_advmss") or 0) if v == 4 else 0,
                )
                for v in versions
            ),
        ),
    )


def resolve(
    options: Mapping[str, Any], drivers: Mapping[str, str], programs: Mapping[str, int]
) -> tuple[Desired, list[str]]:
    """Return the desired state and all that is wrong with the options.

    ``drivers`` gives the driver that each value of the option ``driver`` stands for here (auto among
    them), ``programs`` the program ids by direction that meta devices should have. A Pod with a problem
    of its own is left out of the state, so that the rest can still be held against the node.
    """
    problems: list[str] = []
    devices: dict[str, Device] = {}
    existing: set[str] = set()
    taken: dict[tuple[str, str], str] = {}

    def claim(option: str, value: str, who: str) -> str | None:
        if (option, value) in taken:
            return f"{option}: {value} is already that of {taken[option, value]}"
        taken[option, value] = who
        return None

    if not _OWNER.match(options["owner"]):
        problems.append(f"owner: {options['owner']!r} must be letters, digits, '-' or '_', at most 63")
    for size in SIZES:
        if options.get(size) is not None and not 1 <= options[size] <= LARGEST_SIZE:
            problems.append(f"{size}: {options[size]} is outside 1 to {LARGEST_SIZE} bytes")

    for index, pod in enumerate(options["pods"]):
        name = pod["name"]
        who = f"pods[{index}] ({name})"
        found: list[str | None] = []
        if not _NAME.match(name):
            found.append(f"name: {name!r} must be letters, digits, '-', '_' or '.', at most 63")
        netns = pod.get("netns") or name
        if not netns.startswith("/") and not _NAME.match(netns):
            found.append(
                f"netns: {netns!r} must be a name of letters, digits, '-', '_' and '.', or an absolute path"
            )
        interfaces = {
            "interface": pod.get("interface") or "eth0",
            "host_interface": pod.get("host_interface") or host_interface_of(name),
        }
        for option, interface in interfaces.items():
            if interface_problem(interface):
                found.append(f"{option}: {interface!r} {interface_problem(interface)}")
        addresses: list[str] = []
        for text in pod.get("addresses") or []:
            try:
                addresses.append(_address(text))
            except ValueError as error:
                found.append(f"addresses: {text!r} {error}")
        found.append(_mtu_problem(pod.get("mtu") or options.get("mtu"), addresses))
        found.append(_advmss_problem(options.get("ipv4_advmss"), pod.get("mtu") or options.get("mtu")))
        twice = claim("name", name, who)
        found.append(twice)
        if not twice:  # the defaults of the others follow from the name
            found.append(claim("netns", _netns.path_of(netns), who))
            found.append(claim("host_interface", interfaces["host_interface"], who))
        found += [claim("addresses", str(ipaddress.ip_interface(address).ip), who) for address in addresses]
        reasons = [reason for reason in found if reason]
        problems += [f"{who}: {reason}" for reason in reasons]
        if not reasons:
            driver = drivers[pod.get("driver") or options["driver"]]
            devices[name] = device_of(pod, options, driver, programs, addresses)
            if netns.startswith("/"):
                existing.add(devices[name].netns)

    routes: dict[str, Route] = {}
    for index, entry in enumerate(options.get("host_routes") or []):
        try:
            route = _route(entry)
        except ValueError as error:
            problems.append(f"host_routes[{index}]: {error}")
            continue
        if route.to in routes:
            problems.append(f"host_routes[{index}]: to: {route.to} is declared twice")
        routes[route.to] = route
    namespaces = frozenset(device.netns for device in devices.values()) - existing
    return Desired(State(devices, namespaces, frozenset(routes.values())), frozenset(existing)), problems


# Desired state against the node


@dataclass(frozen=True)
class Interface:
    """A link as far as conflicts go: its index, its peer's, and whose the pair is (empty: nobody's)."""

    index: int
    peer: int
    kind: str
    owner: str
    pod: str


class NodeRoute(NamedTuple):
    """A route of a main table with its priority, which is part of what makes two routes collide.

    ``mtu`` is the one that the route has for itself, 0 where it has none.
    """

    route: Route
    priority: int
    mtu: int = 0


@dataclass(frozen=True)
class Namespace:
    """What is at a namespace's path: ``state`` is absent, live, or other (a file that is no namespace)."""

    state: str
    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    routes: tuple[NodeRoute, ...] = ()


@dataclass(frozen=True)
class Node:
    """Everything on the node that a desired state could collide with.

    ``sizes`` are MTU and SIZES of the interfaces that are no end of a pair made here; ``controller`` is the
    address from where the run comes, empty where that is this node.
    """

    interfaces: Mapping[str, Interface]
    addresses: frozenset[str]
    routes: tuple[NodeRoute, ...]
    namespaces: Mapping[str, Namespace]
    made_namespaces: Mapping[str, str]  # path to owner
    supported_sizes: frozenset[str]
    sizes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    controller: str = ""


def _device_conflicts(
    device: Device, desired: Desired, node: Node, owner: str, routes: Mapping[str, Sequence[NodeRoute]]
) -> list[str]:
    """Return a Pod's collisions; ``routes`` are the node's by destination."""
    problems = []
    link = node.interfaces.get(device.host_interface)
    if link is not None and link.owner != owner:
        whose = f"{link.owner}'s ({link.pod})" if link.owner else "not this collection's"
        problems.append(
            f"host_interface: {device.host_interface} exists and is {whose}: remove it or choose another name"
        )
    namespace = node.namespaces.get(device.netns, Namespace("absent"))
    if namespace.state == "absent" and device.netns in desired.existing_namespaces:
        problems.append(
            f"netns: {device.netns} is gone: give a name to have the namespace made, or make it first"
        )
    if namespace.state == "other" and node.made_namespaces.get(device.netns) != owner:
        problems.append(f"netns: {device.netns} is no network namespace: remove that file")
    inner = namespace.interfaces.get(device.interface)
    if inner is not None and inner.owner != owner:
        problems.append(
            f"interface: {device.interface} exists in {device.netns} and is not this Pod's:"
            " remove it or choose another name"
        )
    wanted = {route.to for route in device.pod.routes}
    for one in namespace.routes:
        way_out = namespace.interfaces.get(one.route.dev)
        ours = way_out is not None and way_out.owner == owner  # changed, or gone with its interface
        if one.route.to in wanted and not ours and one.priority in DEFAULT_PRIORITIES:
            problems.append(f"netns: {device.netns} has another way out ({one.route}): remove that route")
    for text in sorted(device.pod.addresses):
        ip = ipaddress.ip_interface(text).ip
        if str(ip) in node.addresses:
            problems.append(f"addresses: {ip} is an address of the node itself")
        for one in routes.get(f"{ip}/{ip.max_prefixlen}", ()):
            way = node.interfaces.get(one.route.dev)
            if way is None or way.owner != owner:
                remedy = f"it is Pod {way.pod}'s of another owner" if way and way.pod else "remove that route"
                problems.append(f"addresses: {ip} is routed elsewhere ({one.route}): {remedy}")
    return problems


def settle(desired: Desired, node: Node, owner: str, recorded: frozenset[Route]) -> State:
    """Return the desired state without what others have made already: a namespace or a route of the host.

    Both are used as they are, and never removed later.
    """
    others = {
        path
        for path, namespace in node.namespaces.items()
        if namespace.state == "live" and node.made_namespaces.get(path) != owner
    }
    there = {one.route for one in node.routes} - recorded
    state = desired.state
    return replace(state, namespaces=state.namespaces - others, host_routes=state.host_routes - there)


def conflicts(desired: Desired, node: Node, owner: str, recorded: frozenset[Route]) -> list[str]:
    """Return every collision of the desired state with what is on the node and not this owner's.

    ``recorded`` are the host routes that this owner made in earlier runs.
    """
    problems: list[str] = []
    sizes = {
        key for d in desired.state.devices.values() for key in d.host.settings if key in SIZES
    } - node.supported_sizes
    problems += [f"{size}: this kernel has no such limit: leave it out" for size in sorted(sizes)]
    routes: dict[str, list[NodeRoute]] = {}
    for one in node.routes:
        routes.setdefault(one.route.to, []).append(one)
    for device in desired.state.devices.values():
        found = _device_conflicts(device, desired, node, owner, routes)
        problems += [f"Pod {device.name}: {problem}" for problem in found]
    for route in sorted(desired.state.host_routes):
        if route.dev not in node.interfaces:
            problems.append(f"host_routes: {route}: there is no interface {route.dev}")
        for other in routes.get(route.to, ()):
            foreign = other.route != route and other.route not in recorded
            if foreign and other.priority in DEFAULT_PRIORITIES:
                problems.append(
                    f"host_routes: {route}: there is another route ({other.route}): remove one of the two"
                )
    return problems + _cut_off(desired.state, node)


def _cut_off(state: State, node: Node) -> list[str]:
    """Return what would lead the answers to the controller elsewhere: no timer takes that back."""
    if not node.controller or node.controller in node.addresses:
        return []
    far = ipaddress.ip_address(node.controller)
    problems = [
        f"Pod {device.name}: addresses: {far} is the address from where this run comes: give it another"
        for device in state.devices.values()
        if any(ipaddress.ip_interface(text).ip == far for text in device.pod.addresses)
    ]
    ways = [
        (ipaddress.ip_network(one.route.to).prefixlen, -one.priority, one.route)
        for one in node.routes
        if far in ipaddress.ip_network(one.route.to)
    ]
    length, dummy, now = max(ways, default=(0, 0, Route("another table")))
    for route in sorted(state.host_routes - {one.route for one in node.routes}):
        to = ipaddress.ip_network(route.to)
        if far in to and to.prefixlen >= length and (route.via, route.dev) != (now.via, now.dev):
            problems.append(
                f"host_routes: {route}: it would take the way to {far}, from where this run comes, from"
                f" {now}: leave that address out, or run this from elsewhere"
            )
    return problems


# Two states to a list of changes


def _recreate_option(have: Device, want: Device) -> str | None:
    """Return the option for which the kernel needs a new device, or None."""
    if not have.whole:
        return "netns"
    for option in ("driver", "mode", "netns", "interface", "host_interface"):
        if getattr(have, option) != getattr(want, option):
            return option
    return None


_OPTIONS = {
    "peer_policy": "policy",
    "from_pod": "programs",
    "to_pod": "programs",
    "mac": "mode",
    "up": "name",
    "loopback": "netns",
}


def option_of(keys: Iterable[str]) -> str:
    """Return the option(s) that settings come from."""
    return ", ".join(sorted({_OPTIONS.get(key, key) for key in keys}))


def _differing(have: Mapping[str, object], want: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in want.items() if have.get(key) != value}


def _end_changes(device: Device, end: str, have: End, want: End) -> list[Change]:
    """Return the changes of one end, in an order that the kernel accepts."""
    changes: list[Change] = []

    def add(action: str, option: str, values: Iterable[Any]) -> None:
        changes.extend(Change(action, option, device, end, value) for value in values)

    add("remove_route", "addresses", sorted(have.routes - want.routes))
    add("remove_neighbour", "addresses", sorted(have.neighbours - want.neighbours))
    settings = _differing(have.settings, want.settings)
    if settings:
        add("set", option_of(settings), [settings])
    # First the new addresses: a family whose last address goes loses its routes.
    add("add_address", "addresses", sorted(want.addresses - have.addresses))
    add("remove_address", "addresses", sorted(have.addresses - want.addresses))
    add("add_neighbour", "addresses", sorted(want.neighbours - have.neighbours))
    add("add_route", "addresses", sorted(want.routes - have.routes))
    return changes


def _device_changes(have: Device, want: Device) -> list[Change]:
    changes: list[Change] = []
    driver_settings = _differing(have.driver_settings, want.driver_settings)
    if driver_settings:
        changes.append(Change("set_driver", option_of(driver_settings), want, "", driver_settings))
    changes += _end_changes(want, "host", have.host, want.host)
    changes += _end_changes(want, "pod", have.pod, want.pod)
    return changes


def _just_made(device: Device) -> Device:
    """Return the device as it is right after it was made: creation takes these settings, no more."""

    def end(one: End) -> End:
        return End({key: value for key, value in one.settings.items() if key in ("mtu", "mac")})

    return replace(device, host=end(device.host), pod=end(device.pod))


def plan(current: State, desired: State) -> list[Change]:
    """Return the changes from one state to another, in the order in which they must be made.

    What goes, goes first, so that names and addresses are free again; namespaces go last, since
    that is the one change that nothing takes back.
    """
    removals: list[Change] = []
    changes: list[Change] = []
    for name, have in current.devices.items():
        if name not in desired.devices:
            removals.append(Change("remove_device", "pods", have))
        elif _recreate_option(have, desired.devices[name]):
            removals.append(
                Change("remove_device", _recreate_option(have, desired.devices[name]) or "", have)
            )
    for path in sorted(desired.namespaces - current.namespaces):
        changes.append(Change("make_namespace", "netns", value=path))
    for name, want in desired.devices.items():
        have = current.devices.get(name, want)
        if name not in current.devices or _recreate_option(have, want):
            changes.append(Change("make_device", "driver", want))
            have = _just_made(want)
        changes += _device_changes(have, want)
    for route in sorted(current.host_routes - desired.host_routes):
        changes.append(Change("remove_host_route", "host_routes", value=route))
    for route in sorted(desired.host_routes - current.host_routes):
        changes.append(Change("add_host_route", "host_routes", value=route))
    for path in sorted(current.namespaces - desired.namespaces):
        changes.append(Change("remove_namespace", "netns", value=path))
    return removals + changes


def restrict(state: State, desired: State, names: Collection[str] | None) -> State:
    """Return the part of a state that a call for the Pods ``names`` manages; all of it if that is None.

    Namespaces belong to it if one of these Pods uses or needs them, host routes if ``desired`` has any.
    """
    if names is None:
        return state
    devices = {key: device for key, device in state.devices.items() if device.name in names}
    paths = {device.netns for device in devices.values()} | desired.namespaces
    paths |= {_netns.path_of(name) for name in names}
    paths -= {device.netns for key, device in state.devices.items() if key not in devices}
    routes = state.host_routes if desired.host_routes else frozenset()
    return State(devices, state.namespaces & paths, routes)


# States for people


def _plain(value: Any) -> Any:
    """Return a value as diff and return values show it: sets as sorted lists, routes as text."""
    if isinstance(value, Route):
        return str(value)
    if isinstance(value, (frozenset, set)):
        return [_plain(one) for one in sorted(value)]
    if isinstance(value, tuple):
        return " at ".join(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in sorted(value.items())}
    return value


def describe(state: State, changes: Sequence[Change]) -> dict[str, Any]:
    """Return the part of a state that ``changes`` subsystem, for the diff."""
    names = {change.device.name for change in changes if change.device is not None}
    devices = {
        name: {key: _plain(one) for key, one in asdict_shallow(device).items()}
        for name, device in state.devices.items()
        if name in names
    }
    return {
        "pods": dict(sorted(devices.items())),
        "namespaces": sorted(state.namespaces),
        "host_routes": [str(route) for route in sorted(state.host_routes)],
    }


def asdict_shallow(device: Device) -> dict[str, Any]:
    """Return a device's fields, its two ends as dictionaries of their fields."""
    fields = dict(vars(device))
    for end in ("host", "pod"):
        fields[end] = dict(vars(fields[end]))
    return fields
