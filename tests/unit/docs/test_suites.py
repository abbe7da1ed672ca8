# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/kubernetes.md lists all specs of third-party suites that are excluded, each with the reason."""

from __future__ import annotations

import re

from tests.kubernetes import suites
from tests.support.checkout import CHECKOUT

HEADING = "| excluded specs | nodes | reason |\n|---|---|---|\n"


def test_the_excluded_specs_are_those_of_the_documentation() -> None:
    text = (CHECKOUT / "docs/kubernetes.md").read_text()
    table = text.partition(HEADING)[2].partition("\n\n")[0]
    rows = {tuple(re.split(r" *\| *", line.strip("| "))) for line in table.splitlines()}
    excluded = {
        (f"`{name.strip()}`", nodes, reason)
        for nodes, some in suites.EXCLUDED.items()
        for name, reason in some.items()
    }
    assert rows == excluded


def test_the_expression_selects_what_contains_a_name() -> None:
    names = ["[Disruptive]", "KubeProxy should "]
    expression = re.compile(suites.skip_expression(names))
    assert expression.search("[sig-network] Services should work after restarting apiserver [Disruptive]")
    assert expression.search("[sig-network] KubeProxy should set TCP CLOSE_WAIT timeout")
    assert not expression.search("[sig-network] Services should serve a basic endpoint from pods")
    # Go's regular expressions know no other escapes.
    assert set(re.findall(r"\\(.)", suites.skip_expression(["[a] (b) c-d"]))) <= set("[]().*+?|")
