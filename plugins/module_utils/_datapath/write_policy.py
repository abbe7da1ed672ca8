# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the writes of policies: the maps ``policy``, ``rulesets``, ``cidrs4`` and ``cidrs6``."""

from __future__ import annotations

from .image import Image
from .layout import CIDR, CIDR4_KEY, CIDR6_KEY, INDEX, POLICY_KEY, buffer_offset
from .writes import SlotAllocator, Writer


def write_policy(writer: Writer, image: Image) -> None:
    """Add the writes of verdicts by identity."""
    snapshot = writer.snapshot
    indexes = {key: INDEX.unpack(value)[0] for key, value in snapshot.hashes["policy"].items()}
    at = buffer_offset("policy")
    used = {index for key, index in indexes.items() if key[at] == writer.active}
    desired = set(image.policy.values())
    known: dict[bytes, int] = {}
    for index in sorted(set(indexes.values())):
        ruleset = snapshot.element("rulesets", index)
        if ruleset in desired:
            known.setdefault(ruleset, index)
    rulesets = SlotAllocator(snapshot.sizes["rulesets"], used, known)
    entries = {
        POLICY_KEY.pack(subject, peer, writer.inactive, direction): INDEX.pack(rulesets.index_of(ruleset))
        for (subject, peer, direction), ruleset in image.policy.items()
    }
    writer.write_new("rulesets", rulesets, "policies")
    writer.fill_buffer("policy", entries, "policies")


def write_cidrs(writer: Writer, image: Image) -> None:
    """Add the writes of identities by prefix."""
    for name, size, record in (("cidrs4", 4, CIDR4_KEY), ("cidrs6", 16, CIDR6_KEY)):
        entries = {
            record.pack(length + 32, writer.inactive, packed): CIDR.pack(*value)
            for (length, packed), value in image.cidrs.items()
            if len(packed) == size
        }
        writer.fill_buffer(name, entries, "policies")
