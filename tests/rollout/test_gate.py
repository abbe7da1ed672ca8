# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A roll-out stops after the batch in which a node was lost, whatever Ansible's keywords would do.

Every test is a run of ansible-playbook. A node that is cut off is one whose SSH port nobody listens on.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.checkout import CHECKOUT

HERE = Path(__file__).resolve().parent
HOSTS = [f"node{n}" for n in range(1, 8)]


@dataclass
class Run:
    """What a run came to: status, output, the nodes that were worked on and those that are left."""

    status: int
    said: str
    worked: list[str]
    todo: list[str]


def play(words: list[str], answers: str) -> tuple[int, str]:
    """Return status and output of a command; at a terminal, where ``answers`` are typed when it asks."""
    if answers:
        words = ["script", "-qefc", shlex.join(words), "/dev/null"]
    with subprocess.Popen(
        words,
        env={**os.environ, "ANSIBLE_SSH_RETRIES": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as running:
        assert running.stdin and running.stdout
        if not answers:
            running.stdin.close()
        said = b""
        while chunk := os.read(running.stdout.fileno(), 1 << 16):
            said += chunk
            if answers and b"Type yes" in said:
                time.sleep(1)  # What was typed before it asked is thrown away.
                running.stdin.write(answers.encode() + b"\r")
                running.stdin.flush()
                answers = ""
    return running.returncode, said.decode()


@pytest.fixture
def rollout(tmp_path: Path) -> Any:
    """Run the roll-out over seven hosts with extra variables."""
    inventory = {"all": {"hosts": {name: {"ansible_host": "127.0.0.1", "ansible_port": 1} for name in HOSTS}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory, sort_keys=False))

    def run(
        *arguments: str,
        keywords: dict[str, Any] | None = None,
        gated: bool = True,
        answers: str = "",
        **variables: Any,
    ) -> Run:
        plays = yaml.safe_load((HERE / "rollout.yml").read_text())
        plays[1].update(keywords or {})
        if not gated:
            plays[1]["tasks"] = plays[1]["tasks"][1:-1]
        (tmp_path / "rollout.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
        worked = tmp_path / "worked"
        worked.write_text("")
        extra = {
            "worked": str(worked),
            "fleet_remaining_hosts_file": str(tmp_path / "kept/todo"),
            "absent": [],
            "cut": [],
            "failing": "nobody",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            **variables,
        }
        status, said = play(
            [
                *("ansible-playbook", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "rollout.yml")),
                *("-e", json.dumps(extra), *arguments),
            ],
            answers,
        )
        todo = tmp_path / "kept/todo"
        left = todo.read_text().split() if todo.exists() else []
        return Run(status, " ".join(said.split()), sorted(worked.read_text().split()), left)

    return run


# The holes of plain Ansible: with these keywords it goes on to every host where a node became unreachable.
@pytest.mark.parametrize(
    ("batches", "keywords", "cut", "worked"),
    [
        pytest.param([1], {"any_errors_fatal": True}, "node1", 0, id="the canary, any_errors_fatal"),
        pytest.param([2], {"max_fail_percentage": 0}, "node2", 1, id="one of two, max_fail_percentage 0"),
        pytest.param([1], {}, "node1", 0, id="the canary, no keyword"),
        pytest.param([3], {}, "node5", 5, id="one of three, in the second batch"),
        pytest.param([2], {"any_errors_fatal": True}, "node1", 1, id="the first of two, any_errors_fatal"),
    ],
)
def test_it_stops_where_a_node_became_unreachable(
    rollout: Any, batches: list[int], keywords: dict[str, Any], cut: str, worked: int
) -> None:
    run = rollout(fleet_batches=batches, keywords=keywords, cut=[cut])
    assert run.status != 0
    assert len(run.worked) == worked, run.said
    assert set(HOSTS) - set(run.worked) <= set(run.todo), "what is not done is left"
    assert "rescued=1" not in run.said, "no rescue ever runs on a node that became unreachable"


@pytest.mark.parametrize(
    ("batches", "keywords", "cut", "worked"),
    [
        pytest.param([1], {"any_errors_fatal": True}, "node1", HOSTS[1:], id="any_errors_fatal"),
        pytest.param(
            [2], {"max_fail_percentage": 0}, "node2", ["node1", *HOSTS[2:]], id="max_fail_percentage 0"
        ),
        pytest.param([1], {}, "node1", [], id="no keyword"),
    ],
)
def test_without_the_gate_it_would_go_on(
    rollout: Any, batches: list[int], keywords: dict[str, Any], cut: str, worked: list[str]
) -> None:
    """What the gate is for. Where this fails, Ansible has changed, and so may the gate."""
    assert rollout(fleet_batches=batches, keywords=keywords, cut=[cut], gated=False).worked == worked


def test_it_stops_where_a_node_failed_and_goes_on_where_it_stopped(rollout: Any, tmp_path: Path) -> None:
    run = rollout(fleet_batches=[1, 2], failing="node3")
    assert run.status != 0 and run.worked == ["node1", "node2", "node3"]
    assert "Stopped, as 1 of 7 nodes failed or became unreachable: node3." in run.said
    assert run.todo == ["node3", "node4", "node5", "node6", "node7"]
    again = rollout("--limit", f"@{tmp_path}/kept/todo", fleet_batches=[1, 2])
    assert again.status == 0, again.said
    assert again.worked == ["node3", "node4", "node5", "node6", "node7"] and again.todo == []


def test_a_loss_that_is_allowed_for_leaves_room_below_the_cap(rollout: Any) -> None:
    run = rollout(fleet_batches=["100%"], fleet_max_unavailable=3, fleet_max_failures=1, failing="node2")
    assert "Batches of 2, 2, 2, 1" in run.said, "with one that is lost no more than three are disturbed"
    assert run.worked == HOSTS and run.todo == ["node2"]


def test_nothing_is_changed_where_a_node_is_absent_from_the_beginning(rollout: Any) -> None:
    run = rollout(absent=["node7"])
    assert run.status != 0 and run.worked == []
    assert "Nothing has been changed, as 1 of 7 nodes" in run.said
    left_out = rollout(absent=["node7"], fleet_skip_unready=True)
    assert left_out.worked == HOSTS[:-1] and left_out.todo == ["node7"], left_out.said


def test_without_a_terminal_nobody_approves(rollout: Any) -> None:
    run = rollout(fleet_approve="canary")
    assert run.status != 0 and run.worked == ["node1"]
    assert "not approved; 6 nodes were not touched" in run.said and run.todo == HOSTS[1:]


@pytest.mark.parametrize(("answer", "worked"), [("yes", HOSTS), ("no", HOSTS[:1])])
def test_somebody_at_the_terminal_is_asked(rollout: Any, answer: str, worked: list[str]) -> None:
    run = rollout(fleet_batches=[1, "100%"], fleet_approve="canary", answers=answer)
    assert "1 nodes are done (node1), 6 are next. Type yes to go on" in run.said, run.said
    assert run.worked == worked and (run.status == 0) == (answer == "yes"), run.said


def test_a_batch_is_watched_before_the_next(rollout: Any) -> None:
    run = rollout(fleet_batches=[3, "100%"], fleet_soak=5)
    assert run.status == 0 and run.worked == HOSTS
    assert run.said.count("Pausing for 5 seconds") == 1, "there is nothing to wait for after the last one"


def test_a_canary_alone_ends_well_and_leaves_the_rest(rollout: Any) -> None:
    run = rollout(fleet_batches=[2, "100%"], fleet_stop_after=1, fleet_approve="canary")
    assert run.status == 0, run.said
    assert run.worked == HOSTS[:2] and run.todo == HOSTS[2:]


def test_numbers_that_do_not_fit_are_refused(rollout: Any) -> None:
    run = rollout(fleet_batches=["0%"])
    assert run.status != 0 and run.worked == [] and "'0%' is no size of a batch" in run.said
    run = rollout(fleet_max_unavailable=2, fleet_max_failures=2)
    assert run.status != 0 and run.worked == [] and "fleet_max_unavailable is 2" in run.said


def test_the_gate_is_the_first_and_the_last_thing_of_each_batch() -> None:
    plays = yaml.safe_load((CHECKOUT / "playbooks/site.yml").read_text())
    batched = [play for play in plays if "serial" in play]
    assert len(batched) == 1
    for task, entry in ((batched[0]["pre_tasks"][0], "lost"), (batched[0]["post_tasks"][-1], "gate")):
        assert task["ansible.builtin.import_role"] == {"name": "podnet.datapath.fleet", "tasks_from": entry}
        assert task["tags"] == ["always"]
    assert "any_errors_fatal" not in batched[0] and "max_fail_percentage" not in batched[0]
