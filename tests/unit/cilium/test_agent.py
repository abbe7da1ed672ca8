# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit tests of _cilium.agent: what the agent's answers mean."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import agent


def health(ipv4: Any, ipv6: Any) -> dict[str, Any]:
    return {"cilium": {"state": "Ok", "msg": "1.20.2"}, "ipv4-big-tcp": ipv4, "ipv6-big-tcp": ipv6}


@pytest.mark.parametrize(
    ("ipv4", "ipv6", "big_tcp"),
    [
        ({"enabled": True, "maxGSO": 196608}, {"enabled": True, "maxGSO": 196608}, "enabled"),
        # 1.15 to 1.20 report the flag, and the sizes that devices and kernel allow.
        ({"enabled": True, "maxGSO": 65536}, {"enabled": True, "maxGSO": 196608}, "ipv6"),
        ({"enabled": True, "maxGSO": 65536}, {"enabled": True}, "disabled"),
        ({"maxGSO": 65536}, None, "disabled"),
    ],
)
def test_big_tcp_is_enabled_if_packets_exceed_64_kib(ipv4: Any, ipv6: Any, big_tcp: str) -> None:
    found = agent.parse(health(ipv4, ipv6), {"status": {}}, [])
    assert found["settings"]["big_tcp"] == big_tcp
