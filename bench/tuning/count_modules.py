# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A callback that counts modules started on hosts, one per loop item, and changes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: count_modules
type: aggregate
short_description: Count the modules started
description: [Writes the counts to the file that COUNT_MODULES names, as JSON.]
requirements: []
"""

# Actions that start no module on a host.
CONTROLLER_ACTIONS = {"assert", "debug", "fail", "include_role", "set_fact", "validate_argument_spec"}


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Count results of tasks that were not skipped."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "count_modules"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.started = self.changed = 0

    def v2_runner_on_ok(self, result: Any) -> None:
        if result.task.action.split(".")[-1] not in CONTROLLER_ACTIONS:
            self.started += len(result.result.get("results", [None])) if result.task.loop else 1
            self.changed += bool(result.is_changed())

    def v2_playbook_on_stats(self, stats: Any) -> None:
        counts = {"started": self.started, "changed": self.changed}
        Path(os.environ["COUNT_MODULES"]).write_text(json.dumps(counts))
