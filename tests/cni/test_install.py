# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installation, upgrade, removal and reboot of the agent on a node with systemd."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cni.plugin import build_release
from tests.support.checkout import PROGRAMS
from tests.support.namespaces import command
from tests.support.systemd_node import SystemdNode, play, run_playbook, systemd_node

FOLDERS = ("/etc/cni", "/etc/podnet", "/etc/systemd", "/usr/local/lib/podnet", "/opt", "/var/lib/cni")
CONFLIST = "/etc/cni/net.d/10-podnet.conflist"
OTHER = "/etc/cni/net.d/05-other.conflist"
SERVICE = "podnet-agent.service"


class Installation:
    """A node with loaded programs and the plugin, on which the module ``cni`` runs."""

    def __init__(self, node: SystemdNode, object_path: str, plugin: Path) -> None:
        self.node, self.object = node, object_path
        self._plugin = plugin

    def add_uplink(self) -> None:
        self.node.run("ip", "link", "add", "uplink0", "type", "veth", "peer", "name", "wire0")
        self.node.run("ip", "address", "add", "10.79.0.1/32", "dev", "lo")

    def prepare(self) -> None:
        """Load the programs and copy the plugin, as the roles do before the module."""
        if "uplink0" not in self.node.run("ls", "/sys/class/net"):  # after a reboot
            self.add_uplink()
        attachment = {"program": "host_ingress", "device": "uplink0", "hook": "ingress"}
        self.node.module("bpf_attach", {"object": self.object, "attachments": [attachment]})
        self.node.run("mkdir", "-p", "/opt/cni/bin")
        self.node.run("cp", str(self._plugin), "/opt/cni/bin/podnet")

    def install(self, check: bool = False, fails: bool = False, **changed: Any) -> dict[str, Any]:
        agent = {
            "node": "node1",
            "driver": "veth",
            "uplinks": ["uplink0"],
            "pod_cidrs": ["10.78.0.0/24", "fd78::/64"],
            **changed.pop("agent", {}),
        }
        return self.node.module("cni", {"agent": agent, "object": self.object, **changed}, check, fails)

    def remove(self, **args: Any) -> dict[str, Any]:
        return self.node.module("cni", {"state": "absent", **args})

    def call(self, cni_command: str, container: str) -> dict[str, Any]:
        """Run the installed plugin as a runtime does; return its output."""
        conflist = json.loads(self.node.run("cat", CONFLIST))
        config = {**conflist["plugins"][0], "name": conflist["name"], "cniVersion": "1.1.0"}
        variables = {
            "COMMAND": cni_command,
            "CONTAINERID": container,
            "NETNS": f"/run/netns/{container}",
            "IFNAME": "eth0",
            "ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={container}",
            "PATH": "/opt/cni/bin",
        }
        words = ["env", *(f"CNI_{name}={value}" for name, value in variables.items())]
        output = self.node.run(*words, "/opt/cni/bin/podnet", given=json.dumps(config))
        result: dict[str, Any] = json.loads(output) if output else {}
        return result

    def add(self, container: str) -> str:
        """Start a container and return its IPv4 address."""
        self.node.run("ip", "netns", "add", container)
        address: str = self.call("ADD", container)["ips"][0]["address"].partition("/")[0]
        return address

    def delete(self, container: str) -> None:
        self.call("DEL", container)
        self.node.run("ip", "netns", "delete", container)

    def pings(self, address: str) -> bool:
        return " 0% packet loss" in self.node.run("ping", "-c1", "-W2", address, check=False)

    def property(self, name: str) -> str:
        return self.node.run("systemctl", "show", "--value", "--property", name, SERVICE).strip()

    def files(self) -> list[str]:
        return self.node.files(*FOLDERS)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdNode]:
    with systemd_node(tmp_path_factory.mktemp("node")) as made:
        yield made


@pytest.fixture(scope="module")
def bare(node: SystemdNode) -> Installation:
    folder = node.folder / "shared"
    command("make", "-s", "-C", str(PROGRAMS), f"OUT={folder}")
    return Installation(node, str(folder / "datapath.o"), build_release(folder).path)


@pytest.fixture
def cni(bare: Installation) -> Iterator[Installation]:
    """Yield a node with the agent; remove the agent afterwards."""
    bare.prepare()
    assert bare.install()["changed"]
    yield bare
    bare.remove(force=True)
    bare.node.run("ip", "--all", "netns", "delete")


def test_role_installs_once(bare: Installation, tmp_path: Path) -> None:
    bare.prepare()
    bare.node.run("rm", "-r", "/opt/cni")
    before = bare.files()
    variables = {
        **bare.node.variables(),
        "cni_object": bare.object,
        "cni_driver": "veth",
        "cni_install_packages": "false",
        "cni_pod_cidrs": "10.78.0.0/24",
        "cni_sysctls": {"net.ipv4.ip_forward": True},
        "node_tuning_nics": [{"name": "a", "mtu": 9000}, {"name": "b", "mtu": "4000"}],
    }
    hosts = {"node1": variables}
    play(tmp_path, hosts, ["cni"], "--check", "--diff")
    assert bare.files() == before
    play(tmp_path, hosts, ["cni"])
    settings = json.loads(bare.node.run("cat", "/etc/podnet/agent.json"))
    assert settings["mtu"] == 4000 and settings["sysctls"] == {"net.ipv4.ip_forward": "1"}
    assert bare.node.run("stat", "-c", "%a", "/etc/podnet/agent.json") == "600\n"
    assert "changed=0" in play(tmp_path, hosts, ["cni"])
    play(tmp_path, hosts, ["cni"], "-e", "cni_state=absent")
    assert bare.files() == before


def test_site_attaches_pods_and_revert_refuses_until_they_are_gone(
    bare: Installation, tmp_path: Path
) -> None:
    bare.prepare()
    bare.node.module("bpf_attach", {"state": "absent"})
    bare.node.run("rm", "-r", "/opt/cni")
    before = bare.files()
    variables = {
        **bare.node.variables(),
        "preflight_driver": "veth",
        "preflight_install_packages": False,
        "bpf_datapath_uplinks": ["uplink0"],
        "bpf_datapath_object": str(bare.node.folder / "shared/site.o"),
        "bpf_datapath_command": "",
        "bpf_datapath_confirm_timeout": 0,
        "fleet_remaining_hosts_file": str(tmp_path / "remaining-hosts"),
        "cni_enabled": "true",
        "cni_pod_cidrs": ["10.78.0.0/24"],
    }
    hosts = {"node1": variables}
    skipped = "--skip-tags=node_tuning,meta_driver"
    run_playbook(tmp_path, hosts, "site.yml", skipped, "--check")
    assert bare.files() == before
    run_playbook(tmp_path, hosts, "site.yml", skipped)
    assert bare.pings(bare.add("one"))
    assert "changed=0" in run_playbook(tmp_path, hosts, "site.yml", skipped)
    done = run_playbook(tmp_path, hosts, "playbooks/revert.yml", skipped, fails=True)
    assert "1 Pods still run with this CNI plugin (shop/one)" in done
    assert bare.property("ActiveState") == "active"
    bare.delete("one")
    run_playbook(tmp_path, hosts, "playbooks/revert.yml", skipped)
    assert bare.files() == before
    assert "podnet" not in bare.node.run("ls", "/sys/fs/bpf")


def test_an_upgrade_does_not_affect_pods(cni: Installation) -> None:
    address = cni.add("one")
    process, conflist = cni.property("MainPID"), cni.node.run("stat", "-c", "%i", CONFLIST)
    result = cni.install()
    assert not result["changed"] and result["pods"] == ["shop/one"] and result["status"] == ""
    assert cni.install(check=True, agent={"mtu": 1400})["changed"]
    assert cni.property("MainPID") == process
    result = cni.install(agent={"mtu": 1400})
    assert result["changes"] == ["change /etc/podnet/agent.json", f"change {SERVICE}"]
    assert cni.property("MainPID") != process
    assert cni.node.run("stat", "-c", "%i", CONFLIST) == conflist
    assert cni.pings(address)
    cni.add("two")
    assert "mtu 1400" in cni.node.run("ip", "-n", "two", "link", "show", "eth0")
    cni.delete("one")
    cni.delete("two")


def test_the_former_agent_replaces_one_that_does_not_start(cni: Installation) -> None:
    settings = cni.node.run("cat", "/etc/podnet/agent.json")
    result = cni.install(agent={"uplinks": ["uplink7"]}, fails=True)
    assert "device 'uplink7' does not exist" in result["msg"]
    assert cni.node.run("cat", "/etc/podnet/agent.json") == settings
    address = cni.add("one")
    assert cni.pings(address)
    cni.delete("one")
    # The interrupted run may have left a former agent running.
    assert cni.install()["changed"] and not cni.install()["changed"]


def test_no_network_configuration_without_an_agent(bare: Installation) -> None:
    bare.prepare()
    assert "uplink7" in bare.install(agent={"uplinks": ["uplink7"]}, fails=True)["msg"]
    assert CONFLIST not in bare.files()
    bare.remove()


def test_invalid_options_are_rejected_before_any_change(bare: Installation) -> None:
    bare.prepare()
    before = bare.files()
    agent = {
        "mtu": 70000,
        "pod_cidrs": ["10.78.0.1/24"],
        "masquerade": {"ipv4": "fd00::1"},
        "metrics_port": 70000,
    }
    message = bare.install(agent=agent, conflist="../x.conflist", network="a b", fails=True)["msg"]
    for option in (
        "mtu: 70000",
        "pod_cidrs: '10.78.0.1/24'",
        "masquerade: ipv4",
        "metrics_port: 70000",
        "conflist",
        "network",
    ):
        assert option in message
    assert bare.files() == before


def test_pods_start_after_a_reboot(cni: Installation) -> None:
    cni.add("one")
    cni.node.reboot()
    # Until the uplink is there, the agent is not ready.
    assert cni.property("ActiveState") != "active"
    assert "podnet" not in cni.node.run("ls", "/sys/fs/bpf")
    cni.add_uplink()
    cni.node.run("sh", "-c", f"until systemctl is-active {SERVICE}; do sleep 0.1; done")
    assert "host_ingress" in cni.node.run("ls", "/sys/fs/bpf/podnet/progs")
    assert cni.node.run("ls", "/sys/fs/bpf/podnet/links/site") == "uplink0-ingress\n"
    assert cni.pings(cni.add("two"))
    assert not cni.install()["changed"]
    cni.delete("two")


def test_portmap_follows_if_kube_proxy_translates_services(cni: Installation) -> None:
    result = cni.install(agent={"stack_services": ["10.96.0.0/16"]})
    assert "create /opt/cni/bin/portmap" in result["changes"]
    conflist = json.loads(cni.node.run("cat", CONFLIST))
    assert [plugin["type"] for plugin in conflist["plugins"]] == ["podnet", "portmap"]
    assert cni.node.run("readlink", "/opt/cni/bin/portmap") == "/usr/lib/cni/portmap\n"
    assert not cni.install(agent={"stack_services": ["10.96.0.0/16"]})["changed"]
    assert conflist["plugins"][0]["capabilities"] == {"bandwidth": True}
    assert "remove /opt/cni/bin/portmap" in cni.install()["changes"]
    assert "/opt/cni/bin/portmap" not in cni.files()


def test_removal_leaves_nothing(bare: Installation) -> None:
    bare.prepare()
    bare.node.run("rm", "-r", "/opt/cni")
    before = bare.files()
    bare.prepare()
    bare.install()
    bare.add("one")
    message = bare.node.module("cni", {"state": "absent"}, fails=True)["msg"]
    assert "1 Pods still run with this CNI plugin (shop/one)" in message
    assert bare.property("ActiveState") == "active"
    bare.delete("one")
    assert bare.node.module("cni", {"state": "absent"}, check=True)["changed"]
    assert CONFLIST in bare.files()
    assert bare.remove()["changed"] and not bare.remove()["changed"]
    assert bare.files() == before


def test_forced_removal_removes_devices(cni: Installation) -> None:
    cni.add("one")
    assert cni.remove(force=True)["pods"] == ["shop/one"]
    assert "pn" not in cni.node.run("ip", "-brief", "link", "show", "type", "veth")
    cni.node.run("ip", "netns", "delete", "one")
    assert "agent.sock" not in cni.node.run("ls", "/run/podnet")


def test_other_plugins_are_left_alone(cni: Installation) -> None:
    other = json.dumps({"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "ptp"}]})
    cni.node.run("tee", OTHER, given=other)
    # The format is that of libcni's api.go: a Pod that a runtime has added to the network of another plugin.
    cached = {
        "kind": "cniCacheV1",
        "containerId": "abc",
        "config": base64.b64encode(other.encode()).decode(),
        "ifName": "eth0",
        "networkName": "other",
        "cniArgs": [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "old"]],
    }
    cni.node.run("mkdir", "-p", "/var/lib/cni/results")
    cni.node.run("tee", "/var/lib/cni/results/other-abc-eth0", given=json.dumps(cached))
    result = cni.install()
    assert not result["changed"] and result["active"] == "05-other.conflist"
    assert "05-other.conflist instead of 10-podnet.conflist" in str(result["warnings"])
    assert result["foreign_pods"] == ["shop/old"]
    result = cni.install(conflist="00-podnet.conflist")
    assert result["active"] == "00-podnet.conflist" and "warnings" not in result
    assert cni.node.run("ls", "/etc/cni/net.d").split() == ["00-podnet.conflist", "05-other.conflist"]
    assert "05-other" in cni.install(conflist="05-other.conflist", fails=True)["msg"]
    cni.remove()
    assert cni.node.run("cat", OTHER) == other
    cni.node.run("rm", "-r", OTHER, "/var/lib/cni/results")
