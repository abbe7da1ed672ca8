# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Resolve requested attachments to hooks of devices, and reject those that conflict with others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .._core.plan import Problem
from .._kernel import bpf, qdisc, xfrm
from .hooks import (
    CLSACT_PRIORITY,
    HOOKS,
    SOCKET_HOOKS,
    SOCKET_PROGRAMS,
    UNATTACHED,
    Device,
    choose_type,
    is_ingress,
    is_managed,
    link_attach_type,
    read_filters,
)
from .pins import Pins
from .plan import Attachment


@dataclass(frozen=True)
class Request:
    """One attachment as the user requests it."""

    program: str
    device: str
    hook: str
    type: str = "auto"


def resolve(
    pins: Pins, requests: Sequence[Request], programs: Iterable[str], owner: str
) -> dict[str, Attachment]:
    """Return the requested attachments by key.

    Raises ``Problem``, with everything that is wrong, if a device or program does not exist, a hook does not
    fit, two requests need the same hook, or a program of others occupies it.
    """
    if not re.fullmatch(r"[\w-]+", owner, re.ASCII):
        raise Problem(f"owner: {owner!r} is not a valid name: use letters, digits, '_' and '-'")
    known = sorted(programs)
    found: dict[str, Attachment] = {}
    problems: list[str] = []
    for request in requests:
        where = f"attachments: {request.device}, hook {request.hook}"
        problems.extend(_program_problems(where, request, known))
        if request.hook in SOCKET_HOOKS:
            cgroup = pins.number_of(request.device, request.hook)
            attachment = Attachment(owner, request.device, request.hook, "cgroup", cgroup, request.program)
            problems.extend(_exclusive(attachment))
            found[attachment.key] = attachment
            continue
        try:
            attachment = _device_attachment(pins, where, request, owner)
        except Problem as problem:
            problems.append(str(problem))
            continue
        same = [a for a in found.values() if _hook(a) == _hook(attachment)]
        if same:
            problems.append(f"{where}: {same[0].program} is requested there as well (hook {same[0].hook})")
        problems.extend(_conflicts(pins, pins.devices[request.device], attachment))
        found[attachment.key] = attachment
    # Existing attachments stay, so that others on the node can still be removed.
    new = found.keys() - pins.attachments.keys()
    unsupported = ipsec_problem() if any(found[key].hook in HOOKS for key in new) else ""
    if unsupported:
        problems.append(f"attachments: {unsupported}")
    if problems:
        raise Problem("\n".join(problems))
    return found


def _program_problems(where: str, request: Request, known: Sequence[str]) -> Iterator[str]:
    """Yield a problem if the object has no such program for the kind of hook."""
    of_sockets = {*SOCKET_PROGRAMS.values()}
    attachable = [name for name in known if name not in UNATTACHED]
    fitting = [name for name in attachable if (name in of_sockets) == (request.hook in SOCKET_HOOKS)]
    if request.program not in fitting:
        yield f"{where}: the object has no program {request.program!r}: use one of {', '.join(fitting)}"


def _device_attachment(pins: Pins, where: str, request: Request, owner: str) -> Attachment:
    """Return the attachment to a device; raises ``Problem`` if the device or hook does not support it."""
    device = pins.devices.get(request.device)
    if device is None:
        raise Problem(f"attachments: device {request.device!r} does not exist in this network namespace")
    if not device.has_ethernet_header:
        raise Problem(
            f"{where}: {request.device} ({device.kind or 'no kind'}) has no Ethernet header, which the"
            " programs require: remove this attachment; packets that the device receives reach Pods through"
            " the host's stack"
        )
    has_tcx = bpf.has_hook(device.ifindex, link_attach_type("tcx", request.hook))
    kind = choose_type(device, request.hook, request.type, has_tcx)
    attachment = Attachment(owner, request.device, request.hook, kind, device.ifindex, request.program)
    attached = pins.attachments.get(attachment.key)
    if request.type == "auto" and attached and attached.ifindex == device.ifindex:
        return replace(attachment, type=attached.type)
    return attachment


def ipsec_problem() -> str:
    """Return a problem if IPsec policies apply to packets that the programs forward, else empty."""
    policies = xfrm.policies()
    if not policies:
        return ""
    return (
        f"IPsec policies apply to routed packets ({', '.join(policies)}), and the programs forward Pods'"
        " packets unencrypted: remove the policies (see ip xfrm policy), or attach no programs on this node"
    )


def _exclusive(a: Attachment) -> list[str]:
    """Return which program of others takes the hook of a cgroup for itself."""
    try:
        with bpf.closing(os.open(a.device, os.O_RDONLY | os.O_DIRECTORY)) as fd:
            programs, shared = bpf.cgroup_programs(fd, SOCKET_HOOKS[a.hook])
    except OSError as error:
        return [f"{a.device}: {error.strerror}"]
    if shared:
        return []
    who = ", ".join(map(bpf.describe_program, programs))
    return [
        f"socket_lb: {who} is attached to {a.device}, hook {a.hook}, and excludes other programs: detach it,"
        " or set socket_lb: disabled"
    ]


def _hook(a: Attachment) -> tuple[str, bool]:
    return a.device, is_ingress(a.hook)


def _conflicts(pins: Pins, device: Device, a: Attachment) -> list[str]:
    """Return which program of others occupies the hook, if the hook takes only one program."""
    where = f"attachments: {a.device}, hook {a.hook}"
    for other in pins.attachments.values():
        if other.owner not in ("", a.owner) and other.ifindex and _hook(other) == _hook(a):
            return [f"{where}: {other} is attached by owner {other.owner!r}"]
    if a.type == "meta":
        program = device.program_ids.get(a.hook, 0)
        if program and program not in pins.pinned_ids:
            return [f"{where}: {bpf.describe_program(program)} is attached and not managed: detach it first"]
    if a.type == "clsact":
        # The qdiscs clsact and ingress share a list, and the kernel accepts egress filters for both.
        if not is_ingress(a.hook) and qdisc.ingress_kind(device.ifindex) == "ingress":
            return [
                f"{where}: {a.device} has an ingress qdisc, which has no egress hook: use type tcx, or"
                f" remove the qdisc (tc qdisc del dev {a.device} ingress)"
            ]
        for f in read_filters(device.ifindex, a.hook):
            if f.priority == CLSACT_PRIORITY and not (is_managed(f) and f.program_id in pins.pinned_ids):
                who = bpf.describe_program(f.program_id) if f.program_id else f"a filter of kind {f.kind}"
                return [
                    f"{where}: {who} has clsact priority {f.priority}, handle {f.handle:#x}, and is not"
                    " managed: remove it or give it another priority"
                ]
    return []
