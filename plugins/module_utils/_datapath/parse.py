# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parse the declaration of one owner."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .masquerade import parse_masquerade
from .model import Declaration
from .parse_pods import parse_pods
from .parse_policies import parse_policies
from .parse_services import parse_services
from .values import Problems, parse_networks


def parse(options: Mapping[str, Any], owner: str) -> tuple[Declaration, list[str]]:
    """Return the declaration of ``owner`` and all problems that do not depend on other owners."""
    problems = Problems()
    declaration = Declaration(
        parse_pods(options, owner, problems),
        parse_policies(options, owner, problems),
        parse_services(options, owner, problems),
        parse_masquerade(options, problems),
        frozenset(parse_networks(options.get("stack_services") or (), "stack_services", problems)),
    )
    return declaration, problems
