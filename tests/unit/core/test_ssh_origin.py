# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's address, with and without SSH_CLIENT in the environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PRINT_ADDRESS = """
from ansible_collections.podnet.datapath.plugins.module_utils._core import ssh_origin
print(ssh_origin.address())
"""


@pytest.mark.parametrize(
    ("client", "found"),
    [
        ("192.0.2.7 40000 22", "192.0.2.7"),
        ("2001:db8::7 40000 22", "2001:db8::7"),
        ("UNKNOWN 65535 65535", ""),
    ],
)
@pytest.mark.parametrize("words", ['"$0" -c "$1"', 'env -u SSH_CLIENT "$0" -c "$1"; true'])
def test_the_client_address_of_the_connection(client: str, found: str, words: str) -> None:
    done = subprocess.run(
        ["sh", "-c", words, sys.executable, PRINT_ADDRESS],
        env={**os.environ, "SSH_CLIENT": client},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == found
