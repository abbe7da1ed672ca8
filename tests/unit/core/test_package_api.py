# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check of package APIs finds each kind of violation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).resolve().parents[2] / "package_api.py"
MODULE_UTILS = "ansible_collections.podnet.datapath.plugins.module_utils"
INIT = '"""Purpose.\n\nCallers: {}\nMay import: {}\n"""\n\n__all__ = {}\n'
GOOD = {
    "module_utils/_low/__init__.py": INIT.format("_high", "nothing", ["api"]),
    "module_utils/_low/api.py": "from . import internal\n",
    "module_utils/_low/internal.py": "def helper() -> None: ...\n",
    "module_utils/_high/__init__.py": INIT.format("modules", "_low", ["run"]),
    "module_utils/_high/run.py": "from .._low.api import helper\n",
    "modules/tune.py": f"from {MODULE_UTILS}._high import run\n",
}


def check(tree: Path, files: dict[str, str]) -> str:
    """Return what the check prints for a collection of these files."""
    for name, text in files.items():
        path = tree / "plugins" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return subprocess.run([sys.executable, CHECK, tree], capture_output=True, text=True, check=False).stderr


def test_good_packages_pass(tmp_path: Path) -> None:
    assert check(tmp_path, GOOD) == ""


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"module_utils/_high/run.py": "from .._low.internal import helper\n"}, "_low.internal is private"),
        ({"module_utils/_high/run.py": "from .._low.api import _x\n"}, "_x is private to _low.api"),
        ({"modules/tune.py": f"from {MODULE_UTILS}._low import api\n"}, "Callers: the imports say"),
        ({"module_utils/_low/internal.py": "from .._high import run\n"}, "import cycle"),
        ({"module_utils/_low/internal.py": "from . import api\n"}, "import cycle"),
        ({"module_utils/_alone.py": ""}, "belongs to no package"),
        (
            {"module_utils/_low/__init__.py": INIT.format("_high", "nothing", ["api", "unused"])},
            "__all__: the imports say api",
        ),
        (
            {"module_utils/_high/__init__.py": INIT.format("modules", "_low, _kernel", ["run"])},
            "May import: the imports say _low",
        ),
    ],
)  # fmt: skip
def test_a_violation_is_reported(tmp_path: Path, changed: dict[str, str], problem: str) -> None:
    assert problem in check(tmp_path, {**GOOD, **changed})


def test_more_than_six_layers_are_reported(tmp_path: Path) -> None:
    files = {}
    for number in range(7):
        below = f"_layer{number - 1}" if number else "nothing"
        callers = f"_layer{number + 1}" if number < 6 else "modules"
        files[f"module_utils/_layer{number}/__init__.py"] = INIT.format(callers, below, ["api"])
        text = f"from ..{below} import api\n" if number else ""
        files[f"module_utils/_layer{number}/api.py"] = text
    files["modules/tune.py"] = f"from {MODULE_UTILS}._layer6 import api\n"
    assert "7 layers" in check(tmp_path, files)
