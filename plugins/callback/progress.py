# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: notification
short_description: Show the elapsed and the usual time of long tasks
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Prints a line every few seconds while a task runs, with its name, the elapsed time and the median time of
    earlier runs. Prints the slowest tasks at the end of the run.
  - Prints to stderr, so the output on stdout does not change.
requirements:
  - Enable it with C(callbacks_enabled = podnet.datapath.progress) in ansible.cfg or with
    E(ANSIBLE_CALLBACKS_ENABLED).
options:
  interval:
    description: Seconds between two lines about a task.
    type: float
    default: 10
    env:
      - name: PODNET_PROGRESS_INTERVAL
    ini:
      - section: callback_progress
        key: interval
  slowest:
    description: Number of the slowest tasks to print at the end. V(0) prints none.
    type: int
    default: 5
    env:
      - name: PODNET_PROGRESS_SLOWEST
    ini:
      - section: callback_progress
        key: slowest
  cache:
    description:
      - Folder for the file with the tasks' durations.
      - Defaults to C(podnet-datapath) in E(XDG_CACHE_HOME), or in C(~/.cache).
    type: path
    env:
      - name: PODNET_CACHE
    ini:
      - section: callback_progress
        key: cache
"""

import contextlib
import json
import os
import statistics
import tempfile
import threading
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

MAX_TASKS = 400  # tasks in the history; the least recent ones are dropped
MAX_DURATIONS = 5  # durations of each task
MIN_DURATION = 1.0  # seconds; shorter durations are not recorded


def format_duration(seconds: float) -> str:
    """Return a duration as text: ``4 s``, ``1 min 40 s``, ``2 h 5 min``."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"


class History:
    """Durations of tasks in earlier runs, stored in a JSON file."""

    def __init__(self, folder: str) -> None:
        """Read the file; start empty if it is missing or invalid."""
        self.path = os.path.join(folder, "progress.json")
        self.durations: dict[str, list[float]] = {}
        with (
            contextlib.suppress(OSError, ValueError, AttributeError, TypeError),
            open(self.path, encoding="utf-8") as f,
        ):
            self.durations = {key: [float(value) for value in values] for key, values in json.load(f).items()}

    def median(self, key: str) -> float | None:
        """Return the median duration of a task in seconds, None if there is none."""
        return statistics.median(self.durations[key]) if self.durations.get(key) else None

    def add(self, key: str, seconds: float) -> None:
        """Record a duration of a task."""
        if seconds >= MIN_DURATION:
            # The most recent task and duration are last.
            self.durations[key] = [*self.durations.pop(key, []), round(seconds, 1)][-MAX_DURATIONS:]

    def save(self) -> None:
        """Replace the file atomically; raise OSError on failure."""
        folder = os.path.dirname(self.path)
        os.makedirs(folder, exist_ok=True)
        kept = dict(list(self.durations.items())[-MAX_TASKS:])
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as f:
            json.dump(kept, f, indent=0, ensure_ascii=False)
        os.replace(f.name, self.path)


class TaskTimer:
    """Measures the running task and records the durations of finished ones."""

    def __init__(self, history: History, interval: float = 10.0) -> None:
        """Start without a task; ``interval`` is in seconds."""
        self.history = history
        self.interval = interval
        self.current: tuple[str, str, float] | None = None  # key, name, start
        self.done: list[tuple[float, str]] = []
        self.failed = False
        self._identity = ""
        self._due = 0.0
        self._lock = threading.Lock()

    def begin(self, identity: str, key: str, name: str, now: float) -> str | None:
        """Start a task and end the previous one; return a line to print if the task usually takes long."""
        with self._lock:
            if self.current and self._identity == identity:
                return None  # The strategy 'free' starts a task once for each host.
            self._end(now)
            self.current, self._identity, self._due = (key, name, now), identity, now + self.interval
            usual = self.history.median(key) or 0.0
        return f"... usually takes {format_duration(usual)}" if usual >= self.interval else None

    def end(self, now: float) -> None:
        """End the running task."""
        with self._lock:
            self._end(now)

    def _end(self, now: float) -> None:
        if self.current:
            key, name, start = self.current
            self.done.append((now - start, name))
            if not self.failed:
                self.history.add(key, now - start)
        self.current, self.failed = None, False

    def fail(self) -> None:
        """Mark the running task as failed on some host, so that its duration is not recorded."""
        self.failed = True

    def line(self, now: float) -> str | None:
        """Return the line to print now, None if the interval has not passed."""
        with self._lock:
            if not self.current or now < self._due:
                return None
            self._due = now + self.interval
            key, name, start = self.current
            usual = self.history.median(key)
        return (
            f"... {format_duration(now - start)}"
            + (f" of about {format_duration(usual)}" if usual else "")
            + f": {name}"
        )

    def slowest(self, count: int) -> list[str]:
        """Return a line for each of the slowest tasks that took at least a second."""
        slowest = sorted(self.done, reverse=True)[:count]
        return [
            f"{format_duration(seconds):>12}  {name}" for seconds, name in slowest if seconds >= MIN_DURATION
        ]


class CallbackModule(CallbackBase):
    """Print the progress of long tasks."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "podnet.datapath.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Initialise; ``set_options`` creates the timer."""
        super().__init__(*args, **kwargs)
        self._play = ""
        self._slowest = 5
        self._timer: TaskTimer | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def set_options(self, task_keys: Any = None, var_options: Any = None, direct: Any = None) -> None:
        """Read the options and create the timer."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self._slowest = self.get_option("slowest")
        default = os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "podnet-datapath"
        )
        interval = max(0.1, self.get_option("interval"))
        self._timer = TaskTimer(History(self.get_option("cache") or default), interval)

    def _print(self, text: str) -> None:
        # Display takes its own lock, which Ansible also holds while it forks a worker.
        self._display.display(text, color="bright gray", stderr=True)

    def _print_progress(self, timer: TaskTimer) -> None:
        """Print lines until the run ends; runs in a separate thread."""
        while not self._stopped.wait(min(1.0, timer.interval / 5)):
            line = timer.line(time.monotonic())
            if line:
                self._print(line)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Start the thread."""
        if self._timer and not self._thread:
            self._stopped.clear()
            self._thread = threading.Thread(
                target=self._print_progress, args=(self._timer,), name="progress", daemon=True
            )
            self._thread.start()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """End the last task, as the time between plays belongs to no task, and store the play's name."""
        if self._timer:
            self._timer.end(time.monotonic())
        self._play = play.get_name().strip()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Start the timer of the task."""
        name = task.get_name().strip()
        if self._timer:
            line = self._timer.begin(task._uuid, f"{self._play} | {name}", name, time.monotonic())
            if line:
                self._print(line)

    def v2_playbook_on_cleanup_task_start(self, task: Any) -> None:
        """Start the timer of the task."""
        self.v2_playbook_on_task_start(task, False)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Start the timer of the task."""
        self.v2_playbook_on_task_start(task, False)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Do not record the duration of this task."""
        if self._timer:
            self._timer.fail()

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Do not record the duration of this task."""
        self.v2_runner_on_failed(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Stop the thread, print the slowest tasks and write the history."""
        if not self._timer:
            return
        self._timer.end(time.monotonic())
        self._stopped.set()
        if self._thread:
            self._thread.join(timeout=5)
            self._thread = None
        lines = self._timer.slowest(self._slowest)
        if lines:
            self._print("Slowest tasks:")
            for line in lines:
                self._print(line)
        try:
            self._timer.history.save()
        except OSError as e:
            self._display.vv(f"progress: cannot write durations to {self._timer.history.path}: {e}")
        self._timer.done.clear()
