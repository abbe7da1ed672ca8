# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify by effect, on the node and in two of its Pods, that Cilium's settings apply to new Pods."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core.plan import Problem, listed
from .._kernel import netns
from .._measure import probe
from . import agent, devices

ETH_P_ALL = 3
_BUFFER = 64 * 1024 * 1024
_SO_RCVBUFFORCE = 33
ECHO_REQUESTS = 100  # to each peer
CONGESTION_CONTROL = "/proc/sys/net/ipv4/tcp_congestion_control"


@dataclass(frozen=True)
class ProbePod:
    """A Pod of this node with its network namespace."""

    name: str
    path: str
    kind: str
    device: str  # in its namespace
    addresses: Sequence[str]


def find(endpoints: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[ProbePod]:
    """Return Pods, named by an address or as ``namespace/name``, with their network namespaces.

    Raises ``Problem`` for one without device.
    """
    found, host = [], devices.read()
    known = {f"{one['namespace']}/{one['name']}": one for one in endpoints}
    known.update({address: one for one in endpoints for address in one["addresses"]})
    for name in names:
        one = known.get(name)
        if one is None or one["state"] != "ready" or one["device"] not in host:
            state = one["state"] if one else "unknown to the agent"
            raise Problem(f"pods: {name} has no ready endpoint on this node ({state}): wait until it runs")
        path = devices.namespace_of(host[one["device"]])
        if not path:
            raise Problem(f"pods: the network namespace of {name} is not found: run as root on the node")
        found.append(
            ProbePod(
                name, path, host[one["device"]].kind, one["container_device"] or "eth0", one["addresses"]
            )
        )
    return found


def wait(
    path: str, names: Sequence[str], timeout: float, sleep: Callable[[float], None] = time.sleep
) -> list[ProbePod]:
    """Return the Pods as soon as the agent at ``path`` has their endpoints ready; raises ``Problem``."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return find(agent.read(path)["endpoints"], names)
        except Problem:
            if time.monotonic() >= deadline:
                raise
        sleep(agent.POLL)


class _LargestPacket:
    """Records the length of the largest packet that a namespace receives during a block."""

    def __init__(self, path: str) -> None:
        self.length = 0
        self._stop = threading.Event()
        with netns.entered(path):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.settimeout(0.2)

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                # With MSG_TRUNC, recv() returns the length of the packet, not of the buffer.
                self.length = max(self.length, self._socket.recv_into(bytearray(1), 1, socket.MSG_TRUNC))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record during the block."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
            self._socket.close()


def measure(pods: Sequence[ProbePod], peers: Sequence[str], size: int) -> dict[str, Any]:
    """Return what two Pods of this node have in effect; raises ``Problem`` if a transfer fails."""
    first, second = pods
    with netns.entered(first.path):
        inside = devices.read().get(first.device)
        with open(CONGESTION_CONTROL, encoding="ascii") as file:
            congestion_control = file.read().strip()
    streams = []
    for address in second.addresses:
        to = ipaddress.ip_address(address)
        recorder = _LargestPacket(second.path)
        with recorder.recording():
            done = probe.run_stream(probe.Stream(first.path, second.path, to, size))
        streams.append({**done.as_dict(), "largest_packet": recorder.length})
    before = probe.read_host_counters()
    sent = [_echo(first, address) for address in peers if _has_family(first, address)]
    forwarded = probe.read_host_counters().since(before).forwarded
    return {
        "kinds": {pod.name: pod.kind for pod in pods},
        "gso_max_size": inside.gso if inside else 0,
        "gso_ipv4_max_size": inside.gso_ipv4 if inside else 0,
        "congestion_control": congestion_control,
        "streams": streams,
        "sent": sum(one.sent for one in sent),
        "received": sum(len(one.rtts) for one in sent),
        "forwarded": forwarded,
    }


def _has_family(pod: ProbePod, address: str) -> bool:
    version = ipaddress.ip_address(address).version
    return any(ipaddress.ip_address(own).version == version for own in pod.addresses)


def _echo(pod: ProbePod, address: str) -> probe.ProbeResult:
    return probe.run_probe(probe.Probe(ipaddress.ip_address(address), pod.path, ECHO_REQUESTS))


def problems(found: Mapping[str, Any], expected: Mapping[str, str]) -> list[str]:
    """Return how the measured values differ from the expected settings."""
    result = []
    wrong = [name for name, kind in found["kinds"].items() if kind != expected.get("device_mode", kind)]
    if wrong:
        kinds = listed(sorted({found["kinds"][name] for name in wrong}))
        result.append(f"{listed(wrong)} have devices of kind {kinds} instead of {expected['device_mode']}")
    result += _size_problems(found, expected.get("big_tcp", "disabled"))
    if expected.get("bbr") == "enabled" and found["congestion_control"] != "bbr":
        result.append(f"the Pods' congestion control is {found['congestion_control']} instead of bbr")
    if expected.get("host_routing") == "bpf" and found["sent"] and found["forwarded"] >= found["sent"]:
        result.append(
            f"the upper stack forwarded {found['forwarded']} packets while a Pod sent {found['sent']} to"
            " other nodes, which BPF host routing bypasses"
        )
    return result


def _size_problems(found: Mapping[str, Any], big_tcp: str) -> list[str]:
    result = []
    for ip, name, version in (("ipv4", "gso_ipv4_max_size", 4), ("ipv6", "gso_max_size", 6)):
        if big_tcp not in (ip, "enabled"):
            continue
        if found[name] <= devices.LEGACY_SIZE:
            result.append(f"{name} in a Pod is {found[name]}, which is no BIG TCP")
        for stream in found["streams"]:
            own = ipaddress.ip_address(stream["to"]).version == version
            if own and stream["largest_packet"] <= devices.LEGACY_SIZE:
                result.append(
                    f"the largest packet of a transfer to {stream['to']} had {stream['largest_packet']}"
                    " bytes, although BIG TCP is enabled"
                )
    return result
