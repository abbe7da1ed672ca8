# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the uplinks of Pods with a rate: only the qdisc fq holds packets until their departure time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .._kernel.qdisc import Queue
from .layout import PACING_PACKETS
from .model import Pod

Uplinks = Mapping[str, Sequence[Queue]]


def rate_problems(own: Sequence[Pod], uplinks: Uplinks) -> Iterator[str]:
    """Yield the uplinks that cannot pace the Pods of a declaration; ``uplinks`` are without Pods' devices."""
    limited = [pod.name for pod in own if pod.device and pod.rate]
    if not limited:
        return
    option = f"endpoints ({', '.join(limited[:5])}): rate"
    if not uplinks:
        yield (
            f"{option}: the node has no uplink with the qdisc fq: no default route and no device with an"
            " attached program; attach host_ingress to the uplink (bpf_attach)"
        )
    for name, queues in uplinks.items():
        others = sorted({queue.kind or "noqueue" for queue in queues if queue.kind != "fq"})
        if others or not queues:
            yield (
                f"{option}: the uplink {name} has the qdisc {', '.join(others) or 'noqueue'}; only fq delays"
                " packets until their departure time, so set it (nic_tuning: qdisc)"
            )
        elif min(queue.limit for queue in queues) < 2 * PACING_PACKETS:
            yield (
                f"{option}: fq on the uplink {name} has the limit {min(queue.limit for queue in queues)}, and"
                f" a Pod queues up to {PACING_PACKETS} packets; set it to at least {2 * PACING_PACKETS} (tc"
                f" qdisc replace dev {name} root fq limit)"
            )


def rate_warnings(pods: Sequence[Pod], uplinks: Uplinks) -> list[str]:
    """Return the uplinks whose fq can be filled by all Pods with a rate together."""
    limited = sum(1 for pod in pods if pod.device and pod.rate)
    needed = limited * PACING_PACKETS
    return [
        f"rate: {limited} Pods with a rate queue up to {needed} packets, and fq on the uplink {name} has the"
        f" limit {min(queue.limit for queue in queues)}; beyond it packets of all Pods are dropped, so set it"
        f" to at least {needed} (tc qdisc replace dev {name} root fq limit)"
        for name, queues in uplinks.items()
        if queues and all(queue.kind == "fq" for queue in queues)
        if limited > 1 and needed > min(queue.limit for queue in queues) >= 2 * PACING_PACKETS
    ]
