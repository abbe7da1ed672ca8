# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find features that the kernel keeps off because they need others.

Source: netdev_fix_features() of net/core/dev.c. Drivers have further rules, which only a write shows.
"""

from __future__ import annotations

from collections.abc import Mapping

_CHECKSUM4 = ("tx-checksum-ip-generic", "tx-checksum-ipv4")
_CHECKSUM6 = ("tx-checksum-ip-generic", "tx-checksum-ipv6")
# A feature, those of which one has to be on, and those that exclude it.
_RULES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("tx-tcp-segmentation", ("tx-scatter-gather",), ()),
    ("tx-tcp6-segmentation", ("tx-scatter-gather",), ()),
    ("tx-tcp-segmentation", _CHECKSUM4, ()),
    ("tx-tcp6-segmentation", _CHECKSUM6, ()),
    ("tx-tcp-mangleid-segmentation", ("tx-tcp-segmentation",), ()),
    ("tx-tcp-ecn-segmentation", ("tx-tcp-segmentation", "tx-tcp6-segmentation"), ()),
    ("tx-generic-segmentation", ("tx-scatter-gather",), ()),
    ("rx-gro-hw", ("rx-checksum",), ("rx-fcs",)),
    ("rx-lro", (), ("rx-fcs",)),
    ("rx-lro", (), ("rx-gro-hw",)),
    ("tx-udp-segmentation", _CHECKSUM4, ()),  # since 6.11
    ("tx-udp-segmentation", _CHECKSUM6, ()),
    ("tls-hw-tx-offload", _CHECKSUM4, ()),
    ("tls-hw-tx-offload", _CHECKSUM6, ()),
    ("tls-hw-rx-offload", ("rx-checksum",), ()),
)


def kept_off(features: Mapping[str, bool]) -> dict[str, str]:
    """Return the features among those that are to be on which the kernel keeps off, each with the reason.

    ``features`` has the desired state of all features of a NIC by their kernel names.
    """
    state = dict(features)
    found: dict[str, str] = {}
    while True:
        before = len(found)
        for name, needed, excluding in _RULES:
            known = [one for one in needed if one in state]
            if not state.get(name):
                continue
            if known and not any(state[one] for one in known):
                found[name] = f"needs {' or '.join(known)}, which is off"
            elif any(state.get(one) for one in excluding):
                found[name] = f"is excluded by {' and '.join(excluding)}, which is on"
        state.update(dict.fromkeys(found, False))
        if len(found) == before:
            return found
