# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""IPAM plugins as processes. tests/netns/test_agent_requests.py has those that fail."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._agent import ipam
from ansible_collections.podnet.datapath.plugins.module_utils._agent.protocol import CniError, Request


def plugin(folder: Path, script: str) -> Request:
    """Return a request whose IPAM plugin is a shell script."""
    program = folder / "ipam"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    config = {"name": "net", "ipam": {"type": "ipam"}}
    return Request("ADD", "1.0.0", "net", config, {"CNI_PATH": str(folder), "CNI_IFNAME": "eth0"})


def test_a_plugin_gets_its_configuration_and_variables(tmp_path: Path) -> None:
    script = f'cat >{tmp_path}/given; [ "$CNI_IFNAME" = eth0 ] && echo \'{{"ips": []}}\''
    request = plugin(tmp_path, script)
    long = {**request.config, "more": "x" * 1_000_000}
    assert ipam.run(request, "ADD", long) == {"ips": []}
    assert len((tmp_path / "given").read_text()) > 1_000_000


def test_a_plugin_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipam, "TIMEOUT", 1)
    request = plugin(tmp_path, f"echo $$ >{tmp_path}/process; exec sleep 1000")
    began = time.monotonic()
    with pytest.raises(CniError, match="it did not end within 1 s"):
        ipam.run(request, "ADD", request.config)
    assert time.monotonic() - began < 10
    process = int((tmp_path / "process").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
