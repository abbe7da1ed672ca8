# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MTUs with which packets carry a whole number of pages."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.podnet.datapath.plugins.filter.page_mtu import page_mtu


@pytest.mark.parametrize(
    ("pages", "family", "size"),
    [(1, "ipv6", 4168), (2, "ipv6", 8264), (1, "ipv4", 4148), (2, "ipv4", 8244), (1, "advmss", 4108),
     ("2", "advmss", 8204)],
)  # fmt: skip
def test_the_documented_sizes(pages: object, family: str, size: int) -> None:
    assert page_mtu(pages, family) == size


@pytest.mark.parametrize("pages", [0, -1, "x", None, True, 1.5, 16])
def test_an_invalid_number_of_pages_is_refused(pages: object) -> None:
    with pytest.raises(AnsibleFilterError, match="page_mtu: "):
        page_mtu(pages)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="not one of ipv6, ipv4, advmss"):
        page_mtu(1, "ipx")
