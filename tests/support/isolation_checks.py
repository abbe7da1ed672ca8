# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of attacks by Pods and hosts on Pods with any device; adds them to ``CHECKS``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.support.parsing_checks import CHECKS, ONLY_WEB, Wire, packet, udp
from tests.support.policy_checks import check_versions
from tests.support.policy_lab import ALLOWED_WITHIN, Lab, address_of

__all__ = ["CHECKS"]

# IPv6: the stack forwards the first one
RESERVED: dict[int, list[str]] = {4: [], 6: ["0:0:1::1", "fe80::99", "::"]}


@contextlib.contextmanager
def host_behind_a_tunnel(lab: Lab) -> Iterator[Wire]:
    """Yield the device of a host that reaches node1 by a device without programs, as tunnels are."""
    node, host = lab.names["node1"], lab.ns("tunnel")
    lab.names["tunnel"] = host
    lab.ns.ip(node, f"link add tunnel0 type veth peer name eth0 netns {host}", "link set tunnel0 up")
    lab.ns.sysctl(node, ipv4__conf__tunnel0__rp_filter=0)
    lab.ns.ip(host, "link set eth0 up")
    wire = Wire(lab, "tunnel")
    wire.macs = Wire.mac(lab, "node1", "tunnel0") + Wire.mac(lab, "tunnel", "eth0")
    try:
        with wire.socket:
            yield wire
    finally:
        lab.ns.ip(node, "link del tunnel0")
        del lab.names["tunnel"]


@check_versions
def a_host_behind_a_tunnel_gets_no_identity_of_a_local_pod(lab: Lab, version: int) -> None:
    """Its packets reach Pods through the stack."""
    db, at_db = address_of("db", version), Wire(lab, "db")
    with host_behind_a_tunnel(lab) as host, at_db.socket:
        lab.declare()
        host.send(packet(address_of("web", version), db, 17, udp(7001, 53, b"without policy")))
        assert at_db.receives(b"without policy", ALLOWED_WITHIN)
        lab.declare([ONLY_WEB])
        for number, source in enumerate((address_of("web", version), *RESERVED[version])):
            host.send(packet(source, db, 17, udp(7001, 53, f"denied {number}".encode())))
        assert not at_db.receives(b"denied")
