# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's socket."""

from __future__ import annotations

import os
import resource
import socket
import threading
from pathlib import Path

from ansible_collections.podnet.datapath.plugins.module_utils._agent import server


def test_the_server_continues_when_it_has_no_file_descriptor(tmp_path: Path) -> None:
    """accept() fails with EMFILE until others are closed."""
    seen = threading.Event()
    path = str(tmp_path / "agent.sock")
    serving = server.Server(path, lambda _request: None, lambda *_observed: seen.set())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX) as client:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            thread = threading.Thread(target=serving.serve)
            thread.start()
            client.connect(path)
            client.shutdown(socket.SHUT_WR)
            thread.join(3 * server.RETRY)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        client.settimeout(20)
        assert client.recv(1 << 16).startswith(b"1\n")
    assert seen.wait(20)
    serving.close()
    thread.join(20)
    assert not thread.is_alive() and not os.path.exists(path)
