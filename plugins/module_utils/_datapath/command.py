# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command podnet-datapath, which bpf_attach installs on the node."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence

from .._core.bundle import PACKAGE, archive, interpreter
from .._core.files import publish_file, replace_file
from .._core.plan import Problem
from .._kernel.bpf import DEFAULT_PIN_PATH
from .._kernel.routes import local_addresses
from .drops import Drop, Ring, line
from .explain import NODE, describe_pod, explain, find_pods, parse_port, selecting_policies
from .info import gather
from .merge import merge_records
from .metrics import read_reasons
from .model import EGRESS, INGRESS, Declaration, Pod
from .node import read_interfaces
from .prometheus import prometheus
from .status import status
from .store import Store, all_slots, shown_names


def program() -> bytes:
    """Return the content of the executable."""
    code = archive(f"from {PACKAGE}._datapath.command import main\n\nmain()\n")
    return f"#!{interpreter()}\n".encode() + code


def install(path: str, check: bool = False) -> str:
    """Write the command to ``path``; with ``check``, change nothing.

    Return create, replace, or an empty string if it is up to date. Raises ``Problem``.
    """
    desired = program()
    try:
        with open(path, "rb") as file:
            current = file.read()
    except FileNotFoundError:
        current = b""
    if current == desired:
        return ""
    if current and not re.match(rb"#!\S*python\S*\nPK", current):
        raise Problem(f"command: '{path}' is not managed by this collection; move it or choose another path")
    if not os.path.isdir(os.path.dirname(path)):
        raise Problem(f"command: the directory of '{path}' does not exist; create it or choose another path")
    if not check:
        replace_file(path, desired, 0o755)
    return "replace" if current else "create"


class _Names:
    """Names of Pods, devices and policies; refreshed at most once per second, if the declarations changed."""

    def __init__(self, pin_path: str) -> None:
        self._store = Store(pin_path)
        self._until, self._token = 0.0, object()
        self._declaration = Declaration()
        self._by_address: dict[str, Pod] = {}
        self._by_slot: dict[int, Pod] = {}
        self.pods: dict[int, str] = {}
        self.devices: dict[int, str] = {}

    def refresh(self) -> None:
        if time.monotonic() < self._until:
            return
        self._until = time.monotonic() + 1
        self.devices = {one.ifindex: name for name, one in read_interfaces().items()}
        records, token = self._store.read(), self._store.cluster.token()
        if (records, token) == self._token:
            return
        self._token = (records, token)
        self._declaration = merge_records(records, self._store.cluster.read())
        self._by_address = {str(one): pod for pod in self._declaration.pods for one in pod.addresses}
        slots = all_slots(records)
        self._by_slot = {
            slots[pod.owner, pod.name]: pod
            for pod in self._declaration.pods
            if pod.device and (pod.owner, pod.name) in slots
        }
        self.pods = shown_names(records)

    def peer(self, drop: Drop) -> str:
        """Return the name of the peer, empty if it is no Pod."""
        pod = self._by_address.get(drop.remote)
        return f"Pod {pod.shown}" if pod else ""

    def policies(self, drop: Drop, reason: str) -> list[str]:
        """Return the names of the policies that selected the Pod, if they caused the drop."""
        pod = self._by_slot.get(drop.slot)
        if pod is None or not reason.startswith("DROP_POLICY"):
            return []
        direction = INGRESS if drop.ingress else EGRESS
        return [one.name for one in selecting_policies(self._declaration.policies, pod, direction)]


def _follow_drops(pin_path: str, wait: float | None) -> None:
    """Print a line for each dropped packet; return after ``wait`` seconds without one."""
    reasons = read_reasons(pin_path)
    names = _Names(pin_path)
    with contextlib.closing(Ring(pin_path)) as ring:
        while True:
            for drop in ring.read():
                names.refresh()
                policies = names.policies(drop, reasons.get(drop.reason, ""))
                shown = line(drop, reasons, names.pods, names.devices, names.peer(drop), policies)
                sys.stdout.write(shown + "\n")
                sys.stdout.flush()
            if not ring.wait(wait):
                return


def _explain_policy(pin_path: str, name: str, source: str, target: str, port: str) -> list[str]:
    """Return the policies of a Pod, or the verdict for packets from or to a peer. Raises ``ValueError``."""
    store = Store(pin_path)
    declaration = merge_records(store.read(), store.cluster.read())
    pods = [pod for pod in find_pods(declaration.pods, name) if pod.device]
    if not pods:
        raise ValueError(f"{name} is not a Pod of this node: podnet-datapath info lists them")
    protocol, number = parse_port(port) if port else (0, 0)
    own = local_addresses()
    lines = []
    for pod in pods:
        if not source and not target:
            lines += describe_pod(declaration, pod)
        if source:
            lines += explain(declaration, pod, source, INGRESS, protocol, number, own)
        if target:
            lines += explain(declaration, pod, target, EGRESS, protocol, number, own)
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="podnet-datapath", description="Show the state and the drops of the BPF datapath."
    )
    parser.add_argument(
        "--pin-path",
        default=DEFAULT_PIN_PATH,
        help="directory of the pinned programs and maps (default: %(default)s)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    drops = commands.add_parser("drops", help="print a line for each dropped packet")
    drops.add_argument("--wait", type=float, metavar="SECONDS", help="exit after this time without a drop")
    commands.add_parser("status", help="print a summary: agent, programs, Pods, drops")
    commands.add_parser("info", help="print programs, Pods, policy, services and counters as JSON")
    policy = commands.add_parser(
        "policy", help="print the policies of a Pod, or why they allow or deny a packet"
    )
    policy.add_argument("pod", metavar="NAMESPACE/POD", help="Pod of this node")
    for option, text in (("from", "the Pod receives"), ("to", "the Pod sends")):
        peer = f"address, Pod or '{NODE}'"
        policy.add_argument(f"--{option}", metavar="PEER", default="", help=f"{peer}: explain what {text}")
    policy.add_argument(
        "--port", metavar="PROTOCOL/PORT", default="", help="port of the receiver, such as tcp/80"
    )
    counters = commands.add_parser("prometheus", help="print counters for node_exporter's textfile collector")
    counters.add_argument("--output", metavar="FILE", help="replace FILE atomically instead of printing")
    args = parser.parse_args(arguments)
    try:
        if args.command == "drops":
            _follow_drops(args.pin_path, args.wait)
        elif args.command == "policy":
            given = vars(args)
            found = _explain_policy(args.pin_path, args.pod, given["from"], given["to"], args.port)
            sys.stdout.write("\n".join(found) + "\n")
        elif args.command == "status":
            sys.stdout.write(status(args.pin_path))
        elif args.command == "info":
            sys.stdout.write(json.dumps(gather(args.pin_path), indent=1) + "\n")
        elif args.output:
            publish_file(args.output, prometheus(gather(args.pin_path)).encode())
        else:
            sys.stdout.write(prometheus(gather(args.pin_path)))
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(0)  # The reader has closed the pipe: do not flush stdout.
    except (Problem, OSError, ValueError) as error:
        raise SystemExit(f"podnet-datapath: {error}") from None
