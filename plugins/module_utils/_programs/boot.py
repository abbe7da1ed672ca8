# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load the programs after a boot without Ansible."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .._kernel import libbpf
from .._kernel.bpf import DEFAULT_OWNER
from .._rollback import journal
from .attach import Desired, check_pin_path, install
from .pins import Pins, locked
from .plan import Attachment
from .resolve import Request


def restore(pin_path: str, object_path: str, programs: Collection[str], wanted: Sequence[Request]) -> bool:
    """Load the programs and attach them as ``wanted``, unless this is done; return whether it was not.

    Never replaces loaded ``programs``: this is the task of the module ``bpf_attach``, with its rollback.
    Raises ``Problem``, for example if an uplink does not exist.
    """
    if _is_complete(Pins(pin_path), programs, wanted):
        return False
    check_pin_path(pin_path)
    # Another process may load the programs now; bpf_attach takes the locks in the same order.
    with locked(pin_path), journal.locked():
        pins = Pins(pin_path)
        if _is_complete(pins, programs, wanted):
            return False
        requests = {
            (one.device, one.hook): Request(one.program, one.device, one.hook, one.type)
            for one in pins.attachments.values()
            if one.owner == DEFAULT_OWNER and _is_attached(pins, one)
        }
        requests.update({(one.device, one.hook): one for one in wanted})
        with libbpf.BpfObject(object_path, {}) as obj:
            install(Desired(pin_path, list(requests.values())), obj)
    return True


def _is_complete(pins: Pins, programs: Collection[str], wanted: Sequence[Request]) -> bool:
    attached = {
        (one.program, one.device, one.hook) for one in pins.attachments.values() if _is_attached(pins, one)
    }
    return {*programs} <= pins.programs.keys() and all(
        (one.program, one.device, one.hook) in attached for one in wanted
    )


def _is_attached(pins: Pins, attachment: Attachment) -> bool:
    """Return whether an attachment is at the device or cgroup that has its name now."""
    number = pins.number_of(attachment.device, attachment.hook)
    return bool(attachment.program and number and number == attachment.ifindex)
