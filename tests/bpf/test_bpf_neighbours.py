# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Next hops that the node resolves for Pods."""

from __future__ import annotations

import time
from typing import Any

from scapy.layers.inet import UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether

from tests.bpf.state import FAMILIES, MAC, POD_MASQUERADE, SENDER, State, frame, text


@FAMILIES
def test_a_pod_lets_the_node_resolve_a_limited_number_of_next_hops(state: State, family: int) -> None:
    """Also by the stack, which forwards packets with IP options, and for masqueraded Pods."""
    state.device()
    unresolved = frame("1.11", "3.11", UDP(), family)
    if family == 4:
        special = frame("1.11", "3.11", UDP(), 4, options=[IPOption_NOP()] * 4)
    else:
        header = IPv6(src=text("1.11", 6), dst=text("3.11", 6)) / IPv6ExtHdrHopByHop()
        special = bytes(Ether(dst=MAC, src=SENDER) / header / UDP())

    def occupy(seconds: int) -> None:
        state.neighbours(int(time.clock_gettime(time.CLOCK_BOOTTIME)) - seconds)

    def counted(packet: bytes) -> Any:
        return state.datapath.run("pod_egress", packet).counted

    occupy(0)
    for packet in (unresolved, special):
        assert counted(packet) == {"DROP_NEIGHBOURS": 1}
    assert counted(frame("1.11", "2.11", UDP(), family)) == {"REMOTE": 1}
    state.masquerade()
    state.pods(flags=POD_MASQUERADE)
    assert counted(frame("1.11", "3.11", UDP(sport=7), family)) == {"DROP_NEIGHBOURS": 1}
    state.pods()
    occupy(10)
    for dummy in range(2):  # the second one has the entry already
        assert counted(unresolved) == {"STACK_NO_NEIGH": 1}
        assert counted(special) == {"STACK_IP_OPTIONS": 1}


@FAMILIES
def test_a_next_hop_has_another_entry_if_its_first_one_is_used(state: State, family: int) -> None:
    state.device()
    for dummy in range(2):
        found = state.datapath.run("pod_egress", frame("1.11", "3.11", UDP(), family)).counted
        assert found == {"STACK_NO_NEIGH": 1}
        state.replace_neighbours(int(time.clock_gettime(time.CLOCK_BOOTTIME)))
