# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube-apiserver and etcd on loopback, without kubelets and controllers."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from lablib import common

from tests.kubernetes.cluster import build, cgroups, cluster, root
from tests.kubernetes.cluster.control_plane import ADMIN, FOLDER, ApiServer
from tests.kubernetes.cluster.machine import Machine

TOKEN = ADMIN
ADDRESS = "127.0.0.1"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Path]:
    """Run both; yield the path of a kubeconfig, beside which are a client's certificate and key."""
    with started(folder) as server:
        config = folder / "kubeconfig"
        config.write_text(server.kubeconfig())
        yield config


@contextlib.contextmanager
def started(folder: Path, netns: str = "", name: str = "api") -> Iterator[ApiServer]:
    """Run both, in a named network namespace if one is given; ``name`` differs for those that run at once."""
    common.require_root_and_commands()
    layers = [build.programs(), root.layer()]
    group = f"podnet-kube-{cluster.checkout_name(name)}"
    cgroups.remove(group)
    machine = Machine("api", folder, netns, group)
    cgroups.create(machine.group)
    try:
        machine.boot(layers)
        # A client certificate that is its own authority.
        pair = ("-keyout", folder / "client.key", "-out", folder / "client.crt")
        subject = ("-nodes", "-subj", "/O=system:masters/CN=test")
        common.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", *subject, *pair])
        authority = f"{FOLDER}/client.crt"
        machine.run("mkdir", "-p", FOLDER)
        machine.write(authority, (folder / "client.crt").read_text())
        server = ApiServer(machine, ADDRESS, *_free_ports(3))
        # No controller creates service accounts, and no endpoint of the API can be on loopback.
        without = ("--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none")
        server.start((), "--client-ca-file", authority, *without)
        server.wait()
        yield server
    finally:
        cgroups.remove(group)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for dummy in range(count)]
        for one in sockets:
            one.bind((ADDRESS, 0))
        return [int(one.getsockname()[1]) for one in sockets]
