# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A node with 1,000 Pods, 10,000 policy entries and 1,000 services of 10 backends."""

from __future__ import annotations

import ctypes
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Result
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import apply
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach

PODS, APPS = 1000, 100

WRITING = {
    bpf.BPF_MAP_UPDATE_ELEM,
    bpf.BPF_MAP_DELETE_ELEM,
    bpf.BPF_MAP_UPDATE_BATCH,
    bpf.BPF_MAP_DELETE_BATCH,
    bpf.BPF_MAP_CREATE,
}


def pod_address(number: int) -> str:
    return f"10.{number >> 8}.{number & 255}.1"


def declaration() -> dict[str, Any]:
    return {
        "endpoints": [
            {
                "name": f"p{n}",
                "device": f"s{n}",
                "addresses": [pod_address(n), f"fd00::{n:x}"],
                "labels": {"app": f"a{n % APPS}"},
            }
            for n in range(PODS)
        ],
        "policies": [
            {
                "name": f"p{app}",
                "pods": {"labels": {"app": f"a{app}"}},
                "ingress": [
                    {
                        "from": [{"labels": {"app": f"a{(app * 7 + n) % APPS}"}} for n in range(10)],
                        "ports": [{"protocol": "tcp", "port": 80 + app % 50}],
                    },
                    {"from": [{"cidr": f"192.168.{n}.0/24"} for n in range(90)]},
                ],
            }
            for app in range(APPS)
        ],
        "services": [
            {
                "name": f"s{n}",
                "address": f"172.20.{n >> 8}.{n & 255}",
                "port": 80,
                "backends": [{"address": pod_address((n * 3 + i) % PODS), "port": 8080} for i in range(10)],
            }
            for n in range(1000)
        ],
    }


def test_full_node_is_applied_in_few_calls(
    namespaces: Any, bpffs: str, datapath_object: str, monkeypatch: Any
) -> None:
    node, pins = namespaces("full"), f"{bpffs}/full"
    namespaces.ip(node, *(f"link add s{n} type veth peer name s{n + 1}" for n in range(0, PODS, 2)))
    declared = declaration()
    calls: list[int] = []
    real = bpf.bpf

    def counted(command: int, attr: Any) -> int:
        calls.append(command)
        return real(command, attr)

    def run() -> Result:
        calls.clear()
        return apply.configure(apply.Desired(pins, "site", declared))

    with namespaces.inside(node):
        attach.present(attach.Desired(pins), datapath_object, {})
        try:
            monkeypatch.setattr(bpf, "bpf", counted)
            differences = run().values["differences"]
            assert differences["pods"] == PODS and differences["services"] == 1000
            assert differences["policy"] >= 10_000
            # about 16,000 entries are written in batches
            assert len(calls) < 300, len(calls)

            again = run()
            assert not again.changed and not WRITING & set(calls)

            declared["services"][5]["backends"].pop()
            assert run().values["differences"] == {"services": 1}
            with bpf.closing(bpf.obj_get(f"{pins}/maps/config")) as fd:
                generation = ctypes.c_uint32.from_buffer_copy(bpf.map_lookup(fd, bytes(4), 8)).value
            assert generation == 2  # one per change
        finally:
            monkeypatch.undo()
            attach.absent(pins)
