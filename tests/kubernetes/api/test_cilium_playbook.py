# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of cilium.yml, and what it leaves on failures, on two nodes of this machine.

kube-apiserver and etcd are real. A server answers for the agents: with CNI=cilium, test_cilium.py runs the
playbook with real ones.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes.apiserver import running
from tests.kubernetes.cilium_objects import CONFIG, CiliumObjects
from tests.kubernetes.objects import OWNER
from tests.support.checkout import CHECKOUT
from tests.support.local_node import SKIPPED, node

NODES = ("node1", "node2")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def agent(path: str, objects: CiliumObjects, name: str) -> Iterator[None]:
    """Answer as the agent of a node does, with the settings with which it started."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def address_string(self) -> str:
            return ""

        def log_message(self, *_arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            config = objects.started[name]
            body = json.dumps(answer(self.path, config)).encode()
            self.send_response(200 if config else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with _Server(path, Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def answer(path: str, config: dict[str, str]) -> Any:
    """Return a resource of the agent's API for a configuration."""
    if path == "/v1/endpoint":
        return []
    if path == "/v1/config":
        return {"status": {"daemonConfigurationMap": {"EnableIPv4": True, "EnableIPv6": False}}}
    bpf = config.get("enable-bpf-masquerade") == "true"
    return {
        "cilium": {"state": "Ok", "msg": "1.20.2 (v1.20.2-0123456)"},
        "datapath-mode": config.get("datapath-mode"),
        "routing": {
            "intra-host-routing-mode": "BPF" if bpf else "Legacy",
            "inter-host-routing-mode": "Native",
        },
        "kube-proxy-replacement": {"mode": "True", "devices": ["lo"]},
        **{
            f"{ip}-big-tcp": {"enabled": config.get(f"enable-{ip}-big-tcp") == "true", "maxGSO": 196608}
            for ip in ("ipv4", "ipv6")
        },
        "bandwidth-manager": {
            "enabled": config.get("enable-bandwidth-manager") == "true",
            "congestionControl": "bbr" if config.get("enable-bbr") == "true" else "cubic",
        },
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CiliumObjects]:
    with running(tmp_path_factory.mktemp("cluster")) as config:
        found = CiliumObjects(config)
        found.install()
        for name in NODES:
            found.add_cilium_node(name)
        yield found


@pytest.fixture(scope="module")
def folder(cluster: CiliumObjects, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder with an inventory of the nodes."""
    path = tmp_path_factory.mktemp("controller")
    with contextlib.ExitStack() as stack:
        hosts = {}
        for name in NODES:
            (path / name).mkdir()
            facts = stack.enter_context(node(path / name))
            # Preflight finds Cilium by its device, and plans no other datapath.
            add = "import os; os.execvp('ip', 'ip link add cilium_host type veth'.split())"
            subprocess.run([facts["ansible_python_interpreter"], "-c", add], check=True)
            socket = str(path / f"{name}.sock")
            stack.enter_context(agent(socket, cluster, name))
            hosts[name] = {**facts, "cilium_socket": socket, "cilium_verify": False, "cilium_timeout": 20}
            hosts[name]["cilium_report"] = str(path / "report")
            hosts[name]["fleet_kubernetes_timeout"] = 5
            hosts[name]["fleet_remaining_hosts_file"] = str(path / "remaining")
        (path / "inventory").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
        stack.enter_context(cluster.controllers())
        yield path


def run(
    cluster: CiliumObjects, folder: Path, *arguments: str, playbook: str = "cilium"
) -> tuple[int, str, dict[str, int]]:
    """Run a playbook; return its status, output, and number of changes by node."""
    words = ("ansible-playbook", "-i", "inventory", str(CHECKOUT / f"playbooks/{playbook}.yml"))
    done = subprocess.run(
        [*words, SKIPPED, *arguments],
        cwd=folder,
        env={**os.environ, "KUBECONFIG": str(cluster.config)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    changes = re.findall(r"^(node\d) .* changed=(\d+)", done.stdout, re.MULTILINE)
    return done.returncode, done.stdout, {name: int(count) for name, count in changes}


def changed_tasks(output: str) -> list[str]:
    """Return the tasks that changed a node."""
    return re.findall(r"TASK.*\n(?:changed.*\n)+", output)


def require(cluster: CiliumObjects, *migrated: bool) -> None:
    """Check each node: its override, no change that is pending, and that it is not cordoned."""
    for name, expected in zip(NODES, migrated):
        state = cluster.cilium().state(name)
        assert bool(state.label) == expected and not state.pending, name
        assert not state.node["spec"].get("unschedulable"), name
        big = cluster.started[name].get("enable-ipv4-big-tcp") == "true"
        assert big == expected, cluster.started[name]


def test_check_mode_reports_and_changes_nothing(cluster: CiliumObjects, folder: Path) -> None:
    status, output, changes = run(cluster, folder, "--check")
    assert status == 0, output[-6000:]
    require(cluster, False, False)
    report = (folder / "report/cilium.md").read_text()
    assert re.search(r"\| node2 \| big_tcp \| disabled \| auto \| available \| new Pods \|", report), report
    assert "node1" in changes


def test_blocked_drain_stops_the_rollout(cluster: CiliumObjects, folder: Path) -> None:
    cluster.add_pod("db-a", "node1", OWNER)
    cluster.add_budget("db", allowed=0)
    try:
        status, output, _changes = run(cluster, folder)
        assert status and "PodDisruptionBudget db" in output, output[-6000:]
        require(cluster, False, False)
        assert (folder / "remaining").read_text().split() == ["node1", "node2"]
        report = (folder / "report/cilium.md").read_text()
        assert re.search(r"\| node1 \| not changed; failed: .*db", report), report
        assert "| node2 | not changed |" in report
    finally:
        cluster.api.delete(cluster.api.request("GET", "/api/v1/namespaces/default/pods/db-a"), 0)


def test_rejected_key_is_restored(cluster: CiliumObjects, folder: Path) -> None:
    """The agent of the first node rejects a key: the node is restored, the second one is not touched."""
    agents = [cluster.agent_uid(name) for name in NODES]
    cluster.rejected = frozenset({"enable-ipv4-big-tcp"})
    try:
        status, output, _changes = run(cluster, folder)
    finally:
        cluster.rejected = frozenset()
    assert status and "level=fatal" in output, output[-6000:]
    require(cluster, False, False)
    after = [cluster.agent_uid(name) for name in NODES]
    assert after[0] != agents[0] and after[1] == agents[1]
    assert "| node1 | restored; failed: " in (folder / "report/cilium.md").read_text()


def test_canary_then_all_nodes(cluster: CiliumObjects, folder: Path) -> None:
    status, output, _changes = run(cluster, folder, "-e", "fleet_stop_after=1")
    assert status == 0, output[-6000:]
    require(cluster, True, False)
    status, output, changes = run(cluster, folder)
    assert status == 0, output[-6000:]
    require(cluster, True, True)
    assert changes["node1"] == 0 < changes["node2"], changed_tasks(output)
    agents = [cluster.agent_uid(name) for name in NODES]
    status, output, changes = run(cluster, folder)
    assert status == 0 and changes == dict.fromkeys(NODES, 0), changed_tasks(output)
    assert agents == [cluster.agent_uid(name) for name in NODES]


def test_settings_become_those_of_the_cluster(cluster: CiliumObjects, folder: Path) -> None:
    status, output, _changes = run(cluster, folder, "-e", "cilium_state=finished")
    assert status and "would change from true to false" in output, output[-6000:]
    require(cluster, True, True)
    values = yaml.safe_load((folder / "report/cilium-values.yaml").read_text())
    assert values["enableIPv4BIGTCP"] is True and values["bpf"]["masquerade"] is True
    cluster.set_config({**CONFIG, **cluster.keys("node1")})
    status, output, _changes = run(cluster, folder, "-e", "cilium_state=finished")
    assert status == 0, output[-6000:]
    assert not any(cluster.keys(name) for name in NODES)
    status, output, changes = run(cluster, folder)
    assert status == 0 and changes == dict.fromkeys(NODES, 0), changed_tasks(output)
    cluster.set_config(CONFIG)


def test_rollback(cluster: CiliumObjects, folder: Path) -> None:
    """The agents have settings that the cluster's configuration no longer has."""
    status, output, _changes = run(cluster, folder, "-e", "cilium_state=absent")
    assert status == 0, output[-6000:]
    require(cluster, False, False)


def test_revert_includes_cilium(cluster: CiliumObjects, folder: Path) -> None:
    assert run(cluster, folder)[0] == 0
    require(cluster, True, True)
    status, output, _changes = run(cluster, folder, "--tags", "cilium", playbook="revert")
    assert status == 0, output[-6000:]
    require(cluster, False, False)


def test_preflight_has_a_row_for_each_setting(cluster: CiliumObjects, folder: Path) -> None:
    report = f"podnet_report={folder}/preflight"
    status, _output, _changes = run(cluster, folder, "-e", report, playbook="preflight")
    text = (folder / "preflight/preflight.md").read_text()
    assert text.count("| Cilium: big_tcp | disabled; available |") == len(NODES), (status, text)
