# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A callback that counts all tasks and remote tasks of each host, and times each task."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: count_tasks
type: aggregate
short_description: Count the tasks of each host, and time each task
description: [Writes counts and seconds to the file that COUNT_TASKS names, as JSON.]
requirements: []
"""

# Actions that run on the controller.
CONTROLLER_ACTIONS = {
    "assert",
    "debug",
    "fail",
    "include_role",
    "include_tasks",
    "pause",
    "set_fact",
    "set_stats",
}
CONTROLLER_ACTIONS |= {"validate_argument_spec", "validate_options", "meta", "add_host", "group_by"}


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Count results of any status; skipped tasks count as not remote."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "count_tasks"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.all: Counter[str] = Counter()
        self.remote: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self._task, self._begun = "", time.monotonic()

    def _count(self, result: Any, ignore_errors: bool = False) -> None:
        host = result.host.get_name()
        self.all[host] += 1
        if (
            result.task.action.split(".")[-1] not in CONTROLLER_ACTIONS
            and result.task.delegate_to != "localhost"
        ):
            self.remote[host] += 1

    v2_runner_on_ok = v2_runner_on_failed = v2_runner_on_unreachable = _count

    def v2_runner_on_skipped(self, result: Any) -> None:
        self.all[result.host.get_name()] += 1

    def _start_task(self, task: str) -> None:
        now = time.monotonic()
        if self._task:
            self.seconds[self._task] += now - self._begun
        self._task, self._begun = task, now

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._start_task(f"{task.get_name()} ({Path(str(task.get_path())).name})")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._start_task("")
        found = {"all": self.all, "remote": self.remote, "seconds": self.seconds}
        Path(os.environ["COUNT_TASKS"]).write_text(json.dumps(found))
