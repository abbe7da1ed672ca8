# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steering options become settings of queues and interrupts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._nic import steering
from ansible_collections.podnet.datapath.plugins.module_utils._nic.cpus import Cpus, parse_list


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.frozensets(st.integers(0, 63), min_size=1),
    st.sampled_from(["local", "all", "none"]),
    st.integers(0, 1 << 17),
)
def test_all_queues_get_chosen_cpus_only(
    rx: int, tx: int, online: frozenset[int], option: str, flows: int
) -> None:
    local = frozenset(sorted(online)[: max(len(online) // 2, 1)])
    values: dict[str, object] = {f"queues.rx-{n}.rps_cpus": "" for n in range(rx)}
    values.update({f"queues.tx-{n}.xps_cpus": "" for n in range(tx)})
    values.update({f"queues.rx-{n}.rps_flow_cnt": 0 for n in range(rx)})
    values.update({f"irqs.{n}": "" for n in range(24, 24 + rx)})
    chosen = {"local": local, "all": online, "none": frozenset[int]()}[option]
    desired = {"rps": option, "xps": option, "rfs": flows, "irqs": "local"}
    found, problems = steering.resolve(values, desired, Cpus(online, local, 1 << 17), False)
    assert problems == [] and set(found) == set(values)
    served: set[int] = set()
    for setting, value in found.items():
        if setting.endswith("rps_flow_cnt"):
            assert isinstance(value, int) and value & (value - 1) == 0
        elif setting.endswith("rps_cpus"):
            assert parse_list(str(value)) == chosen
        elif setting.startswith("irqs."):
            assert len(parse_list(str(value)) & local) == 1
        else:
            served |= parse_list(str(value))
    assert served <= chosen and len(served) == min(tx, len(chosen))
    assert sum(int(v) for s, v in found.items() if s.endswith("flow_cnt")) <= max(flows, rx)


@pytest.mark.parametrize(
    ("desired", "words"),
    [
        ({"rps": "nearby"}, "steering: rps: 'nearby' is not local, all, none or a list such as 0-3,8"),
        ({"xps": "0-9"}, "steering: xps: CPU 4-9 is not online; online: 0-3"),
        ({"irqs": "none"}, "steering: irqs: an interrupt needs a CPU"),
        ({"irqs": "all"}, "steering: irqs: irqbalance runs"),
        ({"rfs": 4096}, "exceed net.core.rps_sock_flow_entries, which is 0"),
    ],
)
def test_invalid_steering_is_reported(desired: dict[str, object], words: str) -> None:
    values = {
        "queues.rx-0.rps_cpus": "",
        "queues.rx-0.rps_flow_cnt": 0,
        "queues.tx-0.xps_cpus": "",
        "irqs.9": "",
    }
    dummy, (problem,) = steering.resolve(values, desired, Cpus(frozenset(range(4)), frozenset({0})), True)
    assert words in problem
