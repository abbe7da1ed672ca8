# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs' lookups of policies, for tests without a kernel."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from ansible_collections.podnet.datapath.plugins.module_utils._datapath import identity, layout
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.image import Image


class Programs:
    """Looks up verdicts in an image as the programs do."""

    def __init__(self, image: Image, node: Sequence[str]) -> None:
        """``node`` are the addresses of the node."""
        self.image, self.node = image, node

    def identity_of(self, text: str) -> int:
        address = ipaddress.ip_address(text)
        if address.packed in self.image.endpoints:
            return self.image.endpoints[address.packed].identity
        if text in self.node:
            return identity.HOST
        best = (-1, 0)
        for (length, packed), (number, dummy) in self.image.cidrs.items():
            if len(packed) == len(address.packed) and address in ipaddress.ip_network((packed, length)):
                best = max(best, (length, number))
        return best[1]

    def allows(self, pod: str, peer: str, direction: int, protocol: int, port: int) -> bool:
        me = self.image.endpoints[ipaddress.ip_address(pod).packed]
        if not me.enforce & layout.ENFORCE[direction]:
            return True
        peers = (self.identity_of(peer), identity.ANY)
        found = [self.image.policy.get((me.identity, one, direction)) for one in peers]
        raw = next((one for one in found if one is not None), None)
        if raw is None:
            return not me.enforce & layout.DENY[direction]
        return layout.decode_ruleset(raw).allows(protocol, port)

    def is_local(self, text: str) -> bool:
        """Return whether an address is one of this node's Pods, which policies apply to."""
        endpoint = self.image.endpoints.get(ipaddress.ip_address(text).packed)
        return bool(endpoint and endpoint.ifindex)
