# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of the CNI specification: ADD, DEL, CHECK, GC and STATUS.

Commands run in threads of the server, one per request. IPAM plugins run in these threads; a single worker
changes devices and maps, and combines the requests that wait.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._core.plan import Problem, TransientProblem
from .._kernel import netns
from .._pods.api import PodSpec
from .._pods.single import CreatedPod
from . import ipam
from .attachments import Attachment, Attachments, name_of
from .cluster import ClusterWatch
from .config import Config
from .nodes import NodeWatch
from .protocol import (
    DIFFERS,
    FAILED,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    NOT_AVAILABLE,
    TRY_AGAIN,
    UNKNOWN_CONTAINER,
    Address,
    CniError,
    Request,
    previous_addresses,
    result_of,
)
from .worker import Worker

BUSY_TIMEOUT = 30.0  # seconds that a command waits for another one of the same container

log = logging.getLogger("podnet-agent")


class Commands:
    """Executes requests on the Pods of this node."""

    def __init__(
        self,
        config: Config,
        worker: Worker,
        attachments: Attachments,
        nodes: NodeWatch | None,
        cluster: ClusterWatch | None = None,
    ) -> None:
        self._config, self._worker, self._attachments = config, worker, attachments
        self._nodes, self._cluster = nodes, cluster
        self._idle = threading.Condition()
        self._busy: set[str] = set()

    def execute(self, request: Request) -> dict[str, Any] | None:
        """Execute a request and return the result of ADD. Raises ``CniError``."""
        command = getattr(self, f"_{request.command.lower()}")
        try:
            result: dict[str, Any] | None = command(request)
        except Problem as problem:
            code = TRY_AGAIN if isinstance(problem, TransientProblem) else FAILED
            raise CniError(code, str(problem)) from problem
        except OSError as error:
            raise CniError(TRY_AGAIN, f"{request.command} of {request.shown}: {error}") from error
        return result

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Exclude other commands for the same attachment during the block. Raises ``CniError``.

        A runtime whose plugin was killed calls DEL while its ADD is running, and reconciliation removes what
        a runtime may delete as well: so the second command waits for the first one.
        """
        with self._idle:
            if not self._idle.wait_for(lambda: name not in self._busy, BUSY_TIMEOUT):
                raise CniError(TRY_AGAIN, "another command for this container is running")
            self._busy.add(name)
        try:
            yield
        finally:
            with self._idle:
                self._busy.discard(name)
                self._idle.notify_all()

    def is_busy(self, name: str) -> bool:
        """Return whether a command for an attachment is running."""
        with self._idle:
            return name in self._busy

    def problem(self) -> str:
        """Return why ADD would fail on this node, empty if it would not."""
        return (
            self._worker.problem()
            or (self._nodes.problem if self._nodes and not self._config.pod_cidrs else "")
            or (self._cluster.problem if self._cluster and self._config.network_policies else "")
        )

    def _pod_cidrs(self) -> Sequence[str]:
        """Return the ranges of this node's Pods: those of the inventory, else those of its Node object."""
        return self._config.pod_cidrs or (self._nodes.pod_cidrs if self._nodes else ())

    def _host_ports(self, request: Request) -> Sequence[Mapping[str, Any]]:
        """Return the host ports that the datapath serves."""
        return request.host_ports if self._config.kube_proxy == "replace" else ()

    # ADD

    def _add(self, request: Request) -> dict[str, Any]:
        if request.previous is not None:
            raise CniError(
                INVALID_CONFIG, "plugins: podnet creates the interface, so it must be the first plugin"
            )
        if not request.ipam:
            raise CniError(INVALID_CONFIG, "ipam: missing; podnet requires an IPAM plugin")
        if not _is_namespace(request.netns):
            raise CniError(UNKNOWN_CONTAINER, f"CNI_NETNS: {request.netns} is not a network namespace")
        if netns.is_own(request.netns):
            raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS: {request.netns} is the namespace of the node")
        if not self._pod_cidrs() and self._nodes and ipam.needs_ranges(request.config):
            raise CniError(TRY_AGAIN, self._nodes.problem)
        config = ipam.with_ranges(request.config, self._pod_cidrs())
        ipam.find_plugin(config["ipam"]["type"], request.variables.get("CNI_PATH", ""))
        if self._cluster and request.pod:
            request = replace(request, uid=self._cluster.require_pod(request.pod, request.uid))
            self._cluster.require_host_ports(self._host_ports(request))
        with self.exclusive(name_of(request.container, request.interface)):
            # The DEL that follows may already have been executed.
            if request.is_abandoned():
                raise CniError(TRY_AGAIN, "the plugin that sent the request was killed")
            attachment = Attachment.of(request, config, netns.identity(request.netns))
            attachment = replace(attachment, host_ports=self._host_ports(request))
            existing = self._attachments.get(attachment.name)
            if existing and existing.result:
                raise CniError(
                    INVALID_ENVIRONMENT,
                    f"CNI_CONTAINERID: {request.container} already has {request.interface}; run DEL first",
                )
            self._attachments.write(attachment)
            addresses: list[str] = []
            try:
                assigned = ipam.run(request, "ADD", config)
                addresses += ipam.addresses_of(assigned, config["ipam"]["type"])
                return self._attach(
                    request, replace(attachment, addresses=addresses), assigned.get("dns") or {}
                )
            except BaseException:
                self._undo(request, attachment, bool(addresses))
                raise

    def _attach(self, request: Request, attachment: Attachment, dns: dict[str, Any]) -> dict[str, Any]:
        if request.ingress_rate:
            log.warning(
                "%s: the limit of received traffic (kubernetes.io/ingress-bandwidth) is not enforced",
                request.shown,
                extra={"pod": request.pod, "container": request.container},
            )
        versions = {ipaddress.ip_interface(one).version for one in attachment.addresses}
        for one in attachment.host_ports:
            if one.get("address") and ipaddress.ip_address(one["address"]).version not in versions:
                log.warning(
                    "%s: hostPort %s of %s has no effect, as the Pod has no address of that family",
                    *(request.shown, one["port"], one["address"]),
                    extra={"pod": request.pod, "container": request.container},
                )
        created = self._worker.create(self.spec_of(attachment))
        result = _result(request, created, attachment.addresses, dns)
        self._attachments.write(replace(attachment, result=result))
        return result

    def _undo(self, request: Request, attachment: Attachment, assigned: bool) -> None:
        """Remove what a failed ADD has created; ``assigned`` if the Pod has addresses."""
        try:
            self._worker.remove([attachment.name])
            # An IPAM plugin that assigned no address may fail again, for example at its configuration.
            with contextlib.suppress(*() if assigned else (CniError,)):
                ipam.run(request, "DEL", attachment.config)
            self._attachments.delete(attachment.name)
        except (Problem, OSError, CniError) as error:
            # The record stays, so that DEL and reconciliation find what is left.
            log.warning("cannot undo ADD of %s: %s", attachment.shown, error)

    # DEL

    def _del(self, request: Request) -> None:
        name = name_of(request.container, request.interface)
        with self.exclusive(name):
            self._detach(request, name)

    def _detach(self, request: Request, name: str) -> None:
        existing = self._attachments.get(name)
        self._worker.remove([name])
        # Without a record, the IPAM plugin may still have addresses of the container.
        config = existing.config if existing else request.config
        if config.get("ipam"):
            ipam.run(request, "DEL", ipam.with_ranges(config, self._pod_cidrs(), required=False))
        self._attachments.delete(name)

    # Without a request. Another command may change an attachment until this one excludes others.

    def release(self, attachment: Attachment) -> None:
        """Remove an attachment unless it has changed. Raises ``CniError``, ``Problem`` or ``OSError``."""
        request = Request(
            "DEL",
            str(attachment.config.get("cniVersion")),
            attachment.network,
            attachment.config,
            {**attachment.variables, "CNI_COMMAND": "DEL"},
            attachment.container,
            attachment.interface,
            "",
            attachment.pod,
        )
        with self.exclusive(attachment.name):
            if self._attachments.get(attachment.name) is attachment:
                self._detach(request, attachment.name)

    def repair(self, attachment: Attachment) -> None:
        """Create the Pod of an attachment again unless it is complete or has changed.

        Raises ``CniError``, ``Problem`` or ``OSError``.
        """
        name = attachment.name
        with self.exclusive(name):
            if self._attachments.get(name) is attachment and not self._worker.existing().get(name):
                self._worker.repair(self.spec_of(attachment))

    def remove_orphan(self, name: str) -> None:
        """Remove a Pod unless it has a record. Raises ``CniError``, ``Problem`` or ``OSError``."""
        with self.exclusive(name):
            if self._attachments.get(name) is None:
                self._worker.remove([name])

    # CHECK

    def _check(self, request: Request) -> None:
        name = name_of(request.container, request.interface)
        with self.exclusive(name):
            attachment = self._attachments.get(name)
            if attachment is None or not attachment.result:
                raise CniError(
                    UNKNOWN_CONTAINER, f"{request.shown} has no interface {request.interface} of this plugin"
                )
            expected = previous_addresses(request)
            if expected is not None and expected != set(attachment.addresses):
                raise CniError(
                    DIFFERS,
                    f"prevResult has the addresses {', '.join(sorted(expected)) or 'none'} instead of"
                    f" {', '.join(sorted(attachment.addresses))}",
                )
            problems = self._worker.differences(self.spec_of(attachment))
            if problems:
                raise CniError(DIFFERS, "; ".join(problems))
            ipam.run(request, "CHECK", {**attachment.config, "prevResult": attachment.result})

    def spec_of(self, attachment: Attachment) -> PodSpec:
        """Return the Pod of an attachment."""
        return PodSpec(
            name=attachment.name,
            addresses=attachment.addresses,
            netns=attachment.netns,
            interface=attachment.interface,
            rate=attachment.rate or None,
            masquerade=bool(self._config.masquerade),
            display_name=attachment.pod,
            uid=attachment.pod_uid,
            host_ports=list(attachment.host_ports) or None,
        )

    # GC and STATUS

    def _gc(self, request: Request) -> None:
        failed = []
        for attachment in self._attachments:
            key = (attachment.container, attachment.interface)
            if attachment.network == request.network and key not in request.valid:
                log.info("GC removes %s", attachment.shown)
                try:
                    self.release(attachment)
                except (CniError, Problem, OSError) as error:
                    failed.append(f"{attachment.shown}: {error}")
        if request.ipam:
            ipam.run(request, "GC", ipam.with_ranges(request.config, self._pod_cidrs()))
        if failed:
            raise CniError(FAILED, "; ".join(failed))

    def _status(self, request: Request) -> None:
        problem = self.problem()
        if problem:
            raise CniError(NOT_AVAILABLE, problem)
        if request.ipam:
            try:
                config = ipam.with_ranges(request.config, self._pod_cidrs())
                ipam.run(request, "STATUS", config)
            except CniError as error:
                raise CniError(NOT_AVAILABLE, str(error)) from error


def _is_namespace(path: str) -> bool:
    try:
        return netns.is_namespace(path)
    except OSError:
        return False


def _result(
    request: Request, created: CreatedPod, addresses: Sequence[str], dns: dict[str, Any]
) -> dict[str, Any]:
    device = created.device
    host: dict[str, Any] = {"name": device.host_interface}
    pod: dict[str, Any] = {"name": device.interface, "sandbox": request.netns}
    for interface, end in ((host, device.host), (pod, device.pod)):
        interface["mtu"] = end.settings["mtu"]
        if end.settings.get("mac"):
            interface["mac"] = end.settings["mac"]
    routes = [
        {"dst": route.to, **({"gw": route.via} if route.via else {})} for route in sorted(device.pod.routes)
    ]
    return result_of(request.version, [host, pod], [Address(one) for one in addresses], routes, dns)
