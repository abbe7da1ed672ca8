# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes that are killed before any of their steps can be completed and reverted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._boot import revert
from ansible_collections.podnet.datapath.plugins.module_utils._node.host import Host
from ansible_collections.podnet.datapath.plugins.module_utils._ops import revert_node
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal
from tests.unit.boot.boot_system import System
from tests.unit.boot.test_grubby import Fedora
from tests.unit.boot.test_systemd_boot import SystemdBoot

KINDS = {"grub": System, "grubby": Fedora, "systemd-boot": SystemdBoot}
STEPS = 40  # more than any change has


def killed_before(step: int, system: System, args: Sequence[str]) -> bool:
    """Kill a change before it replaces or removes a file or runs a command; return whether it was killed."""
    child = os.fork()
    if not child:
        remaining = step

        def counted(function: Callable[..., Any]) -> Callable[..., Any]:
            def count(*args: Any, **options: Any) -> Any:
                nonlocal remaining
                remaining -= 1
                if remaining < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **options)

            return count

        os.replace = counted(os.replace)
        os.unlink = counted(os.unlink)
        system.command = counted(system.command)
        try:
            system(args)
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), "the change failed"
    return status != 0


def files(system: System) -> dict[str, bytes]:
    """Return all files but the journal, those of the running system, and temporary ones."""
    outside = ("journal", "run", "proc")
    return {
        path: data
        for path, data in system.files().items()
        if Path(path).relative_to(system.root).parts[0] not in outside
        and not Path(path).name.startswith(".podnet-")
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("first", "former", "args"),
    [
        (0, [], ["iommu=pt", "quiet"]),
        (1, ["iommu=pt", "quiet"], []),
        (2, ["iommu=pt", "a=1"], ["quiet", "a=2"]),
    ],
)
def test_a_killed_change_is_completed_and_reverted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, first: int, former: list[str], args: list[str]
) -> None:
    """The three changes together are killed before all their steps, those of GRUB each."""
    for step in range(STEPS) if kind == "grub" else range(first, STEPS, 3):
        monkeypatch.setattr(journal, "FOLDER", str(tmp_path / f"{step}/journal"))
        (tmp_path / str(step)).mkdir()
        system = KINDS[kind](tmp_path / str(step))
        if kind == "systemd-boot" or (kind == "grubby" and former):
            (system.root / "etc/kernel").mkdir()
            (system.root / "etc/kernel/cmdline").write_text("root=UUID=1 ro")
        untouched = files(system)
        expected = {}
        for tokens in (args, former):
            system(tokens)
            expected[str(tokens)] = files(system)
        interrupted = killed_before(step, system, args)
        if step % 4 < 2:  # The second run may be killed as well.
            killed_before(step // 2, system, args)
        if step % 2:
            system(args)
            assert files(system) == expected[str(args)], f"step {step}"
            system(former)
            assert files(system) == expected[str(former)], f"step {step}"
        monkeypatch.setattr(revert, "Host", lambda root, where=str(system.root): Host(where))
        made = revert_node.run(["boot_args"], False, False, system.command)
        assert not made.values["drift"] and files(system) == untouched, f"step {step}"
        if not interrupted:
            return
    raise AssertionError(f"more than {STEPS} steps")
