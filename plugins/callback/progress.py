# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: notification
short_description: Say that a long task still runs, and how long it usually takes
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Prints a line every few seconds while a task runs, with its name, the time it has taken so far and the
    time that it took in earlier runs. At the end it prints the slowest tasks.
  - All lines go to stderr, so that what other programs read from stdout stays as it is.
requirements:
  - It is enabled by C(callbacks_enabled = podnet.datapath.progress) in ansible.cfg or by
    E(ANSIBLE_CALLBACKS_ENABLED).
options:
  interval:
    description: Seconds between two lines on a task.
    type: float
    default: 10
    env:
      - name: PODNET_PROGRESS_INTERVAL
    ini:
      - section: callback_progress
        key: interval
  slowest:
    description: How many of the slowest tasks to print at the end. V(0) prints none.
    type: int
    default: 5
    env:
      - name: PODNET_PROGRESS_SLOWEST
    ini:
      - section: callback_progress
        key: slowest
  cache:
    description:
      - Folder to remember in how long tasks took.
      - C(podnet-datapath) in E(XDG_CACHE_HOME) or in C(~/.cache) if not set.
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

KEPT_TASKS = 400  # tasks that are remembered; the oldest are forgotten
KEPT_TIMES = 5  # times of each
SHORTEST = 1.0  # seconds; what is shorter is not remembered


def duration(seconds: float) -> str:
    """Return a time for people: ``4 s``, ``1 min 40 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Memory:
    """How long each task took in earlier runs, in a small JSON file."""

    def __init__(self, folder: str) -> None:
        """Read what is remembered; a file that is missing or damaged remembers nothing."""
        self.path = os.path.join(folder, "progress.json")
        self.times: dict[str, list[float]] = {}
        with (
            contextlib.suppress(OSError, ValueError, AttributeError, TypeError),
            open(self.path, encoding="utf-8") as f,
        ):
            self.times = {key: [float(value) for value in values] for key, values in json.load(f).items()}

    def usual(self, key: str) -> float | None:
        """Return the median of the times remembered, None where there are none."""
        return statistics.median(self.times[key]) if self.times.get(key) else None

    def add(self, key: str, seconds: float) -> None:
        """Remember a time."""
        if seconds >= SHORTEST:
            # the newest stands last, and the oldest goes first
            self.times[key] = [*self.times.pop(key, []), round(seconds, 1)][-KEPT_TIMES:]

    def save(self) -> None:
        """Write the file anew in one step; raise OSError where that fails."""
        folder = os.path.dirname(self.path)
        os.makedirs(folder, exist_ok=True)
        kept = dict(list(self.times.items())[-KEPT_TASKS:])
        with tempfile.NamedTemporaryFile("w", dir=folder, delete=False, encoding="utf-8") as f:
            json.dump(kept, f, indent=0, ensure_ascii=False)
        os.replace(f.name, self.path)


class Watch:
    """The tasks of a run: which one runs now, since when, and how long the others took."""

    def __init__(self, memory: Memory, interval: float = 10.0) -> None:
        """Begin with no task; ``interval`` is in seconds."""
        self.memory = memory
        self.interval = interval
        self.current: tuple[str, str, float] | None = None  # key, name, began
        self.done: list[tuple[float, str]] = []
        self.failed = False
        self._identity = ""
        self._due = 0.0
        self._lock = threading.Lock()

    def begin(self, identity: str, key: str, name: str, now: float) -> str | None:
        """Start a task, which ends the one before; return a line where it usually takes long."""
        with self._lock:
            if self.current and self._identity == identity:
                return None  # the strategy 'free' starts a task once for each host
            self._end(now)
            self.current, self._identity, self._due = (key, name, now), identity, now + self.interval
            usual = self.memory.usual(key) or 0.0
        return f"... usually takes {duration(usual)}" if usual >= self.interval else None

    def end(self, now: float) -> None:
        """End the task that runs."""
        with self._lock:
            self._end(now)

    def _end(self, now: float) -> None:
        if self.current:
            key, name, began = self.current
            self.done.append((now - began, name))
            if not self.failed:
                self.memory.add(key, now - began)
        self.current, self.failed = None, False

    def fail(self) -> None:
        """Note that the task failed somewhere, so that its time means nothing."""
        self.failed = True

    def line(self, now: float) -> str | None:
        """Return the line to print now, None where it is not yet time for one."""
        with self._lock:
            if not self.current or now < self._due:
                return None
            self._due = now + self.interval
            key, name, began = self.current
            usual = self.memory.usual(key)
        return (
            f"... {duration(now - began)}" + (f" of about {duration(usual)}" if usual else "") + f": {name}"
        )

    def slowest(self, count: int) -> list[str]:
        """Return lines on the slowest tasks, none where no task took a second."""
        worst = sorted(self.done, reverse=True)[:count]
        return [f"{duration(seconds):>12}  {name}" for seconds, name in worst if seconds >= SHORTEST]


class CallbackModule(CallbackBase):
    """Tells of long tasks."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "podnet.datapath.progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Prepare; options are known only after ``set_options``."""
        super().__init__(*args, **kwargs)
        self._play = ""
        self._slowest = 5
        self._watch: Watch | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def set_options(self, task_keys: Any = None, var_options: Any = None, direct: Any = None) -> None:
        """Take the options."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self._slowest = self.get_option("slowest")
        default = os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "podnet-datapath"
        )
        interval = max(0.1, self.get_option("interval"))
        self._watch = Watch(Memory(self.get_option("cache") or default), interval)

    def _say(self, text: str) -> None:
        # Display holds its lock, which Ansible also holds while it forks a worker
        self._display.display(text, color="bright gray", stderr=True)

    def _tell(self, watch: Watch) -> None:
        """Print lines until the run is over; runs in a thread of its own."""
        while not self._over.wait(min(1.0, watch.interval / 5)):
            line = watch.line(time.monotonic())
            if line:
                self._say(line)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Start the thread."""
        if self._watch and not self._thread:
            self._over.clear()
            self._thread = threading.Thread(
                target=self._tell, args=(self._watch,), name="progress", daemon=True
            )
            self._thread.start()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Note the play; time between plays belongs to no task."""
        if self._watch:
            self._watch.end(time.monotonic())
        self._play = play.get_name().strip()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Note the task."""
        name = task.get_name().strip()
        if self._watch:
            line = self._watch.begin(task._uuid, f"{self._play} | {name}", name, time.monotonic())
            if line:
                self._say(line)

    def v2_playbook_on_cleanup_task_start(self, task: Any) -> None:
        """Note the task."""
        self.v2_playbook_on_task_start(task, False)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Note the task."""
        self.v2_playbook_on_task_start(task, False)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note that this task's time means nothing."""
        if self._watch:
            self._watch.fail()

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note that this task's time means nothing."""
        self.v2_runner_on_failed(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Stop the thread, print the slowest tasks and remember all."""
        if not self._watch:
            return
        self._watch.end(time.monotonic())
        self._over.set()
        if self._thread:
            self._thread.join(timeout=5)
            self._thread = None
        lines = self._watch.slowest(self._slowest)
        if lines:
            self._say("Slowest tasks:")
            for line in lines:
                self._say(line)
        try:
            self._watch.memory.save()
        except OSError as e:
            self._display.vv(f"progress: times are not remembered, {self._watch.memory.path}: {e}")
        self._watch.done.clear()
