# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ``podnet-agent``, which systemd runs."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence

from .._core import lock
from .._core.plan import Problem
from .._datapath.store import Store
from .._ops import kubernetes
from .._pods.single import SinglePods
from .._programs import boot
from .._sysctl import scope
from . import config as _config
from . import metrics as _metrics
from . import reconcile, server
from .attachments import FOLDER, Attachments
from .cluster import ClusterWatch, store_uids
from .commands import Commands
from .journald import Handler
from .nodes import NodeWatch
from .protocol import CniError, Request
from .stale_sockets import StaleSockets
from .warning_file import Warnings
from .worker import Worker

DRAIN = 20.0  # seconds that running requests get when the agent ends

log = logging.getLogger("podnet-agent")


def run_command(words: Sequence[str]) -> tuple[int, str, str]:
    """Run a program; return its exit status, output and errors."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


class Agent:
    """The parts of the running agent."""

    def __init__(self, config: _config.Config, path: str, folder: str) -> None:
        self.config = config
        self._attachments = Attachments(folder)
        self._attachments.remove_unfinished()
        store_uids(config.pin_path, self._attachments)
        self._stale_sockets = StaleSockets(config.pin_path)
        pods = SinglePods(config.node_spec(), run_command, self._stale_sockets.request)
        self._worker = Worker(pods, _settable(config.sysctls))
        self._nodes: NodeWatch | None = None
        self._cluster: ClusterWatch | None = None
        if config.kubeconfig:
            api = kubernetes.Api(kubernetes.access(config.kubeconfig))
            warnings = Warnings(f"{path}.warnings")
            self._nodes = NodeWatch(
                api, config.node, self._worker, config.routes != "none", f"{folder}.ranges", warnings
            )
            if config.uses_cluster():
                file = f"{path}.cluster"
                self._cluster = ClusterWatch(config, api.access, self._worker, warnings, file)
        self._commands = Commands(config, self._worker, self._attachments, self._nodes, self._cluster)
        self._metrics = _metrics.Metrics()
        self._server = server.Server(path, self._handle, self._metrics.observe)
        self._stopped = threading.Event()
        self._completed = False

    def run(self) -> None:
        """Serve requests until ``stop`` is called."""
        self._worker.start()
        threading.Thread(target=self._stale_sockets.run, name="sockets", daemon=True).start()
        if self._nodes:
            threading.Thread(target=self._nodes.run, name="nodes", daemon=True).start()
        if self._cluster:
            threading.Thread(target=self._cluster.run, name="cluster", daemon=True).start()
        accepting = threading.Thread(target=self._server.serve, name="server", daemon=True)
        accepting.start()
        if self.config.metrics_port:
            try:
                _metrics.serve(
                    self.config.metrics_address, self.config.metrics_port, self._commands.problem, self._text
                )
            except OSError as error:
                log.warning(
                    "metrics_port: %s: %s: metrics are not served; set another cni_metrics_port",
                    self.config.metrics_port,
                    error,
                )
        _notify("READY=1")
        log.info("ready with %d attached Pods", len(self._attachments))
        while True:
            self._reconcile()
            if self._stopped.wait(reconcile.PERIOD):
                break
        _notify("STOPPING=1")
        self._server.close()
        self._server.drain(DRAIN)
        if self._cluster:
            self._cluster.stop()
        self._worker.stop()

    def stop(self, *_arguments: object) -> None:
        """End ``run`` after the running requests."""
        self._stopped.set()

    def _reconcile(self) -> None:
        try:
            reconcile.run(self._commands, self._worker, self._attachments)
            # A former agent may have been killed, or had other options. Without a former state of the
            # cluster, all Pods would be unknown and denied: the first state completes the entries.
            if not self._completed and self._cluster is None and self._is_cluster_stored():
                self._worker.set_cluster({}, (), ())
                self._completed = True
            elif not self._completed and (self._cluster is None or self._is_cluster_stored()):
                self._worker.complete_entries()
                self._completed = True
            if self._nodes:
                self._nodes.update()
            if self._completed:
                self._worker.update_node()
        except (Problem, OSError, CniError) as error:
            log.warning("reconciliation failed, and is repeated: %s", error)
        except Exception:  # Requests must be served nevertheless.
            log.exception("reconciliation failed, and is repeated")

    def _is_cluster_stored(self) -> bool:
        return bool(Store(self.config.pin_path).cluster.token())

    def _handle(self, request: Request) -> object:
        extra = {"pod": request.pod, "container": request.container, "command": request.command}
        try:
            result = self._commands.execute(request)
        except CniError as error:
            log.warning("%s of %s failed: %s", request.command, request.shown, error, extra=extra)
            raise
        if request.command in ("ADD", "DEL"):
            log.info("%s of %s", request.command, request.shown, extra=extra)
        return result

    def _text(self) -> str:
        gauges = {"agent_pods": len(self._attachments), "agent_queue_length": len(self._worker)}
        return self._metrics.text({**gauges, **(self._cluster.gauges() if self._cluster else {})})


def _notify(state: str) -> None:
    """Report a state to systemd (sd_notify(3))."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify,
        ):
            notify.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)


def _settable(sysctls: Mapping[str, str]) -> dict[str, str]:
    """Return the sysctls to set in Pods; log those of which Pods use the node's value."""
    found, messages = scope.in_namespaces(sysctls)
    for message in messages:
        log.warning("sysctls: %s", message)
    return found


@contextlib.contextmanager
def _only_agent(folder: str) -> Iterator[None]:
    """Exclude other agents with the same records during the block. Raises ``Problem``."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock.locked(os.path.join(folder, "lock"), timeout=0))
        except Problem:
            raise Problem(
                f"another agent uses the records in {folder}: stop it first (systemctl stop podnet-agent)"
            ) from None
        yield


def main() -> None:
    """Run the agent in the foreground."""
    parser = argparse.ArgumentParser(description="Attach the Pods of container runtimes to the datapath.")
    parser.add_argument("--config", default=_config.PATH, help="configuration file (%(default)s)")
    parser.add_argument("--socket", default=server.PATH, help="socket of the CNI plugin (%(default)s)")
    parser.add_argument("--state", default=FOLDER, help="directory of the records (%(default)s)")
    args = parser.parse_args()
    log.setLevel(logging.INFO)
    log.addHandler(Handler())
    try:
        config = _config.read(args.config)
        # A boot removes all programs, and container runtimes start Pods without Ansible.
        if boot.restore(config.pin_path, config.object, config.programs(), config.requests()):
            log.info("loaded the programs of %s", config.object)
        # Two agents would remove each other's Pods, as each has its records in memory.
        with _only_agent(os.path.dirname(os.path.abspath(args.state))):
            agent = Agent(config, args.socket, args.state)
            signal.signal(signal.SIGTERM, agent.stop)
            signal.signal(signal.SIGINT, agent.stop)
            agent.run()
    except (Problem, OSError) as error:
        raise SystemExit(f"podnet-agent: {error}") from None
