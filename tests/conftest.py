# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings and fixtures of all tests.

Tests import the collection by its full name, so they need the environment of the Makefile: a folder in
PYTHONPATH where ansible_collections/podnet/datapath is a link to this checkout.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
HELP = 'run `make test-one T=tests/...`, or `eval "$(make -s env)"` once in this shell and then pytest'

pytest.register_assert_rewrite("tests.support")


def _collection() -> Path | None:
    """Return the folder that the collection is imported from."""
    try:
        found = importlib.util.find_spec("ansible_collections.podnet.datapath")
    except ModuleNotFoundError:
        return None
    folders = found.submodule_search_locations if found else None
    return Path(next(iter(folders))).resolve() if folders else None


def pytest_configure() -> None:
    if (found := _collection()) != CHECKOUT:
        name = "ansible_collections.podnet.datapath"
        raise pytest.UsageError(f"{name} is imported from {found}, not from {CHECKOUT}: {HELP}")
    # Builds of the tests cannot use the jobs of the make that runs them, and would print a warning.
    os.environ.pop("MAKEFLAGS", None)


@pytest.fixture(scope="session", autouse=True)
def _journal_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Write the modules' journal to a temporary directory instead of this machine's journal."""
    from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal

    journal.FOLDER = str(tmp_path_factory.mktemp("journal"))
