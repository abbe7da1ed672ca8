# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validate the Pods of one owner against the devices of this node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from .layout import POD_SLOTS
from .model import Pod
from .node import Node


def endpoint_problems(pods: Sequence[Pod], node: Node, slots: Mapping[str, int]) -> Iterator[str]:
    """Yield the problems of Pods with a device; ``slots`` are the assigned ones by name."""
    local = [pod for pod in pods if pod.device]
    missing = sorted({pod.device for pod in local} - node.interfaces.keys())
    if missing:
        yield (
            f"endpoints: devices that do not exist in this network namespace: {', '.join(missing)}; use the"
            " host end of the Pod's device"
        )
    limited = [pod.name for pod in local if pod.rate]
    if limited and not node.has_fq:
        yield (
            f"endpoints ({', '.join(limited[:5])}): rate: no device has the qdisc fq, which delays packets"
            " until their departure time; set it on the uplink (nic_tuning: qdisc)"
        )
    for option in ("device", "name"):
        counts = Counter(getattr(pod, option) for pod in local)
        for value, count in counts.items():
            if count > 1:
                yield f"endpoints: {count} Pods have the {option} {value}"
    for name in limited:
        if name not in slots:
            yield (
                f"endpoints ({name}): rate: all {POD_SLOTS - 1} slots for rates are used; remove the rate, or"
                " other Pods"
            )
