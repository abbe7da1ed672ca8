# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans of the installation of the agent."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._agent import config, install_plan, options
from ansible_collections.podnet.datapath.plugins.module_utils._agent import install as installer
from ansible_collections.podnet.datapath.plugins.module_utils._agent.install_plan import (
    OBJECT,
    PROGRAM,
    SERVICE,
    SETTINGS,
    UNIT,
    Current,
    Desired,
    InstallPlan,
    Record,
    install,
    uninstall,
)
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.modules import cni

CONFLIST = "/etc/cni/net.d/10-podnet.conflist"
DESIRED = Desired(
    agent={"node": "node1"},
    bin_dir="/opt/cni/bin",
    conf_dir="/etc/cni/net.d",
    conflist="10-podnet.conflist",
    network="podnet",
    ipam={"type": "host-local"},
    program="code",
    unit=install_plan.unit("/usr/bin/python3"),
    object="object",
)


def after(desired: Desired, **changed: Any) -> Current:
    """Return the state that an installation leads to."""
    current = Current(
        contents={**desired.files(), desired.plugin: "plugin"},
        links=list(desired.links),
        record=desired.record(),
        networks=[desired.conflist],
        enabled=True,
        active=True,
    )
    return dataclasses.replace(current, **changed)


def without(current: Current, path: str) -> Current:
    return dataclasses.replace(current, contents={**current.contents, path: None})


def names(plan: InstallPlan) -> list[str]:
    return [change.name for change in plan.changes]


def test_the_network_configuration_is_written_last_and_removed_last() -> None:
    plan = install(Current(), DESIRED)
    assert [*plan.files] == [OBJECT, PROGRAM, SETTINGS, UNIT, CONFLIST]
    assert plan.reload and plan.restart and not plan.problems
    assert uninstall(after(DESIRED), False).remove[-1] == CONFLIST


def test_an_installation_is_not_repeated() -> None:
    assert not install(after(DESIRED), DESIRED)
    assert not uninstall(Current(), False)


@pytest.mark.parametrize(
    ("path", "restarts"),
    [(OBJECT, False), (PROGRAM, True), (SETTINGS, True), (UNIT, True), (CONFLIST, False)],
)
def test_only_code_unit_and_settings_restart_the_agent(path: str, restarts: bool) -> None:
    plan = install(without(after(DESIRED), path), DESIRED)
    assert [*plan.files] == [path] and plan.restart == restarts and plan.reload == (path == UNIT)


@pytest.mark.parametrize("changed", [{"active": False}, {"record": Record(unfinished=True)}])
def test_an_agent_of_an_interrupted_run_is_restarted(changed: dict[str, Any]) -> None:
    assert names(install(after(DESIRED, **changed), DESIRED)) == [SERVICE]


def test_files_of_former_options_are_removed() -> None:
    changed = dataclasses.replace(DESIRED, bin_dir="/usr/lib/cni", conflist="00-podnet.conflist")
    plan = install(after(DESIRED), changed)
    assert plan.remove == ["/opt/cni/bin/podnet", CONFLIST] and not plan.restart


def test_a_foreign_network_configuration_is_not_overwritten() -> None:
    current = Current(contents={CONFLIST: "{}"}, networks=["10-podnet.conflist"])
    assert "was not written by this collection" in "".join(install(current, DESIRED).problems)


@given(st.lists(st.sampled_from(["05-a.conf", "20-b.conflist", "99-c.json", "01-d.conf.bak"]), unique=True))
def test_the_first_network_configuration_is_active(others: list[str]) -> None:
    plan = install(after(DESIRED, networks=[*others, DESIRED.conflist]), DESIRED)
    assert bool(plan.warnings) == ("05-a.conf" in others)


def test_a_missing_object_is_named() -> None:
    desired = dataclasses.replace(DESIRED, object_path="/none/datapath.o", object=None)
    with pytest.raises(Problem, match=r"^object: /none/datapath.o does not exist: run the role"):
        installer._require_parts(desired)


def test_pods_prevent_the_removal() -> None:
    current = after(DESIRED, pods=["shop/web"])
    assert "shop/web" in "".join(uninstall(current, False).problems)
    assert not uninstall(current, True).problems


def test_settings_are_those_that_the_agent_reads() -> None:
    given_options = {"node": "n", "mtu": None, "trusted_pods": False, "sysctls": {"net.core.somaxconn": 7}}
    settings = dataclasses.replace(DESIRED, agent=given_options).settings()
    read = config.Config(**json.loads(json.dumps(settings)))
    assert read.trusted_pods is False and read.sysctls == {"net.core.somaxconn": "7"} and read.mtu is None


def test_the_module_has_all_options_of_the_agent() -> None:
    assert {*cni._AGENT} == {field.name for field in dataclasses.fields(config.Config)} - {"object"}


def test_one_plugin_gets_host_ports() -> None:
    """The datapath without kube-proxy, portmap beside it."""

    def serving(**agent: Any) -> list[str]:
        desired = dataclasses.replace(DESIRED, agent={**DESIRED.agent, **agent})
        plugins = desired.network_config()["plugins"]
        assert plugins[0]["type"] == "podnet" and plugins[0]["capabilities"]["bandwidth"]
        return [one["type"] for one in plugins if one["capabilities"].get("portMappings")]

    services = ["10.96.0.0/16"]
    assert serving() == []
    assert serving(stack_services=services) == ["portmap"]
    assert serving(kube_proxy="replace") == ["podnet"]
    assert serving(kube_proxy="replace", stack_services=services) == ["podnet"]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"mtu": 1000}, "mtu: 1000 is outside 1280"),
        ({"gso_max_size": 1 << 30}, "gso_max_size: "),
        ({"ipv4_advmss": 100}, "ipv4_advmss: 100"),
        ({"pod_cidrs": ["10.0.0.1/24"]}, "pod_cidrs: '10.0.0.1/24'"),
        ({"stack_services": ["x"]}, "stack_services"),
        ({"masquerade": {"ipv4": "fd00::1"}}, "masquerade: ipv4"),
        ({"sysctls": {"a b": 1}}, "sysctls: 'a b'"),
        ({"metrics_port": 65536}, "metrics_port: 65536"),
        ({"metrics_address": "localhost"}, "metrics_address: 'localhost'"),
        ({"kube_proxy": "replace", "kubeconfig": ""}, "kube_proxy: replace requires kubeconfig"),
        ({"kubeconfig": "conf"}, "kubeconfig: 'conf'"),
        ({"network": "a/b"}, "network: 'a/b'"),
        ({"conflist": "10-podnet.conf"}, "conflist: '10-podnet.conf'"),
        ({"conflist": "sub/10-podnet.conflist"}, "conflist: 'sub"),
        ({"ipam": {}}, "ipam: type is missing"),
    ],
)
def test_invalid_options_are_named(values: dict[str, Any], problem: str) -> None:
    found = options.problems(values)
    assert len(found) == 1 and found[0].startswith(problem), found


def test_valid_options_have_no_problem() -> None:
    values = {**DESIRED.agent, "network": "podnet", "conflist": "00-podnet.conflist", "ipam": {"type": "x"}}
    assert options.problems({**values, "mtu": 9000, "pod_cidrs": ["10.78.0.0/24"]}) == []
    assert options.problems({}) == []
