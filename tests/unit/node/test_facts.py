# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of a node, driver selection and problems."""

from __future__ import annotations

import copy
import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import link_kinds
from ansible_collections.podnet.datapath.plugins.module_utils._node import facts as _node
from ansible_collections.podnet.datapath.plugins.module_utils._node import readiness
from ansible_collections.podnet.datapath.plugins.module_utils._pods import execute
from ansible_collections.podnet.datapath.plugins.module_utils._pods.plan import Step

RELEASE = "6.1.0-56-amd64"

# A Debian 12 node that supports everything but netkit.
GOOD: _node.Facts = {
    "root": True,
    "kernel": {
        "release": RELEASE,
        "version": "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)",
        "flavour": "amd64",
        "architecture": "x86_64",
        "boot_id": "bb537cc7-8638-4aab-8f1f-e13359873be8",
        "cmdline": "quiet",
        "config": {"CONFIG_MODULES": "y", "CONFIG_NETKIT": "n", "CONFIG_VETH": "m"},
        "headers": True,
        "headers_package": f"linux-headers-{RELEASE}",
        "btf": True,
        "bpf_helpers_missing": [],
        "bpf_fs": True,
        "netkit": False,
        "netkit_attributes": [],
        "veth": True,
        "upcoming": [],
    },
    "distribution": {"id": "debian", "version": "12", "name": "Debian GNU/Linux 12", "family": "debian"},
    "tools": {tool: f"/usr/bin/{tool}" for tool in ("dkms", "gcc", "make", "modprobe")},
    "libraries": {"pyroute2": "0.7.2", "libbpf": "1.1"},
    "python": {"executable": "/usr/bin/python3", "packaged": True},
    "meta": {"loaded": False, "available": False, "version": "", "srcversion": "", "devices": []},
    "security": {
        "secure_boot": False,
        "lockdown": "none",
        "signature_required": False,
        "certificate": "",
        "key_enrolled": None,
    },
    "nics": [
        {
            "name": "wire0",
            "driver": "virtio_net",
            "mac": "52:54:00:31:02:01",
            "mtu": 8264,
            "speed": -1,
            "carrier": True,
            "pci": "0000:00:03.0",
            "default_route": False,
            "ethernet": True,
            "virtual_functions": 0,
        }
    ],
    "vfio": [],
    "cilium": [],
    "ipsec_policies": [],
}


def node(**changes: Any) -> _node.Facts:
    """Return the facts GOOD with changes, given as ``part__key=value`` or ``part=value``."""
    facts: Any = copy.deepcopy(GOOD)
    for path, value in changes.items():
        *parts, last = path.split("__")
        place = facts
        for part in parts:
            place = place[part]
        place[last] = value
    return facts  # type: ignore[no-any-return]


LOCKED = {
    "security__secure_boot": True,
    "security__lockdown": "integrity",
    "security__signature_required": True,
    "security__key_enrolled": False,
}
NO_HEADERS = {"kernel__headers": False}


@pytest.mark.parametrize(
    ("changes", "allow_package_install", "driver", "reason"),
    [
        ({}, False, "meta", "built on the node"),
        ({"kernel__netkit": True}, False, "netkit", "the kernel has netkit"),
        ({"kernel__netkit": True, "meta__loaded": True}, False, "netkit", "the kernel has netkit"),
        ({"meta__loaded": True, **NO_HEADERS, "tools__gcc": ""}, False, "meta", "is loaded"),
        ({"meta__available": True, **NO_HEADERS, "tools__gcc": ""}, False, "meta", "is installed"),
        (NO_HEADERS, False, "veth", f"apt-get install linux-headers-{RELEASE}"),
        (NO_HEADERS, True, "meta", "built on the node"),
        # The package of the headers is unknown.
        ({**NO_HEADERS, "kernel__headers_package": "", "distribution__family": ""}, True, "veth", "missing"),
        ({"tools__dkms": "", "tools__make": ""}, False, "veth", "apt-get install dkms make"),
        ({"tools__gcc": "", "distribution__family": "redhat"}, False, "veth", "dnf install gcc"),
        (LOCKED, True, "veth", "Secure Boot"),
        ({**LOCKED, "security__key_enrolled": True}, False, "meta", "built"),
        ({**LOCKED, "meta__loaded": True}, False, "meta", "is loaded"),
        ({"kernel__config": {"CONFIG_MODULES": "n"}}, True, "veth", "CONFIG_MODULES"),
    ],
)
def test_auto_selects_the_best_driver_with_a_reason(
    changes: dict[str, Any], allow_package_install: bool, driver: str, reason: str
) -> None:
    chosen, why = readiness.choose_driver(node(**changes), "auto", allow_package_install)
    assert chosen == driver
    assert reason in why
    assert why.startswith("fallback") == (driver == "veth")


@pytest.mark.parametrize(
    ("changes", "driver", "reason"),
    [
        ({"kernel__netkit": True}, "meta", "Pods are not trusted; the meta driver is built on the node"),
        (
            {"kernel__netkit": True, "meta__loaded": True},
            "meta",
            "Pods are not trusted; the meta driver is loaded",
        ),
        (
            {"kernel__netkit": True, **NO_HEADERS},
            "netkit",
            "the meta driver is unavailable: missing: the headers",
        ),
        ({}, "meta", "the kernel has no netkit"),
        (NO_HEADERS, "veth", "fallback"),
    ],
)
def test_auto_prefers_meta_for_untrusted_pods(changes: dict[str, Any], driver: str, reason: str) -> None:
    facts = node(**changes)
    chosen, why = readiness.choose_driver(facts, "auto", trusted_pods=False)
    assert chosen == driver
    assert reason in why
    assert readiness.choose_driver(facts, "netkit", trusted_pods=False)[0] == "netkit"


def test_pod_isolation_depends_on_the_driver() -> None:
    for driver in ("netkit", "veth"):
        for word in ("CAP_NET_ADMIN", driver, "hostUsers", "meta"):
            assert word in readiness.pod_isolation(driver)
    assert readiness.pod_isolation("meta").startswith("no container")
    assert readiness.pod_isolation("none") == ""


@pytest.mark.parametrize(
    ("changes", "wanted", "words"),
    [
        ({"root": False}, "auto", ["become"]),
        ({"kernel__architecture": "s390x"}, "auto", ["s390x", "x86_64"]),
        ({"cilium": ["cilium_host"]}, "auto", ["Cilium", "cilium_host"]),
        ({"libraries__pyroute2": ""}, "auto", ["pyroute2", "apt-get install python3-pyroute2"]),
        ({"libraries__libbpf": ""}, "auto", ["libbpf.so.1", "apt-get install libbpf1"]),
        (
            {"libraries__libbpf": "", "distribution__family": "suse"},
            "auto",
            ["libbpf.so.1", "package manager"],
        ),
        ({}, "netkit", ["netkit", RELEASE, "CONFIG_NETKIT=n"]),
        (NO_HEADERS, "meta", ["driver: meta", f"apt-get install linux-headers-{RELEASE}"]),
        (LOCKED, "meta", ["driver: meta", "Secure Boot", "integrity", "mokutil --import"]),
        ({"kernel__veth": False}, "veth", ["driver: veth", RELEASE]),
        ({"kernel__bpf_helpers_missing": ["bpf_skb_set_tstamp"]}, "auto", ["bpf_skb_set_tstamp", "5.18"]),
        ({"kernel__veth": False, **NO_HEADERS}, "auto", ["veth is the fallback"]),
        ({"kernel__btf": False}, "auto", ["BTF", "CONFIG_DEBUG_INFO_BTF"]),
        ({"nics": []}, "auto", ["uplinks", "'wire0'", "none"]),
        (
            {"nics": [{**GOOD["nics"][0], "ethernet": False}]},
            "auto",
            ["uplinks: wire0", "no Ethernet header"],
        ),
        (
            {"ipsec_policies": ["out 10.0.0.0/8 to ::/0"]},
            "auto",
            ["out 10.0.0.0/8 to ::/0", "ip xfrm policy"],
        ),
    ],
)
def test_a_problem_names_option_value_and_remedy(
    changes: dict[str, Any], wanted: str, words: list[str]
) -> None:
    found = readiness.problems(node(**changes), wanted, readiness.Requirements(("wire0",)))
    assert len(found) == 1
    for word in words:
        assert word in found[0]


def test_complete_node_has_no_problem() -> None:
    for wanted in ("auto", "meta", "veth"):
        assert readiness.problems(node(), wanted, readiness.Requirements(("wire0",))) == []


def test_all_problems_are_reported_at_once() -> None:
    facts = node(cilium=["cilium_net"], libraries__pyroute2="", **NO_HEADERS)
    assert len(readiness.problems(facts, "meta", readiness.Requirements(("eth9",)))) == 4


@pytest.mark.parametrize(
    ("changes", "wanted", "lacking", "required"),
    [
        ({}, "auto", [], []),
        (NO_HEADERS, "auto", [f"linux-headers-{RELEASE}"], []),
        (NO_HEADERS, "meta", [f"linux-headers-{RELEASE}"], [f"linux-headers-{RELEASE}"]),
        (NO_HEADERS, "veth", [], []),
        ({**NO_HEADERS, "kernel__netkit": True}, "auto", [], []),
        # Packages would not help, so none are installed.
        ({**NO_HEADERS, **LOCKED}, "auto", [], []),
        (
            {"libraries__libbpf": "", "tools__dkms": ""},
            "auto",
            ["libbpf1", "dkms"],
            ["libbpf1"],
        ),
        # A package would install pyroute2 for another interpreter.
        ({"libraries__pyroute2": "", "python__packaged": False}, "veth", [], []),
        ({"libraries__pyroute2": ""}, "veth", ["python3-pyroute2"], ["python3-pyroute2"]),
    ],
)
def test_only_useful_packages_are_missing(
    changes: dict[str, Any], wanted: str, lacking: list[str], required: list[str]
) -> None:
    assert readiness.missing_packages(node(**changes), wanted) == (lacking, required)


@pytest.mark.parametrize("allow_package_install", [False, True])
def test_other_interpreter_gets_a_remedy_that_works(allow_package_install: bool) -> None:
    """The distribution's package installs pyroute2 for /usr/bin/python3 only."""
    facts = node(libraries__pyroute2="", python={"executable": "/opt/venv/bin/python3", "packaged": False})
    (problem,) = readiness.problems(facts, "veth", readiness.Requirements((), allow_package_install))
    assert "for /opt/venv/bin/python3: run /opt/venv/bin/python3 -m pip install pyroute2" in problem
    assert "ansible_python_interpreter: /usr/bin/python3 (apt-get install python3-pyroute2)" in problem


ANY_FACTS = st.builds(
    node,
    kernel__netkit=st.booleans(),
    kernel__veth=st.booleans(),
    kernel__headers=st.booleans(),
    kernel__config=st.dictionaries(
        st.sampled_from(["CONFIG_MODULES", "CONFIG_NETKIT"]), st.sampled_from("ny")
    ),
    meta__loaded=st.booleans(),
    meta__available=st.booleans(),
    tools__dkms=st.sampled_from(["", "/usr/sbin/dkms"]),
    tools__modprobe=st.sampled_from(["", "/usr/sbin/modprobe"]),
    libraries__pyroute2=st.sampled_from(["", "0.7.2"]),
    python__packaged=st.booleans(),
    distribution__family=st.sampled_from(["", "debian", "redhat"]),
    security__signature_required=st.booleans(),
    security__key_enrolled=st.booleans(),
    cilium=st.lists(st.just("cilium_host"), max_size=1),
)


@given(ANY_FACTS, st.sampled_from(["auto", *readiness.DRIVERS]), st.booleans())
def test_chosen_driver_is_available_on_the_node(
    facts: _node.Facts, wanted: str, allow_package_install: bool
) -> None:
    driver, reason = readiness.choose_driver(facts, wanted, allow_package_install)
    found = readiness.problems(facts, wanted, readiness.Requirements((), allow_package_install))
    assert reason and driver in readiness.DRIVERS
    if wanted != "auto":
        assert driver == wanted
    if not found:
        possible = {
            "netkit": facts["kernel"]["netkit"],
            "meta": not readiness.meta_obstacles(facts, allow_package_install),
            "veth": facts["kernel"]["veth"],
        }
        assert possible[driver]
        # Missing components are allowed only if the caller installs packages.
        assert not readiness.missing_packages(facts, driver)[1] or allow_package_install
    # With permission to install packages, a node has no more problems than without.
    better = readiness.problems(facts, wanted, readiness.Requirements((), True))
    assert len(better) <= len(readiness.problems(facts, wanted, readiness.Requirements((), False)))


@pytest.mark.parametrize(
    ("release", "flavour"),
    [
        ("6.1.0-56-amd64", "amd64"),
        ("6.1.0-56-cloud-amd64", "cloud-amd64"),
        ("6.1.0-56-rt-amd64", "rt-amd64"),
        ("6.12.107+deb13-amd64", "amd64"),
        ("6.8.0-60-generic", "generic"),
        ("5.14.0-427.13.1.el9_4.x86_64", ""),
        ("6.1.0", ""),
        ("custom", ""),
    ],
)
def test_flavour_is_parsed_from_the_release(release: str, flavour: str) -> None:
    assert _node.flavour(release) == flavour


@pytest.mark.parametrize(
    ("identifier", "like", "family"),
    [
        ("debian", "", "debian"),
        ("ubuntu", "debian", "debian"),
        ("linuxmint", "ubuntu debian", "debian"),
        ("rocky", "rhel centos fedora", "redhat"),
        ("fedora", "", "redhat"),
        ("opensuse-leap", "suse opensuse", ""),
    ],
)
def test_the_family_follows_from_os_release(identifier: str, like: str, family: str) -> None:
    assert _node.family(identifier, like) == family


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_facts_are_read_from_files(tmp_path: Path) -> None:
    release = os.uname().release
    write(
        tmp_path,
        {
            "etc/os-release": 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\nNAME=Rocky\n',
            f"boot/config-{release}": "CONFIG_MODULES=y\n# CONFIG_NETKIT is not set\nCONFIG_VETH=m\n",
            f"lib/modules/{release}/build/Makefile": "",
            f"lib/modules/{release}/modules.dep": "kernel/net/nft_meta.ko.xz:\nextra/meta.ko.xz: veth.ko\n",
            "proc/self/mounts": "bpf /sys/fs/bpf bpf rw 0 0\n",
            "sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
            "sys/fs/bpf/cilium/tc": "",
        },
    )
    efivars = tmp_path / "sys/firmware/efi/efivars"
    efivars.mkdir(parents=True)
    (efivars / "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c").write_bytes(b"\6\0\0\0\1")

    facts = _node.Node(str(tmp_path)).facts()
    kernel = facts["kernel"]
    assert facts["distribution"]["family"] == "redhat"
    assert kernel["headers"] and kernel["headers_package"] == f"kernel-devel-{release}"
    assert kernel["config"]["CONFIG_NETKIT"] == "n" and kernel["config"]["CONFIG_MODULES"] == "y"
    assert kernel["bpf_fs"] and not kernel["btf"] and not kernel["veth"]
    assert facts["meta"]["available"] and not facts["meta"]["loaded"]
    assert facts["security"]["secure_boot"] and facts["security"]["lockdown"] == "integrity"
    assert facts["security"]["signature_required"] and facts["security"]["key_enrolled"] is False
    assert facts["cilium"] == ["/sys/fs/bpf/cilium"]


def test_empty_node_has_facts(tmp_path: Path) -> None:
    facts = _node.Node(str(tmp_path)).facts(["eth0"])
    assert facts["nics"] == [] and facts["distribution"]["family"] == ""
    assert not facts["kernel"]["headers"] and facts["kernel"]["config"] == {}


def nic(root: Path, name: str, device: str = "", **values: str) -> None:
    folder = root / "sys/class/net" / name
    folder.mkdir(parents=True)
    for key, value in values.items():
        (folder / key).write_text(f"{value}\n")
    if device:
        (root / device).mkdir(parents=True)
        (root / "sys/bus/drivers/mlx5_core").mkdir(parents=True, exist_ok=True)
        (root / device / "driver").symlink_to(root / "sys/bus/drivers/mlx5_core")
        (root / device / "sriov_numvfs").write_text("4\n")
        (folder / "device").symlink_to(root / device)


def test_nics_are_hardware_default_route_and_uplink_interfaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nic(
        tmp_path,
        "ens1",
        "sys/devices/pci0000:00/0000:00:1f.6/0000:03:00.1",
        mtu="9000",
        speed="100000",
        carrier="1",
    )
    nic(tmp_path, "br0", mtu="1500", carrier="1")
    nic(tmp_path, "bond0", mtu="9000")
    nic(tmp_path, "pn0123456789ab", mtu="1500")
    nic(tmp_path, "lo", mtu="65536")
    monkeypatch.setattr(_node, "default_interfaces", lambda: {"br0"})
    nics = {nic["name"]: nic for nic in _node.Node(str(tmp_path)).nics(["bond0"])}
    assert list(nics) == ["bond0", "br0", "ens1"]
    assert nics["br0"]["default_route"] and not nics["ens1"]["default_route"]
    assert (nics["ens1"]["driver"], nics["ens1"]["pci"]) == ("mlx5_core", "0000:03:00.1")
    assert (nics["ens1"]["speed"], nics["ens1"]["mtu"], nics["ens1"]["virtual_functions"]) == (
        100000,
        9000,
        4,
    )
    assert (nics["bond0"]["speed"], nics["bond0"]["carrier"], nics["bond0"]["pci"]) == (-1, False, "")


def test_certificate_is_the_one_that_dkms_is_configured_with(tmp_path: Path) -> None:
    node = _node.Node(str(tmp_path))
    assert node.certificate() == ""
    write(tmp_path, {"var/lib/dkms/mok.pub": ""})
    assert node.certificate() == "/var/lib/dkms/mok.pub"
    write(tmp_path, {"etc/dkms/framework.conf": '# mok_certificate=/no\nmok_certificate="/etc/key.der"\n'})
    assert node.certificate() == "/var/lib/dkms/mok.pub"
    write(tmp_path, {"etc/key.der": ""})
    assert node.certificate() == "/etc/key.der"


def test_facts_of_this_machine() -> None:
    facts = _node.Node().facts()
    assert facts["kernel"]["release"] == os.uname().release
    assert facts["libraries"]["pyroute2"]
    assert "lo" not in [nic["name"] for nic in facts["nics"]]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("meta: cannot register the peer; name or index in use? (File exists)", "host_interface, interface"),
        ("meta: network namespace of the peer does not exist (No such file or directory)", "netns"),
        ("meta: a MAC address requires L2 mode (Invalid argument)", "mode"),
        ("mtu greater than device maximum (Invalid argument)", "mtu"),
        ("Operation not supported", "driver"),
    ],
)
def test_rejected_device_names_the_option(words: str, option: str) -> None:
    assert execute.rejected_option(Step("create_device", "driver"), words) == option
    assert execute.rejected_option(Step("set", "addresses"), words) == "addresses"


def test_attribute_numbers_match_the_header_of_the_driver() -> None:
    header = Path(__file__).parents[3] / "roles/meta_driver/files/meta_uapi.h"
    names = re.findall(r"^\tIFLA_META_(\w+)(?: = (\d+))?,", header.read_text(), re.MULTILINE)
    number, numbers = 0, {}
    for name, given_number in names:
        number = int(given_number) if given_number else number
        numbers[name] = number
        number += 1
    del numbers["UNSPEC"]
    assert numbers == link_kinds.META


def test_device_attributes_are_returned_as_text() -> None:
    meta = link_kinds.META
    raw = {
        meta["PEER_INFO"]: b"left out",
        meta["PRIMARY"]: b"\1",
        meta["POLICY"]: struct.pack("=I", 2),
        meta["PEER_POLICY"]: struct.pack("=I", 0),
        meta["MODE"]: struct.pack("=I", 1),
        meta["PEER_SCRUB"]: struct.pack("=I", 1),
        meta["HEADROOM"]: struct.pack("=H", 300),
        meta["PROG_ID"]: struct.pack("=I", 31),
        meta["PROG_TAG"]: bytes.fromhex("0011223344556677"),
    }
    assert link_kinds.readable("meta", raw) == {
        "primary": True,
        "policy": "drop",
        "peer_policy": "pass",
        "mode": "l3",
        "peer_scrub": "default",
        "headroom": 300,
        "prog_id": 31,
        "prog_tag": "0011223344556677",
    }


def test_releases_are_sorted_by_version() -> None:
    releases = ["7.3.4", "6.12.95+deb12-amd64", "6.1.0-9-amd64", "6.12.111+deb13-amd64", "6.1.0-56-amd64"]
    assert sorted(releases, key=_node.age) == [releases[n] for n in (2, 4, 1, 3, 0)]


def test_newer_kernel_without_the_driver_is_reported(tmp_path: Path) -> None:
    for release in ("6.1.0-55-amd64", "6.1.0-56-amd64", "6.1.0-57-amd64", "6.1.0-58-amd64", "6.1.0-59-amd64"):
        (tmp_path / "lib/modules" / release).mkdir(parents=True)
    (tmp_path / "boot").mkdir()
    for number in (55, 56, 57, 58):
        (tmp_path / f"boot/vmlinuz-6.1.0-{number}-amd64").touch()
    (tmp_path / "lib/modules/6.1.0-57-amd64/modules.dep").write_text("updates/dkms/meta.ko.xz:\n")
    assert _node.Node(str(tmp_path)).upcoming("6.1.0-56-amd64") == [
        {"release": "6.1.0-58-amd64", "headers": False}
    ]
    found = {"release": "6.1.0-58-amd64", "headers": False}
    (text,) = readiness.upcoming_warnings(
        node(kernel__upcoming=[{**found, "headers": True}]), delivered=False
    )
    assert "dkms autoinstall -k 6.1.0-58-amd64" in text
    (text,) = readiness.upcoming_warnings(node(kernel__upcoming=[found]), delivered=False)
    assert "6.1.0-58-amd64" in text and "apt-get install linux-headers-6.1.0-58-amd64" in text
    (text,) = readiness.upcoming_warnings(node(kernel__upcoming=[found]), delivered=True)
    assert "run the play again" in text


def test_node_with_delivered_driver_needs_no_compiler() -> None:
    bare = node(**NO_HEADERS, tools__gcc="", tools__make="", tools__dkms="")
    assert readiness.choose_driver(bare, "auto", False, delivered=True)[0] == "meta"
    assert readiness.missing_packages(bare, "meta", delivered=True) == ([], [])
    assert readiness.problems(bare, "meta", readiness.Requirements(delivered=True)) == []
    made = readiness.builder(bare)
    assert made["possible"] and made["missing"] == ["headers", "gcc", "make"]
    assert made["packages"] == [f"linux-headers-{RELEASE}", "gcc", "make"]
    assert not readiness.builder(node(**NO_HEADERS, distribution__family=""))["possible"]


def test_delivery_without_key_is_rejected_if_signatures_are_required() -> None:
    (text,) = readiness.problems(
        node(**{**LOCKED, "security__certificate": ""}), "meta", readiness.Requirements(delivered=True)
    )
    assert "Secure Boot" in text and "meta_driver_signing_key" in text
