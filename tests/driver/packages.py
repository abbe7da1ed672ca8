# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of Debian packages that tests use without installing them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from lablib import common, debian


def unpacked(title: str, suite: str, packages: Sequence[str]) -> Path:
    """Return a cached root with unpacked packages of a suite."""
    recipe = json.dumps([suite, packages])
    folder = common.cache_dir() / f"firmware/{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    with common.lock("firmware"):
        if not folder.exists():
            with common.step(title, 20), common.built_dir(folder) as work:
                debian.make_root(work, suite, packages, variant="extract")
    return folder
