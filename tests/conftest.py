# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets tests import the collection by its full name from a plain clone.

Ansible's own import hooks find ``ansible_collections.*`` only below a folder of that name;
a clone may lie anywhere, so a link to it is made in a temporary tree.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


def _collection_tree() -> Path:
    """Return a folder that has this checkout as ``ansible_collections/podnet/datapath``."""
    for entry in os.environ.get("ANSIBLE_COLLECTIONS_PATH", "").split(os.pathsep):
        link = Path(entry or ".") / "ansible_collections/podnet/datapath"
        if entry and link.exists() and link.resolve() == CHECKOUT:
            return Path(entry)
    tree = Path(tempfile.mkdtemp(prefix="podnet-tree-"))
    link = tree / "ansible_collections/podnet/datapath"
    link.parent.mkdir(parents=True)
    link.symlink_to(CHECKOUT)
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(tree)
    return tree


sys.path.insert(0, str(_collection_tree()))


@pytest.fixture(scope="session", autouse=True)
def _journal_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what modules journal in tests away from this machine's own journal."""
    from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal

    journal.FOLDER = str(tmp_path_factory.mktemp("journal"))
