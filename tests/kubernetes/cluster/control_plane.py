# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler in a machine."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from lablib import common

from tests.kubernetes.cluster.machine import Machine

ADMIN = "admin"
CONTROLLER_MANAGER = "system:kube-controller-manager"
SCHEDULER = "system:kube-scheduler"
PROXY = "system:kube-proxy"
SERVICE_CIDRS = "10.96.0.0/16", "fd96::/112"
FOLDER = "/etc/kubernetes"
CERTIFICATE = f"{FOLDER}/pki/apiserver.crt"
ACCOUNTS_KEY = f"{FOLDER}/accounts.key"


class ApiServer:
    """etcd and kube-apiserver. The token of each user is the user's name."""

    def __init__(
        self, machine: Machine, address: str, port: int = 6443, client: int = 2379, peer: int = 2380
    ) -> None:
        self.machine, self.address, self.port = machine, address, port
        self._options: tuple[str, ...] = ()
        self._etcd = [f"http://127.0.0.1:{number}" for number in (client, peer)]

    def start(self, nodes: tuple[str, ...] = (), *options: str) -> None:
        """Start both; ``nodes`` are the nodes whose kubelets may use the API."""
        client, peer = self._etcd
        groups = {ADMIN: "system:masters", CONTROLLER_MANAGER: "", SCHEDULER: "", PROXY: ""}
        groups.update({kubelet_user(node): "system:nodes" for node in nodes})
        users = "".join(f"{user},{user},{user},{group}\n" for user, group in groups.items())
        self.machine.run("mkdir", "-p", FOLDER)
        self.machine.write(f"{FOLDER}/tokens.csv", users, 0o600)
        self.machine.write(ACCOUNTS_KEY, common.run(["openssl", "genrsa", "2048"]), 0o600)
        self.machine.start(
            *("etcd", "etcd", "--data-dir", "/var/lib/etcd", "--unsafe-no-fsync"),
            *("--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer),
        )
        self._options = options
        self._start_server()

    def _start_server(self) -> None:
        self.machine.start(
            *("kube-apiserver", "kube-apiserver", "--etcd-servers", self._etcd[0]),
            *("--bind-address", self.address, "--advertise-address", self.address),
            *("--secure-port", str(self.port), "--cert-dir", f"{FOLDER}/pki"),
            *("--token-auth-file", f"{FOLDER}/tokens.csv", "--authorization-mode", "Node,RBAC"),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            *("--service-account-key-file", ACCOUNTS_KEY, "--service-account-signing-key-file", ACCOUNTS_KEY),
            *("--service-cluster-ip-range", ",".join(SERVICE_CIDRS)),
            *("--kubelet-preferred-address-types", "InternalIP", "--allow-privileged"),
            *self._options,
        )

    def kill(self) -> None:
        """Kill kube-apiserver."""
        self.machine.stop("kube-apiserver", "KILL/5")

    def restart(self) -> None:
        """Start kube-apiserver again, and wait until it is ready."""
        self._start_server()
        self.wait()

    def wait(self) -> None:
        """Wait until the API is ready; raise ``LabError`` if it is not within two minutes."""
        deadline = time.monotonic() + 120
        request = ("curl", "-skf", "-H", f"Authorization: Bearer {ADMIN}", f"{self.url}/readyz")
        while True:
            try:
                self.machine.run(*request)
            except common.LabError as error:
                if time.monotonic() > deadline:
                    raise common.LabError(f"kube-apiserver is not ready: {self.machine.logs()}") from error
                time.sleep(0.2)
            else:
                return

    @property
    def url(self) -> str:
        """The URL of the API."""
        return f"https://{self.address}:{self.port}"

    def kubeconfig(self, user: str = ADMIN) -> str:
        """Return a kubeconfig of a user, which contains the certificate."""
        return self.kubeconfig_of(user)

    def kubeconfig_of(self, token: str) -> str:
        """Return a kubeconfig for a token."""
        authority = base64.b64encode(self.machine.path(CERTIFICATE).read_bytes()).decode()
        cluster = {"server": self.url, "certificate-authority-data": authority}
        config: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "podnet",
            "contexts": [{"name": "podnet", "context": {"cluster": "podnet", "user": "podnet"}}],
            "clusters": [{"name": "podnet", "cluster": cluster}],
            "users": [{"name": "podnet", "user": {"token": token}}],
        }
        return json.dumps(config, indent=1)


def kubelet_user(node: str) -> str:
    """Return the user of a node's kubelet."""
    return f"system:node:{node}"


def start_controllers(server: ApiServer, grace: int = 50) -> None:
    """Start kube-controller-manager and kube-scheduler in the machine of a ready kube-apiserver.

    ``grace`` is the time in seconds after which a node that does not report is not ready.
    """
    machine = server.machine
    for user, file in ((CONTROLLER_MANAGER, "controller-manager"), (SCHEDULER, "scheduler")):
        machine.write(f"{FOLDER}/{file}.conf", server.kubeconfig(user), 0o600)
    machine.start(
        *("kube-controller-manager", "kube-controller-manager", "--leader-elect=false"),
        *("--kubeconfig", f"{FOLDER}/controller-manager.conf", "--use-service-account-credentials"),
        *("--service-account-private-key-file", ACCOUNTS_KEY, "--root-ca-file", CERTIFICATE),
        *("--service-cluster-ip-range", ",".join(SERVICE_CIDRS)),
        *("--node-monitor-grace-period", f"{grace}s"),
    )
    machine.start(
        *("kube-scheduler", "kube-scheduler", "--leader-elect=false"),
        *("--kubeconfig", f"{FOLDER}/scheduler.conf"),
    )
