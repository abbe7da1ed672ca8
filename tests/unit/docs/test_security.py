# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/security.md names tests that exist."""

from __future__ import annotations

import re

import pytest

from tests.support.checkout import CHECKOUT

REFERENCES = sorted(
    set(re.findall(r"`(tests/[\w/.]+)(?:::([\w:]+))?`", (CHECKOUT / "docs/security.md").read_text()))
)


def test_each_statement_has_a_test() -> None:
    text = (CHECKOUT / "docs/security.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and "`tests/" not in line]
    assert [row.split("|")[1].strip() for row in rows] == [
        *("party", "Pod", "Pod with CAP_NET_RAW", "Pod with CAP_NET_ADMIN", "host on the wire"),
        *("local user of the node", "node", "statement", "device", "statement", "statement", "statement"),
    ]


@pytest.mark.parametrize(("path", "name"), REFERENCES)
def test_the_test_exists(path: str, name: str) -> None:
    assert (CHECKOUT / path).exists()
    for one in name.split("::") if name else ():
        assert re.search(rf"^\s*(def|class) {one}\b", (CHECKOUT / path).read_text(), re.MULTILINE)
