# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The progress lines of long tasks, and the history of durations."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.callback.progress import (
    MAX_TASKS,
    History,
    TaskTimer,
    format_duration,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (100, "1 min 40 s"), (7500, "2 h 5 min")],
)
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def make_timer(tmp_path: Path) -> TaskTimer:
    """Return a timer with the history in ``tmp_path``."""
    return TaskTimer(History(str(tmp_path)), interval=10)


def test_a_line_every_interval_and_not_before(tmp_path: Path) -> None:
    timer = make_timer(tmp_path)
    assert timer.line(5) is None
    assert timer.begin("id1", "play | build", "build", 100) is None
    assert timer.line(109.9) is None
    assert timer.line(110) == "... 10 s: build"
    assert timer.line(115) is None
    assert timer.line(120.4) == "... 20 s: build"
    timer.end(121)
    assert timer.line(200) is None


def test_the_usual_duration_is_the_median_of_earlier_runs(tmp_path: Path) -> None:
    for took in (30, 50, 40):
        timer = make_timer(tmp_path)
        timer.begin("id1", "play | build", "build", 0)
        timer.end(took)
        timer.history.save()
    timer = make_timer(tmp_path)
    assert timer.begin("id2", "play | build", "build", 0) == "... usually takes 40 s"
    assert timer.line(10) == "... 10 s of about 40 s: build"


def test_failed_tasks_are_not_recorded(tmp_path: Path) -> None:
    timer = make_timer(tmp_path)
    timer.begin("id1", "play | build", "build", 0)
    timer.fail()
    timer.begin("id2", "play | load", "load", 30)
    timer.end(60)
    assert timer.history.durations == {"play | load": [30]}
    assert timer.slowest(5) == ["        30 s  load", "        30 s  build"]


def test_a_task_started_by_several_hosts_is_timed_once(tmp_path: Path) -> None:
    timer = make_timer(tmp_path)
    timer.begin("id1", "play | build", "build", 0)
    timer.begin("id1", "play | build", "build", 8)
    assert timer.line(10) == "... 10 s: build"


def test_the_slowest_tasks_come_first_and_short_ones_are_omitted(tmp_path: Path) -> None:
    timer = make_timer(tmp_path)
    for number, took in enumerate((0.5, 3, 90, 2)):
        timer.begin(f"id{number}", f"t{number}", f"t{number}", 0)
        timer.end(took)
    assert timer.slowest(2) == ["  1 min 30 s  t2", "         3 s  t1"]


@given(st.binary(max_size=200) | st.sampled_from([b'{"a": 3}', b"[1]", b'{"a": ["x"]}', b"null"]))
def test_an_invalid_history_is_ignored(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("cache")
    (folder / "progress.json").write_bytes(data)
    history = History(str(folder))
    assert history.median("nothing") is None
    history.add("task", 5)
    history.save()
    assert json.loads((folder / "progress.json").read_text())["task"] == [5]


def test_the_history_has_a_maximum_size(tmp_path: Path) -> None:
    history = History(str(tmp_path))
    history.add("first", 5)
    for number in range(MAX_TASKS):
        history.add(f"task {number}", 2)
    for took in range(10, 20):
        history.add("task 7", took)
    history.add("too quick", 0.2)
    history.save()
    kept = History(str(tmp_path)).durations
    assert len(kept) == MAX_TASKS
    assert "first" not in kept and "too quick" not in kept
    assert kept["task 7"] == [15, 16, 17, 18, 19]


PLAYBOOK = """
- name: A play
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Wait
      ansible.builtin.command: sleep 1.5
"""


def play(tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the playbook with ansible-playbook and capture its output."""
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    (tmp_path / "ansible.cfg").write_text("")
    env = {
        **os.environ,
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0",
        "PODNET_CACHE": str(tmp_path / "cache"),
        "PODNET_PROGRESS_INTERVAL": "0.5",
        **settings,
    }
    done = subprocess.run(
        ["ansible-playbook", "play.yml"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_stdout_is_unchanged_and_progress_goes_to_stderr(tmp_path: Path) -> None:
    without = play(tmp_path)
    first = play(tmp_path, ANSIBLE_CALLBACKS_ENABLED="podnet.datapath.progress")
    second = play(tmp_path, ANSIBLE_CALLBACKS_ENABLED="podnet.datapath.progress")
    assert first.stdout == second.stdout == without.stdout
    assert without.stderr == ""
    assert re.search(r"^\.\.\. 1 s: Wait$", first.stderr, re.MULTILINE)
    assert re.search(r"^Slowest tasks:\n +\d+ s  Wait$", first.stderr, re.MULTILINE)
    assert re.search(r"^\.\.\. usually takes \d+ s$", second.stderr, re.MULTILINE)
    assert re.search(r"^\.\.\. 1 s of about \d+ s: Wait$", second.stderr, re.MULTILINE)
