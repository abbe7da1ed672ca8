# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Create and remove Pods with their devices, map entries and programs, one or many in a call.

``ensure`` and ``remove`` make the changes in the order of ``stages``. Both are idempotent, and can be
repeated after they were killed. Pods of other owners are never changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.command import RunCommand
from .._core.plan import Problem, Result
from .._datapath import apply as _entries
from .._datapath.maps import Maps
from .._datapath.store import Store, stored
from .._kernel.bpf import DEFAULT_OWNER, DEFAULT_PIN_PATH
from .._programs import attach, resolve, revert
from .._rollback import journal
from .._rollback.arm import Confirmation
from . import apply, stages
from .conflicts import shared_values
from .drivers import load_meta
from .model import Device, State, restrict
from .plan import PodPlan, created
from .read import Snapshot
from .report import diffs, pods_of
from .run_files import locked
from .size_warnings import size_warnings

PROGRAMS = {"from_pod": "pod_egress", "to_pod": "pod_ingress"}  # by hook


@dataclass(frozen=True)
class PodSpec:
    """One Pod, as the module ``pods`` documents it; ``None`` stands for the value of the node.

    ``display_name`` is its name in reports, if ``name`` is not readable. ``uid`` is that of its Kubernetes
    object. ``host_ports`` are ports of the node that lead to it: port, target, protocol, and the node's
    address if it is a single one. With the ``netns_cookie`` of its namespace, session affinity does not
    distinguish its packets from its sockets.
    """

    name: str
    addresses: Sequence[str] = ()
    netns: str | None = None
    interface: str = "eth0"
    host_interface: str | None = None
    driver: str | None = None
    mtu: int | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    rate: str | None = None
    masquerade: bool = False
    anti_spoof: bool = True
    display_name: str = ""
    uid: str | None = None
    host_ports: Sequence[Mapping[str, Any]] | None = None
    netns_cookie: int | None = None


@dataclass(frozen=True)
class NodeSpec:
    """What all Pods of an owner on this node share, as the module ``pods`` documents it.

    Pods ``in_cluster`` have the labels of the Kubernetes API, and deny all traffic until these are known.

    ``name`` is the node's name in policies. For ``None``, a call for some Pods leaves ``host_routes``,
    ``remote_pods``, ``policies``, ``services``, ``masquerade`` and ``stack_services`` unchanged; a call for
    all Pods clears them.
    """

    name: str = ""
    owner: str = DEFAULT_OWNER
    driver: str = "auto"
    trusted_pods: bool = True
    mode: str = "l3"
    policy: str = "drop"
    mtu: int | None = None
    gso_max_size: int | None = None
    gro_max_size: int | None = None
    gso_ipv4_max_size: int | None = None
    gro_ipv4_max_size: int | None = None
    ipv4_advmss: int | None = None
    host_routes: Sequence[Mapping[str, Any]] | None = None
    programs_enabled: bool = True
    object: str = ""
    pin_path: str = DEFAULT_PIN_PATH
    remote_pods: Sequence[Mapping[str, Any]] | None = None
    policies: Sequence[Mapping[str, Any]] | None = None
    services: Sequence[Mapping[str, Any]] | None = None
    masquerade: Mapping[str, Any] | None = None
    stack_services: Sequence[str] | None = None
    in_cluster: bool = False


_DEVICE_OPTIONS = ("name", "netns", "interface", "host_interface", "addresses", "driver", "mtu")
_ENTRY_OPTIONS = (
    *("labels", "rate", "masquerade", "anti_spoof"),
    *("display_name", "uid", "host_ports", "netns_cookie"),
)
_DECLARED = ("remote_pods", "policies", "services", "masquerade", "stack_services")


def device_options(node: NodeSpec, pods: Sequence[PodSpec]) -> dict[str, Any]:
    """Return the options of the module ``meta_device`` for Pods."""
    return {
        **vars(node),
        "pods": [{key: getattr(pod, key) for key in _DEVICE_OPTIONS} for pod in pods],
        "programs": {} if node.programs_enabled else {"from_pod": "", "to_pod": ""},
        "host_routes": node.host_routes or [],
        # Without programs, the policy drop would drop all packets.
        "policy": node.policy if node.programs_enabled else "pass",
    }


def declared_endpoint(pod: PodSpec, device: str, addresses: Sequence[str]) -> dict[str, Any]:
    """Return a Pod as the module ``bpf_state`` declares it; ``device`` is the host end of its device."""
    options = {key: getattr(pod, key) for key in _ENTRY_OPTIONS}
    return {**options, "name": pod.name, "device": device, "addresses": addresses}


def ensure(
    node: NodeSpec, pods: Sequence[PodSpec], remove_others: bool, command: RunCommand, check: bool = False
) -> Result:
    """Create Pods or change them to their specs; ``remove_others`` removes the owner's Pods not listed.

    With ``check``, only plan. ``command`` runs modprobe and systemctl. Raises ``Problem``; if the request is
    invalid, nothing has changed. If a change fails later, new Pods stay down and deny all traffic.
    """
    names = None if remove_others else {pod.name for pod in pods}
    return _Call(node, pods, names, command, check).run()


def remove(node: NodeSpec, names: Collection[str], command: RunCommand, check: bool = False) -> Result:
    """Remove the owner's Pods of these names; names that do not exist are ignored. Raises ``Problem``."""
    return _Call(node, (), set(names), command, check).run()


class _Call:
    """One call of ``ensure`` or ``remove`` for the Pods ``names``, None for all of the owner's."""

    def __init__(
        self,
        node: NodeSpec,
        pods: Sequence[PodSpec],
        names: Collection[str] | None,
        command: RunCommand,
        check: bool,
    ) -> None:
        self._node, self._pods, self._names, self._command, self._check = node, pods, names, command, check
        self._warnings: list[str] = []
        self._changes: list[str] = []
        self._diff: list[dict[str, str]] = []
        self._excluded: dict[str, str] = {}  # Pods that stay as they are, with their namespaces

    def run(self) -> Result:
        if not self._check:
            journal.refuse_pending()
        request = apply.resolve_request(
            device_options(self._node, self._pods),
            self._check,
            lambda: load_meta(self._command, self._check),
        )
        with locked(not self._check):
            declared = {one["name"] for one in self._former().get("endpoints") or ()}
            known = declared & request.desired.state.devices.keys()
            return apply.isolating(
                request, known, lambda before, excluded: self._run(request, before, excluded)
            )

    def _run(self, request: apply.Request, before: Snapshot, excluded: apply.Excluded) -> Result:
        """Make the changes; the Pods in ``excluded`` keep their devices, and their entries are updated."""
        self._changes, self._diff, self._excluded = [], [], request.netns_of(excluded)
        plan = apply.plan_pods(request, before, self._names, excluded)
        others = {} if self._names is None else self._others(before.state)
        plan = replace(
            plan,
            problems=[*plan.problems, *shared_values(plan.target, others), *self._ipsec_problems(plan)],
        )
        plan.require_valid()
        kept = {name: before.state.devices[name] for name in excluded if name in before.state.devices}
        desired = replace(plan.target, devices={**others, **kept, **plan.target.devices})
        former = self._former()
        final = stored(self._declaration(former, desired, others, request.desired.state))
        uses_programs = self._node.programs_enabled or bool(former)
        missing = self._missing() if uses_programs else ""
        if missing and not self._check:
            raise Problem(missing)
        if missing:
            uses_programs = False
            self._warnings.append(f"{missing}. Check mode reports only the devices.")
        entries = Result(False, {"updated": [], "deleted": [], "differences": {}})
        if uses_programs:
            entries = self._set_entries(final, strict=self._strict, check=True, state=desired)
        after = before
        if not self._check:
            current = stages.PodState(before.state, former)
            target = stages.PodState(desired, final)
            for stage in stages.plan_stages(current, target, created(plan.steps), request.owner):
                if not (uses_programs or isinstance(stage, stages.SetDevices)):
                    continue
                # Comparing the maps once is enough if nothing changes.
                if isinstance(stage, stages.SetEntries) and not (plan or entries.changed):
                    continue
                after = self._execute(stage, after, request.namespaces)
        elif uses_programs:
            self._preview_programs(before, plan, final)
        return self._result(request, after, plan, entries)

    def _ipsec_problems(self, plan: PodPlan) -> list[str]:
        """Return a problem for new Pods if IPsec policies apply to their packets; warn for existing Pods."""
        problem = resolve.ipsec_problem() if self._node.programs_enabled else ""
        if problem and created(plan.steps):
            return [f"pods: {problem}"]
        if problem and plan.target.devices:
            self._warnings.append(problem)
        return []

    def _others(self, state: State) -> dict[str, Device]:
        names = self._names or ()
        return {key: device for key, device in state.devices.items() if device.name not in names}

    def _former(self) -> dict[str, Any]:
        record = Store(self._node.pin_path).read().get(self._node.owner)
        return dict(record.options) if record else {}

    def _missing(self) -> str:
        """Return why the maps or the programs cannot be used, empty if they can."""
        if not self._node.object:
            return "object: it is required to attach and detach programs"
        try:
            with contextlib.ExitStack() as files:
                Maps.pinned(self._node.pin_path, files)
        except Problem as error:
            return str(error)
        if not os.path.exists(self._node.object):
            return f"object: {self._node.object} does not exist: run the role podnet.datapath.bpf_datapath"
        return ""

    def _declaration(
        self, former: Mapping[str, Any], target: State, others: Mapping[str, Device], declared: State
    ) -> dict[str, Any]:
        """Return the owner's declaration for the maps after this call, with the Pods that have a device.

        ``target`` is the state after the call, ``declared`` the desired one, also of excluded Pods.
        """
        node = self._node
        if not node.programs_enabled:
            return {}
        interfaces = {device.name: device.host_interface for device in others.values()}
        endpoints = [
            one for one in former.get("endpoints") or () if interfaces.get(one["name"]) == one["device"]
        ]
        for pod in self._pods:
            if pod.name not in target.devices:
                continue
            device = target.devices[pod.name].host_interface
            addresses = sorted(declared.devices[pod.name].pod.addresses)
            endpoints.append(declared_endpoint(pod, device, addresses))
        shared = {key: getattr(node, key) for key in _DECLARED}
        if self._names is not None:
            shared = {key: former.get(key) if one is None else one for key, one in shared.items()}
        return {**shared, "endpoints": endpoints, "node": node.name or former.get("node")}

    # Stages

    def _execute(self, stage: stages.Stage, now: Snapshot, namespaces: Sequence[str]) -> Snapshot:
        """Execute one stage and return the devices after it."""
        if isinstance(stage, stages.SetDevices):
            return apply.bring_to(
                self._node.owner,
                now,
                self._managed(stage.target),
                namespaces,
                self._names,
                self._excluded,
                closed=self._node.programs_enabled,
            )
        if isinstance(stage, stages.SetEntries):
            strict = stage.final and self._strict
            self._warnings += self._set_entries(stage.declaration, strict).warnings
        else:
            result = self._set_programs(stage.devices)
            self._changes += result.values["changes"]
            self._diff += result.diff
        return now

    @property
    def _strict(self) -> bool:
        """Whether the call declares all Pods, so that selectors must match one."""
        return self._names is None and not self._excluded

    def _managed(self, state: State) -> State:
        return restrict(state, state, self._names)

    def _set_entries(
        self, declaration: Mapping[str, Any], strict: bool, check: bool = False, state: State | None = None
    ) -> Result:
        """Replace the owner's declaration; with ``check``, the devices of ``state`` need not exist."""
        options: dict[str, Any] = {key: declaration.get(key) or [] for key in ("endpoints", *_DECLARED)}
        options["masquerade"] = declaration.get("masquerade") or {}
        options["node"] = declaration.get("node") or ""
        desired = _entries.Desired(
            self._node.pin_path,
            self._node.owner,
            options,
            planned_devices=[device.host_interface for device in state.devices.values()] if state else (),
            allow_unmatched=not strict,
        )
        return _entries.configure(desired, check)

    def _set_programs(self, devices: Sequence[str]) -> Result:
        requests = [
            resolve.Request(program, device, hook) for device in devices for hook, program in PROGRAMS.items()
        ]
        desired = attach.Desired(self._node.pin_path, requests, f"pods_{self._node.owner}")
        recorder = revert.CheckpointRecorder(Confirmation(), self._command)
        return attach.present(desired, self._node.object, {}, self._check, recorder)

    def _preview_programs(self, before: Snapshot, plan: PodPlan, final: Mapping[str, Any]) -> None:
        """Report the attachments that would change; those of devices that the plan creates are all new."""
        wanted = [entry["device"] for entry in final.get("endpoints") or ()]
        new = {plan.target.devices[name].host_interface for name in created(plan.steps)}
        try:
            result = self._set_programs([device for device in wanted if device in before.indexes])
        except Problem as problem:  # An earlier task of the play may load other programs.
            self._warnings.append(f"{problem}. Check mode reports only devices and map entries.")
            return
        self._changes += result.values["changes"]
        self._diff += result.diff
        self._changes += [
            f"attach {program} to {device}, hook {hook}"
            for device in wanted
            if device in new
            for hook, program in PROGRAMS.items()
        ]

    def _result(self, request: apply.Request, after: Snapshot, plan: PodPlan, entries: Result) -> Result:
        desired = request.desired.state
        changes = [*map(str, plan.steps), *self._changes]
        values = {
            "pods": pods_of(desired, after.indexes),
            "driver_reason": request.driver_reason,
            "changes": changes,
            **entries.values,
        }
        warnings = [
            *plan.warnings,
            *dict.fromkeys([*self._warnings, *entries.warnings]),
            *size_warnings(desired, after.state, after.node),
        ]
        diff = [*diffs(plan.changes), *self._diff, *entries.diff]
        return Result(bool(changes) or entries.changed, values, warnings, diff)
