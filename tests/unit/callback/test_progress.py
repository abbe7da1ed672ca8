# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is said of long tasks, and what is remembered of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.callback.progress import KEPT_TASKS, Memory, Watch, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (100, "1 min 40 s"), (7500, "2 h 5 min")],
)
def test_times_are_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def watch(tmp_path: Path) -> Watch:
    """Return a watch that has no memory yet."""
    return Watch(Memory(str(tmp_path)), interval=10)


def test_a_line_every_interval_and_not_before(tmp_path: Path) -> None:
    one = watch(tmp_path)
    assert one.line(5) is None
    assert one.begin("id1", "play | build", "build", 100) is None
    assert one.line(109.9) is None
    assert one.line(110) == "... 10 s: build"
    assert one.line(115) is None
    assert one.line(120.4) == "... 20 s: build"
    one.end(121)
    assert one.line(200) is None


def test_the_usual_time_is_the_median_of_earlier_runs(tmp_path: Path) -> None:
    for took in (30, 50, 40):
        one = watch(tmp_path)
        one.begin("id1", "play | build", "build", 0)
        one.end(took)
        one.memory.save()
    one = watch(tmp_path)
    assert one.begin("id2", "play | build", "build", 0) == "... usually takes 40 s"
    assert one.line(10) == "... 10 s of about 40 s: build"


def test_a_task_that_failed_is_not_remembered(tmp_path: Path) -> None:
    one = watch(tmp_path)
    one.begin("id1", "play | build", "build", 0)
    one.fail()
    one.begin("id2", "play | load", "load", 30)
    one.end(60)
    assert one.memory.times == {"play | load": [30]}
    assert one.slowest(5) == ["        30 s  load", "        30 s  build"]


def test_a_task_begun_by_several_hosts_is_one_task(tmp_path: Path) -> None:
    one = watch(tmp_path)
    one.begin("id1", "play | build", "build", 0)
    one.begin("id1", "play | build", "build", 8)
    assert one.line(10) == "... 10 s: build"


def test_the_slowest_come_first_and_quick_ones_not_at_all(tmp_path: Path) -> None:
    one = watch(tmp_path)
    for number, took in enumerate((0.5, 3, 90, 2)):
        one.begin(f"id{number}", f"t{number}", f"t{number}", 0)
        one.end(took)
    assert one.slowest(2) == ["  1 min 30 s  t2", "         3 s  t1"]


@given(st.binary(max_size=200) | st.sampled_from([b'{"a": 3}', b"[1]", b'{"a": ["x"]}', b"null"]))
def test_a_damaged_memory_is_no_memory(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("cache")
    (folder / "progress.json").write_bytes(data)
    memory = Memory(str(folder))
    assert memory.usual("nothing") is None
    memory.add("task", 5)
    memory.save()
    assert json.loads((folder / "progress.json").read_text())["task"] == [5]


def test_the_memory_stays_small(tmp_path: Path) -> None:
    memory = Memory(str(tmp_path))
    memory.add("first", 5)
    for number in range(KEPT_TASKS):
        memory.add(f"task {number}", 2)
    for took in range(10, 20):
        memory.add("task 7", took)
    memory.add("too quick", 0.2)
    memory.save()
    kept = Memory(str(tmp_path)).times
    assert len(kept) == KEPT_TASKS
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
    """Run the playbook with Ansible itself, its output piped as into a log file."""
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


def test_ansible_prints_the_same_with_the_lines_beside_it(tmp_path: Path) -> None:
    without = play(tmp_path)
    first = play(tmp_path, ANSIBLE_CALLBACKS_ENABLED="podnet.datapath.progress")
    second = play(tmp_path, ANSIBLE_CALLBACKS_ENABLED="podnet.datapath.progress")
    assert first.stdout == second.stdout == without.stdout
    assert without.stderr == ""
    assert re.search(r"^\.\.\. 1 s: Wait$", first.stderr, re.MULTILINE)
    assert re.search(r"^Slowest tasks:\n +\d+ s  Wait$", first.stderr, re.MULTILINE)
    assert re.search(r"^\.\.\. usually takes \d+ s$", second.stderr, re.MULTILINE)
    assert re.search(r"^\.\.\. 1 s of about \d+ s: Wait$", second.stderr, re.MULTILINE)
