# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The preflight report, and other software that configures the node's network."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.podnet.datapath.plugins.filter.preflight_rows import preflight_rows
from ansible_collections.podnet.datapath.plugins.module_utils._node import coexistence
from ansible_collections.podnet.datapath.plugins.module_utils._node import facts as _node


def facts(
    release: str = "6.12.1-amd64", netkit: bool = True, gso: int = 524280, missing: Any = (), **more: Any
) -> dict[str, Any]:
    nic = {"name": "eth0", "driver": "mlx5_core", "mtu": 9000, "speed": 100000, "carrier": True}
    nic.update(virtual_functions=4, default_route=True, gso_max_size=gso, gso_ipv4=True)
    nic.update(header_split=["striding_off"], rings={"rx": 8192, "tx": 8192})
    return {
        "kernel": {
            "release": release,
            "netkit": netkit,
            "netkit_attributes": ["scrub"],
            "headers": True,
            "bpf_helpers_missing": [*missing],
        },
        "distribution": {"name": "Debian GNU/Linux 13"},
        "driver": "netkit",
        "driver_reason": "the kernel has netkit",
        "meta": {"loaded": False, "available": False},
        "nics": [nic],
        "security": {
            "secure_boot": True,
            "lockdown": "integrity",
            "signature_required": True,
            "key_enrolled": False,
        },
        "bootloader": "grub",
        "vfio": ["0000:01:00.1"],
        "cilium": [],
        "ipsec_policies": [],
        "pod_isolation": "no container can address the node's devices",
        "coexistence": {
            "cni": [],
            "vm_runtimes": ["KubeVirt (/var/run/kubevirt)"],
            "tuners": ["TuneD balanced"],
        },
        "problems": [],
        **more,
    }


def test_invalid_facts_are_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="preflight_rows"):
        preflight_rows({})


def test_the_report_contains_all_facts() -> None:
    rows = preflight_rows(facts())
    assert rows["driver"] == "netkit: the kernel has netkit" and rows["netkit"] == "yes (scrub)"
    assert rows["NICs"] == (
        "eth0: mlx5_core, MTU 9000, 100000 Mbit/s, GSO up to 524280, rings up to 8192/8192, "
        "header split striding_off"
    )
    assert rows["module signing"] == (
        "Secure Boot on, lockdown integrity, modules must be signed, key not enrolled"
    )
    assert rows["SR-IOV"] == "eth0 4" and rows["VFIO"] == "0000:01:00.1"
    assert rows["other tuning tools"] == "TuneD balanced" and rows["problems"] == "none"
    bare = facts(netkit=False, nics=[], vfio=[])
    assert preflight_rows(copy.deepcopy(bare))["netkit"] == "no"
    assert preflight_rows(bare)["VFIO"] == preflight_rows(bare)["NICs"] == "none"


def test_other_software_is_detected_from_files(tmp_path: Path) -> None:
    files = {
        "etc/cni/net.d/05-cilium.conflist": '{"name": "cilium", "plugins": [{"type": "cilium-cni"}]}',
        "etc/cni/net.d/10-old.conf": '{"name": "bridge", "type": "bridge"}',
        "etc/cni/net.d/20-broken.conf": "{",
        "etc/cni/net.d/README": "",
        "etc/sysctl.d/zz-podnet.conf": "# Written by podnet.datapath.sysctl_zc: changes made here are lost.",
        "etc/sysctl.d/50-k8s.conf": "net.ipv4.ip_forward = 1",
        "etc/tuned/active_profile": "throughput-performance\n",
        "run/tuned/tuned.pid": "1",
        "run/libvirt/libvirt-sock": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    node = _node.Node(str(tmp_path))
    found = coexistence.other_software(node)
    assert [(cni["name"], cni["plugins"]) for cni in found["cni"]] == [
        ("cilium", ["cilium-cni"]),
        ("bridge", ["bridge"]),
        ("", []),
    ]
    assert found["vm_runtimes"] == ["libvirt (/run/libvirt/libvirt-sock)"]
    assert found["tuners"] == ["TuneD throughput-performance", "/etc/sysctl.d/50-k8s.conf"]
    assert coexistence.cilium(node) == ["/etc/cni/net.d/05-cilium.conflist"]
    empty = coexistence.other_software(_node.Node(str(tmp_path / "nothing")))
    assert empty == {"cni": [], "vm_runtimes": [], "tuners": []}
