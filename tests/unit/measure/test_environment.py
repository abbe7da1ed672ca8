# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environment of a measurement: devices, CPU model, emulation."""

from __future__ import annotations

import json

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._measure import environment

ADDRESSES = json.dumps(
    [
        {
            "ifname": "eth0",
            "mtu": 8264,
            "qdisc": "noqueue",
            "linkinfo": {"info_kind": "meta"},
            "gso_max_size": 65536,
            "addr_info": [
                {"family": "inet", "local": "10.31.1.11", "prefixlen": 32, "scope": "global"},
                {"family": "inet6", "local": "fd31:1::11", "prefixlen": 128, "scope": "global"},
                {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
            ],
        },
        {},
    ]
)


def test_links_returns_kind_and_global_addresses() -> None:
    link = environment.links(ADDRESSES)["eth0"]
    assert (link["kind"], link["mtu"], link["gso_max_size"], link["gro_max_size"]) == (
        "meta",
        8264,
        65536,
        None,
    )
    assert link["addresses"] == ["10.31.1.11/32", "fd31:1::11/128"]


def test_missing_iproute2_returns_nothing() -> None:
    assert environment.links(None) == {}
    assert environment.run_tool("ip-nowhere", "link") is None


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        (
            "processor\t: 0\nmodel\t\t: 107\nmodel name\t: QEMU TCG CPU version 2.5+\n",
            "QEMU TCG CPU version 2.5+",
        ),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n", "0xd0c"),
    ],
)
def test_cpu_model_is_found_on_each_architecture(cpuinfo: str, model: str) -> None:
    assert environment.cpu_model(cpuinfo) == model


@pytest.mark.parametrize(
    ("model", "virtualization", "emulated"),
    [
        ("QEMU TCG CPU version 2.5+", None, True),
        ("AMD EPYC", "qemu", True),
        ("AMD EPYC", "kvm", False),
        ("AMD EPYC", "none", False),
    ],
)
def test_is_emulated_distinguishes_tcg_from_kvm(
    model: str, virtualization: str | None, emulated: bool
) -> None:
    assert environment.is_emulated(model, virtualization) is emulated


def test_environment_describes_this_machine() -> None:
    result = environment.environment(["lo"])
    assert result["kernel"] and result["cpu"] and result["cpus"] >= 1
    assert result["nics"]["lo"]["mtu"] > 0
    assert result["nics"]["lo"]["offloads"]["gro"] in (True, False)
    assert "net.ipv4.tcp_rmem" in result["sysctls"]
