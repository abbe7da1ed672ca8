# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollout stops after a batch with a failed or unreachable node, even if Ansible itself would continue.

Each test runs ansible-playbook. An unreachable node is one with a closed SSH port.
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
    """Result of a run: status, output, the changed hosts and the remaining hosts."""

    status: int
    output: str
    worked: list[str]
    remaining: list[str]


def play(words: list[str], answers: str) -> tuple[int, str]:
    """Return status and output of a command; with ``answers`` it has a terminal, where they are typed."""
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
        output = b""
        while chunk := os.read(running.stdout.fileno(), 1 << 16):
            output += chunk
            if answers and b"Type yes" in output:
                time.sleep(1)  # ansible discards input from before the prompt
                running.stdin.write(answers.encode() + b"\r")
                running.stdin.flush()
                answers = ""
    return running.returncode, output.decode()


@pytest.fixture
def rollout(tmp_path: Path) -> Any:
    """Return a function that rolls out over seven hosts with extra variables."""
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
            "fleet_remaining_hosts_file": str(tmp_path / "kept/remaining"),
            "absent": [],
            "cut": [],
            "failing": "none",
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            **variables,
        }
        status, output = play(
            [
                *("ansible-playbook", "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "rollout.yml")),
                *("-e", json.dumps(extra), *arguments),
            ],
            answers,
        )
        file = tmp_path / "kept/remaining"
        remaining = file.read_text().split() if file.exists() else []
        return Run(status, " ".join(output.split()), sorted(worked.read_text().split()), remaining)

    return run


# Without the gate, Ansible continues with all hosts after an unreachable node, despite these keywords.
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
def test_rollout_stops_at_unreachable_node(
    rollout: Any, batches: list[int], keywords: dict[str, Any], cut: str, worked: int
) -> None:
    run = rollout(fleet_batches=batches, keywords=keywords, cut=[cut])
    assert run.status != 0
    assert len(run.worked) == worked, run.output
    assert set(HOSTS) - set(run.worked) <= set(run.remaining), "hosts without change remain"
    assert "rescued=1" not in run.output, "no rescue runs on an unreachable node"


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
def test_rollout_without_gate_continues(
    rollout: Any, batches: list[int], keywords: dict[str, Any], cut: str, worked: list[str]
) -> None:
    """This is why the gate exists. If it fails, Ansible has changed and the gate may be obsolete."""
    assert rollout(fleet_batches=batches, keywords=keywords, cut=[cut], gated=False).worked == worked


def test_rollout_stops_at_failed_node_and_resumes(rollout: Any, tmp_path: Path) -> None:
    run = rollout(fleet_batches=[1, 2], failing="node3")
    assert run.status != 0 and run.worked == ["node1", "node2", "node3"]
    assert "Stopped: 1 of 7 nodes failed or became unreachable: node3." in run.output
    assert run.remaining == ["node3", "node4", "node5", "node6", "node7"]
    again = rollout("--limit", f"@{tmp_path}/kept/remaining", fleet_batches=["100%"])
    assert again.status == 0, again.output
    assert again.worked == ["node3", "node4", "node5", "node6", "node7"] and again.remaining == []


def test_batches_plus_allowed_failures_stay_below_max_unavailable(rollout: Any) -> None:
    run = rollout(fleet_batches=["100%"], fleet_max_unavailable=3, fleet_max_failures=1, failing="node2")
    assert "Batches of 2, 2, 2, 1" in run.output, (
        "one failed host and a batch of two are three unavailable hosts"
    )
    assert run.worked == HOSTS and run.remaining == ["node2"]


def test_unreachable_node_at_start_prevents_changes(rollout: Any) -> None:
    run = rollout(absent=["node7"])
    assert run.status != 0 and run.worked == []
    assert "Nothing was changed: 1 of 7 nodes" in run.output
    skipped = rollout(absent=["node7"], fleet_skip_unready=True, fleet_batches=["100%"])
    assert skipped.worked == HOSTS[:-1] and skipped.remaining == ["node7"], skipped.output


def test_approval_without_terminal_is_denied(rollout: Any) -> None:
    run = rollout(fleet_approve="canary")
    assert run.status != 0 and run.worked == ["node1"]
    assert "not approved; 6 nodes were not changed" in run.output and run.remaining == HOSTS[1:]


@pytest.mark.parametrize(("answer", "worked"), [("yes", HOSTS), ("no", HOSTS[:1])])
def test_approval_is_asked_at_the_terminal(rollout: Any, answer: str, worked: list[str]) -> None:
    run = rollout(fleet_batches=[1, "100%"], fleet_approve="canary", answers=answer)
    assert "1 nodes are complete (node1), 6 are pending. Type yes to continue" in run.output, run.output
    assert run.worked == worked and (run.status == 0) == (answer == "yes"), run.output


def test_soak_pauses_between_batches(rollout: Any) -> None:
    run = rollout(fleet_batches=[3, "100%"], fleet_soak=5)
    assert run.status == 0 and run.worked == HOSTS
    assert run.output.count("Pausing for 5 seconds") == 1, "no pause follows the last batch"


def test_stop_after_canary_succeeds_with_remaining_hosts(rollout: Any) -> None:
    run = rollout(fleet_batches=[2, "100%"], fleet_stop_after=1, fleet_approve="canary")
    assert run.status == 0, run.output
    assert run.worked == HOSTS[:2] and run.remaining == HOSTS[2:]


def test_invalid_batches_and_limits_are_refused(rollout: Any) -> None:
    run = rollout(fleet_batches=["0%"])
    assert run.status != 0 and run.worked == [] and "'0%' is not a valid batch size" in run.output
    run = rollout(fleet_max_unavailable=2, fleet_max_failures=2)
    assert run.status != 0 and run.worked == [] and "fleet_max_unavailable is 2" in run.output


def test_gate_is_first_and_last_task_of_each_batch() -> None:
    plays = yaml.safe_load((CHECKOUT / "playbooks/site.yml").read_text())
    batched = [play for play in plays if "serial" in play]
    assert len(batched) == 1
    for task, entry in (
        (batched[0]["pre_tasks"][0], "check_failures"),
        (batched[0]["post_tasks"][-1], "gate"),
    ):
        assert task["ansible.builtin.import_role"] == {"name": "podnet.datapath.fleet", "tasks_from": entry}
        assert task["tags"] == ["always"]
    assert "any_errors_fatal" not in batched[0] and "max_fail_percentage" not in batched[0]
