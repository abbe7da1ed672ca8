# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unit tests of _cilium.containers: why an agent does not start."""

from __future__ import annotations

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._cilium import containers

FATAL = 'time=2026-11-30T01:13:07Z level=fatal msg="invalid routing mode"'


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (f'level=info msg=" - !:controller-uid"\n{FATAL}\nlevel=info msg="Stopped"\n', FATAL),
        ("exec: no such\n file", "exec: no such file"),
    ],
)
def test_reason_is_the_last_fatal_line(log: str, reason: str) -> None:
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    one = {"name": "cilium-agent", "state": state, "lastState": {"terminated": {"message": log}}}
    pod = {"status": {"containerStatuses": [one]}}
    assert containers.waiting_reason(pod) == f"cilium-agent: CrashLoopBackOff: {reason}"
