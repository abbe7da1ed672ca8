# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Policies and services on veth, tested by sockets; tests/driver runs the same on meta and netkit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.policy_lab import Lab, has_sctp
from tests.support.stack_nat_checks import CHECKS, NEEDS_FQ


@pytest.fixture(scope="module")
def lab(module_namespaces: Any, bpffs: str, datapath_object: str) -> Iterator[Lab]:
    made = Lab(module_namespaces, bpffs, datapath_object)
    yield made
    made.close()


@pytest.mark.parametrize("name", CHECKS)
def test_policy(lab: Lab, name: str) -> None:
    """Pass a case of policy_cases.yml or a check of policy_checks.py."""
    if "SCTP" in name and not has_sctp():
        pytest.skip("the running kernel has no SCTP; tests/driver covers it")
    if name.endswith(NEEDS_FQ):
        pytest.skip("tests/driver covers fq, which kernels may lack")
    CHECKS[name](lab)
