# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Splitting of netlink data, and the imports of pyroute2."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import ansible
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import messages, netlink
from tests.support.checkout import CHECKOUT

MODULES = sorted(path.stem for path in (CHECKOUT / "plugins/modules").glob("*.py"))
# The modules that use netlink, with the arguments that they require; all others need no pyroute2.
NEED_PYROUTE2: dict[str, dict[str, object]] = {
    "bpf_attach": {"object": "/x"},
    "bpf_state": {"endpoints": []},
    "checkpoint": {"state": "reverted", "name": "x"},
    "cilium_probe": {"pods": ["a", "b"]},
    "cni": {"state": "absent"},
    "dkms_driver": {"name": "x", "version": "1", "state": "absent"},
    "kernel_module": {"name": "x", "src": "/x", "sha256": hashlib.sha256(b"").hexdigest()},
    "meta_device": {"pods": []},
    "nic_info": {},
    "nic_tuning": {"nics": []},
    "pods": {"pods": [], "programs_enabled": False},
    "revert": {},
    "sysctl_info": {"sysctls": []},
    "sysctl_zc": {"sysctls": {}},
}
PACKAGE = "ansible_collections.podnet.datapath.plugins"


@settings(max_examples=50)
@given(st.dictionaries(st.integers(0, 0x3FFF), st.binary(max_size=40)))
def test_attributes_are_parsed_as_they_were_encoded(wanted: dict[int, bytes]) -> None:
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in wanted.items())
    assert netlink.attributes(data) == wanted


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_invalid_netlink_data_is_tolerated(data: bytes) -> None:
    netlink.attributes(data)
    assert b"".join(one for *_head, one in netlink.split(data)) in data


def test_messages_are_split_at_their_padding() -> None:
    first, second = struct.pack("=IHHII", 17, 16, 2, 5, 0) + b"x", struct.pack("=IHHII", 16, 3, 0, 6, 0)
    assert [*netlink.split(first + bytes(3) + second)] == [(16, 2, 5, first), (3, 0, 6, second)]


@pytest.mark.skipif(os.geteuid() != 0, reason="asking for link kinds needs CAP_NET_ADMIN")
def test_probe_for_a_link_kind_creates_no_device() -> None:
    before = os.listdir("/sys/class/net")
    assert netlink.has_link_kind("veth")
    assert not netlink.has_link_kind("nosuchkind")
    assert os.listdir("/sys/class/net") == before
    assert netlink.links_of_kind("nosuchkind") == []


@pytest.mark.parametrize("name", MODULES)
def test_importing_a_module_does_not_import_pyroute2(name: str) -> None:
    code = f"import sys, {PACKAGE}.modules.{name}; print(*(one for one in sys.modules if 'pyroute2' in one))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """Return a virtual environment's Python that imports Ansible and this collection, but not pyroute2."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (folder / "ansible").symlink_to(Path(ansible.__file__).parent)
    (folder / "ansible_collections/podnet").mkdir(parents=True)
    (folder / "ansible_collections/podnet/datapath").symlink_to(CHECKOUT)
    return str(folder / "venv/bin/python3"), {**os.environ, "PYTHONPATH": str(folder)}


def run(bare: tuple[str, dict[str, str]], name: str, arguments: dict[str, object]) -> str:
    python, environment = bare
    code = f"""
import ansible.module_utils.basic as basic
from {PACKAGE}.modules import {name}
if hasattr(basic, "_ANSIBLE_PROFILE"):
    basic._ANSIBLE_PROFILE = "legacy"
{name}.main()
"""
    done = subprocess.run(
        [python, "-c", code],
        env=environment,
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return str(json.loads(done.stdout).get("msg", ""))


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_need_netlink_report_a_missing_pyroute2(
    bare: tuple[str, dict[str, str]], name: str
) -> None:
    """Before anything else, and in check mode as well."""
    if name not in NEED_PYROUTE2:
        code = f"from {PACKAGE}.modules import {name}"
        subprocess.run([bare[0], "-c", code], env=bare[1], check=True)
        source = (CHECKOUT / f"plugins/modules/{name}.py").read_text()
        assert "require_pyroute2" not in source and "pyroute2 >=" not in source
        return
    for check in (False, True):
        message = run(bare, name, {**NEED_PYROUTE2[name], "_ansible_check_mode": check})
        expected = f"missing: pyroute2 for {bare[0]}: run {bare[0]} -m pip install pyroute2"
        assert message.startswith(expected), message


def test_node_info_reports_a_missing_pyroute2_as_a_problem(bare: tuple[str, dict[str, str]]) -> None:
    code = f"""
from {PACKAGE}.module_utils._node import facts, readiness
found = facts.Node().facts()
assert all(nic["default_route"] is None for nic in found["nics"]) and found["libraries"]["pyroute2"] == ""
print(*readiness.problems(found, "veth", readiness.Requirements()), sep="\\n")
"""
    done = subprocess.run([bare[0], "-c", code], env=bare[1], capture_output=True, text=True, check=True)
    assert f"missing: pyroute2 for {bare[0]}: run {bare[0]} -m pip install" in done.stdout, done.stdout


def test_all_message_classes_load_without_the_rest_of_pyroute2() -> None:
    code = f"""
import sys
from {PACKAGE}.module_utils._kernel import ethtool, messages
types = (messages.message_types, messages.next_hop_types, messages.traffic_control_type,
         messages.namespace_type, messages.connection_types, messages.policy_types, messages.control_type)
for one in types:
    one()
for group in (*ethtool.GROUPS, "features", "priv_flags"):
    ethtool._type(group)()
assert "pyroute2.netlink" in sys.modules
print(*(name for name in ("pyroute2", "pyroute2.iproute", "pyroute2.ndb") if name in sys.modules))
import pyroute2
pyroute2.IPRoute
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_attributes_of_subclasses_do_not_depend_on_earlier_use_of_their_parents() -> None:
    code = f"""
from pyroute2.netlink.diag import inet_diag_msg
from pyroute2.netlink.rtnl import ifinfmsg, rtmsg, tcmsg
for parent in (inet_diag_msg, ifinfmsg.ifinfmsg, rtmsg.rtmsg, tcmsg.tcmsg):
    parent()
from {PACKAGE}.module_utils._kernel import messages as m
route, nexthop = m.next_hop_types().route, m.next_hop_types().nexthop
types = (m.message_types().link, route, nexthop, m.traffic_control_type(), m.connection_types().reply)
for one in types:
    print(*sorted(name for name in ("IFLA_TSO_MAX_SIZE", "RTA_NH_ID", "NHA_OIF", "TCA_KIND", "INET_DIAG_INFO")
                  if one().valid_nla(name)))
print(rtmsg.rtmsg().valid_nla("RTA_GATEWAY"), route().valid_nla("RTA_GATEWAY"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        *("IFLA_TSO_MAX_SIZE", "RTA_NH_ID", "NHA_OIF", "TCA_KIND", "INET_DIAG_INFO", "True", "False")
    ]


def test_only_one_file_opens_netlink_sockets() -> None:
    files = [path for folder in ("plugins", "roles") for path in (CHECKOUT / folder).rglob("*.py")]
    assert [path.name for path in files if "AF_NETLINK" in path.read_text()] == ["netlink.py"]


def test_missing_library_names_interpreter_and_remedy() -> None:
    packaged = messages.missing_message("/usr/bin/python3", True, "apt-get install")
    assert packaged == "missing: pyroute2 for /usr/bin/python3: run apt-get install python3-pyroute2"
    other = messages.missing_message("/opt/venv/bin/python3", False, "")
    assert "for /opt/venv/bin/python3: run /opt/venv/bin/python3 -m pip install pyroute2" in other
    assert "ansible_python_interpreter: /usr/bin/python3 (install the package python3-pyroute2)" in other
