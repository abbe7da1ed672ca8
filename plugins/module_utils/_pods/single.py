# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Create and remove single Pods without reading the node, for a process that starts Pods one at a time.

``api.ensure`` reads all devices, attachments and maps, because it changes existing Pods. For a new Pod, the
kernel rejects what already exists. The order is that of ``stages``: device, entries, programs, device up.
"""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from .._core.command import RunCommand
from .._core.plan import Problem, TransientProblem
from .._datapath.live import LiveEntries
from .._datapath.maps import Maps, require_confirmed
from .._datapath.model import Pod, Policy, Service
from .._datapath.node import Interface
from .._datapath.stale_sockets import EndSockets, end_stale_sockets
from .._kernel import netns
from .._kernel.messages import message_types
from .._kernel.netlink import KernelRefusal
from .._kernel.rtnl import RTM_DELLINK, NextHop, Rtnl
from .._programs import hooks, new_device, pins
from .api import PROGRAMS, NodeSpec, PodSpec, declared_endpoint, device_options
from .drivers import choose_drivers, load_meta
from .execute import Executor
from .model import SIZES, Device, End, Route, State
from .parse import host_interface_of, parse
from .plan import steps_between
from .read import belongs_to, existing_routes, owned_links, read_device, read_settings
from .run_files import locked, read_host_routes


@dataclass(frozen=True)
class CreatedPod:
    """A new Pod: its device as read from the kernel, the host end's index, and its namespace's cookie."""

    device: Device
    host_ifindex: int
    netns_cookie: int


class SinglePods:
    """Creates and removes Pods of one owner; keeps maps open between calls."""

    def __init__(
        self,
        node: NodeSpec,
        command: RunCommand,
        end_sockets: EndSockets = end_stale_sockets,
    ) -> None:
        """``end_sockets`` is that of ``LiveEntries``."""
        self._node = node
        self._command = command
        shared = {
            "node": node.name,
            "masquerade": node.masquerade or {},
            "stack_services": list(node.stack_services or ()),
            "in_cluster": node.in_cluster,
        }
        self._entries = LiveEntries(node.pin_path, node.owner, shared, end_sockets)
        self._drivers: dict[str, str] = {}
        self.driver_reason = ""

    def close(self) -> None:
        """Close the maps."""
        self._entries.close()

    def create(self, pods: Sequence[PodSpec], sysctls: Mapping[str, str]) -> list[CreatedPod | Problem]:
        """Create Pods, and return for each its device or why it was not created; then nothing of it is left.

        ``sysctls`` are written in each Pod's namespace before its device is up.
        """
        with locked(), pins.locked(self._node.pin_path), Executor(self._node.owner) as executor:
            results = [
                self._attempt(pod, functools.partial(self._open, executor, pod, sysctls)) for pod in pods
            ]
            made = [
                (index, pod, result)
                for index, (pod, result) in enumerate(zip(pods, results))
                if isinstance(result, CreatedPod)
            ]
            failed = self._add_entries([(pod, created) for _index, pod, created in made])
            for index, pod, created in made:
                results[index] = failed.get(pod.name) or self._attempt(
                    pod, functools.partial(self._start, executor, created)
                )
                if isinstance(results[index], Problem):
                    self._undo(created)
            return results

    @staticmethod
    def _attempt(pod: PodSpec, step: Callable[[], CreatedPod]) -> CreatedPod | Problem:
        """Return the result of a step, or its error, which must not concern other Pods."""
        try:
            return step()
        except Problem as problem:
            return problem
        except OSError as error:
            return Problem(f"Pod {pod.display_name or pod.name}: {error}")

    def _undo(self, created: CreatedPod) -> None:
        """Remove a Pod that could not be started; ``existing`` finds what cannot be removed."""
        with contextlib.suppress(Problem, OSError):
            self._delete_device(created.device.host_interface)
            self._entries.remove([created.device.name])

    def remove(self, names: Sequence[str]) -> None:
        """Remove Pods; names that do not exist are ignored. Raises ``Problem``."""
        with locked(), pins.locked(self._node.pin_path):
            for name in names:
                self._delete_device(host_interface_of(name))
            self._entries.remove(names)

    def repair(self, pod: PodSpec, sysctls: Mapping[str, str]) -> CreatedPod:
        """Create a Pod again. Raises ``Problem``; before the removal if no Pod can be created now."""
        require_confirmed(self._node.pin_path)
        problem = self.problem()
        if problem:
            raise Problem(problem)
        self.remove([pod.name])
        (result,) = self.create([pod], sysctls)
        if isinstance(result, Problem):
            raise result
        return result

    def complete_entries(self) -> None:
        """Complete the map entries if a process was killed while it wrote them. Raises ``Problem``."""
        with locked(), pins.locked(self._node.pin_path):
            self._entries.complete()

    def update_node(self) -> None:
        """Write what depends on addresses of the node again if they have changed. Raises ``Problem``."""
        with locked(), pins.locked(self._node.pin_path):
            self._entries.update_node()

    def set_cluster(
        self, pods: Mapping[str, Pod], policies: Sequence[Policy], services: Sequence[Service]
    ) -> list[str]:
        """Replace all that the API declares; see ``LiveEntries.set_cluster``. Raises ``Problem``."""
        with locked(), pins.locked(self._node.pin_path):
            return self._entries.set_cluster(pods, policies, services)

    def update_pods(self, changes: Mapping[str, Pod | None]) -> list[str]:
        """Change single Pods of the API; see ``LiveEntries.update_pods``. Raises ``Problem``."""
        with locked(), pins.locked(self._node.pin_path):
            return self._entries.update_pods(changes)

    def next_hop(self, address: str) -> NextHop | None:
        """Return the next hop of the node's route to an address."""
        with Rtnl() as rtnl:
            return rtnl.next_hop(address)

    def set_routes(self, routes: frozenset[Route]) -> None:
        """Replace the owner's routes of the host. Raises ``Problem`` for those that the kernel rejects."""
        owner, problems = self._node.owner, list[str]()
        with locked(), Executor(owner) as executor:
            current = read_host_routes(owner) & existing_routes()
            for step in steps_between(State(host_routes=current), State(host_routes=routes)):
                try:
                    executor.execute([step])
                except Problem as problem:  # A foreign route to one node must not affect those to others.
                    problems.append(str(problem))
        if problems:
            raise Problem("\n".join(problems))

    def existing(self) -> dict[str, bool]:
        """Return the names of Pods that have a device or map entries, and whether they are complete.

        A complete Pod has entries, and a device that is up and has the programs. Delete devices whose
        creation was killed.
        """
        with locked(), pins.locked(self._node.pin_path):
            devices = owned_links(self._node.owner)
            for interface, (name, _up) in devices.items():
                if not name:
                    self._delete_device(interface)
            attached = new_device.attached(self._node.pin_path)
            declared = {one["name"] for one in self._entries.endpoints()}
        complete = {
            name
            for interface, (name, up) in devices.items()
            if up and {(interface, hook, program) for hook, program in PROGRAMS.items()} <= attached
        }
        named = {name for name, _up in devices.values() if name}
        return {name: name in complete and name in declared for name in named | declared}

    def problem(self) -> str:
        """Return why Pods cannot be created on this node, empty if they can."""
        try:
            self._driver(self._node.driver)
            with contextlib.ExitStack() as files:
                Maps.pinned(self._node.pin_path, files)
        except (Problem, OSError) as error:
            return str(error)
        return ""

    def differences(self, pod: PodSpec) -> list[str]:
        """Return how an existing Pod differs from its spec, for the interface, its routes and map entries."""
        device = self._parse(pod)
        try:
            with Executor(self._node.owner) as executor:
                index = executor.link_of(device).index
            current = read_device(self._node.owner, index, device.netns)
        except KernelRefusal as refusal:
            return [f"interface {device.host_interface}: {refusal.strerror}"]
        found = [str(step) for step in steps_between(State({pod.name: current}), State({pod.name: device}))]
        entries = {one["name"]: one for one in self._entries.endpoints()}
        if pod.name not in entries:
            found.append("the maps have no entries of the Pod")
        elif list(entries[pod.name].get("host_ports") or ()) != list(pod.host_ports or ()):
            found.append("the maps have other host ports of the Pod")
        return found

    # Stages

    def _driver(self, wanted: str) -> None:
        """Select the driver for a value of the option. Raises ``Problem``."""
        if wanted in self._drivers:
            return
        drivers, reason, problems = choose_drivers(
            [wanted], lambda: load_meta(self._command, False), self._node.trusted_pods
        )
        if problems:
            raise Problem("\n".join(problems))
        self._drivers |= drivers
        self.driver_reason = self.driver_reason or reason

    def _parse(self, pod: PodSpec) -> Device:
        """Return the desired device. Raises ``Problem``."""
        self._driver(pod.driver or self._node.driver)
        desired, problems = parse(device_options(self._node, [pod]), self._drivers, {})
        if problems:
            raise Problem("\n".join(problems))
        return desired.state.devices[pod.name]

    def _open(self, executor: Executor, pod: PodSpec, sysctls: Mapping[str, str]) -> CreatedPod:
        """Create the device of a Pod, down, and set the sysctls of its namespace."""
        device = self._parse(pod)
        try:
            executor.execute(steps_between(State(), State({pod.name: _opened(device)})))
        except Problem:
            self._drivers.clear()  # The driver may have been unloaded.
            raise
        try:
            _write_sysctls(device.netns, sysctls)
        except Problem:
            self._delete_device(device.host_interface)
            raise
        with netns.entered(device.netns):
            cookie = netns.own_cookie()
        return CreatedPod(device, executor.link_of(device).index, cookie)

    def _add_entries(self, made: Sequence[tuple[PodSpec, CreatedPod]]) -> dict[str, Problem]:
        """Add the map entries of all Pods at once, or if that fails one by one; return problems by name."""
        if not made:
            return {}
        interfaces = {
            created.device.host_interface: Interface(
                created.host_ifindex,
                created.device.driver,
                _mac(created.device),
                created.device.mode == "l2",
            )
            for _pod, created in made
        }
        endpoints = {
            pod.name: declared_endpoint(
                replace(pod, netns_cookie=created.netns_cookie),
                created.device.host_interface,
                sorted(created.device.pod.addresses),
            )
            for pod, created in made
        }
        try:
            self._entries.add(list(endpoints.values()), interfaces)
            return {}
        except Problem as problem:
            if len(endpoints) == 1 or isinstance(problem, TransientProblem):
                return dict.fromkeys(endpoints, problem)
        failed = {}
        for name, endpoint in endpoints.items():
            try:
                self._entries.add([endpoint], interfaces)
            except Problem as problem:
                failed[name] = problem
        return failed

    def _start(self, executor: Executor, created: CreatedPod) -> CreatedPod:
        """Attach the programs, set the device up, and verify its settings. Raises ``Problem``."""
        device = created.device
        where = hooks.Device(device.host_interface, created.host_ifindex, device.driver, managed=True)
        new_device.attach(self._node.pin_path, f"pods_{self._node.owner}", where, PROGRAMS)
        name = device.name
        executor.execute(steps_between(State({name: _opened(device)}), State({name: device})))
        link = executor.link_of(device)
        if not device.host.settings.keys() & set(SIZES):
            return replace(created, device=_with_mtu(device, link.mtu))
        # The kernel confirms what it sets, but may clamp sizes.
        current = read_settings(device, link.index, link.peer)
        remaining = steps_between(State({name: current}), State({name: device}))
        if remaining:
            raise Problem(
                "the kernel accepted every step, but reading back shows a different value for: "
                + "; ".join(map(str, remaining))
            )
        return replace(created, device=current)

    def _delete_device(self, name: str) -> None:
        """Delete a device of this owner with its programs; ignore one that does not exist."""
        with Rtnl() as rtnl:
            try:
                link = rtnl.link(name)
            except KernelRefusal as refusal:
                if refusal.errno != errno.ENODEV:
                    raise
            else:
                if not belongs_to(link, self._node.owner):
                    raise Problem(f"host_interface: {name} does not belong to owner {self._node.owner}")
                message = message_types().link()
                message["index"] = link["index"]
                with contextlib.suppress(KernelRefusal):  # deleted with its namespace meanwhile
                    rtnl.request(message, RTM_DELLINK)
        new_device.forget(self._node.pin_path, f"pods_{self._node.owner}", name)


def _opened(device: Device) -> Device:
    """Return the device as it is before it is up, without addresses and routes."""

    def end(one: End) -> End:
        return End({key: value for key, value in one.settings.items() if key not in ("up", "loopback")})

    return replace(device, host=end(device.host), pod=end(device.pod))


def _with_mtu(device: Device, mtu: int) -> Device:
    """Return the device with the MTU that the kernel chose, if none is declared."""

    def end(one: End) -> End:
        return replace(one, settings={"mtu": mtu, **one.settings})

    return replace(device, host=end(device.host), pod=end(device.pod))


def _mac(device: Device) -> bytes:
    mac = device.host.settings.get("mac")
    return bytes.fromhex(str(mac).replace(":", "")) if mac else bytes(6)


def _write_sysctls(path: str, sysctls: Mapping[str, str]) -> None:
    """Write sysctls in a Pod's namespace. Raises ``Problem``."""
    if not sysctls:
        return
    with netns.entered(path):
        for name, value in sysctls.items():
            try:
                with open(f"/proc/sys/{name.replace('.', '/')}", "w", encoding="ascii") as file:
                    file.write(value)
            except OSError as error:
                raise Problem(
                    f"sysctls: {name}: the kernel rejected {value!r} in the Pod's namespace: {error.strerror}"
                ) from error
