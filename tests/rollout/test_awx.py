# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""AWX' survey, templates and workflow match the roles and run under ansible-runner, as AWX runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.checkout import CHECKOUT
from tests.support.local_node import SKIPPED, node

AWX = yaml.safe_load((CHECKOUT / "playbooks/vars/awx.yml").read_text())
TYPES = {"int": "integer", "bool": "multiplechoice", "list": "text", "str": "text"}


def options() -> dict[str, dict[str, Any]]:
    """Return the options of all roles."""
    found: dict[str, dict[str, Any]] = {}
    for path in CHECKOUT.glob("roles/*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            found |= entry.get("options", {})
    return found


QUESTIONS = [*AWX["awx_survey"], *AWX["awx_cilium_survey"]]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["variable"])
def test_survey_question_is_a_role_option(question: dict[str, Any]) -> None:
    option = options()[question["variable"]]
    assert question["type"] == ("multiplechoice" if "choices" in option else TYPES[option["type"]])
    assert question.get("choices") in (["false", "true"], option.get("choices"))


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["variable"])
def test_unanswered_question_is_omitted(question: dict[str, Any]) -> None:
    """Answers override group_vars, so AWX must not send unanswered questions."""
    assert not question["required"] and "default" not in question
    assert question["type"] != "text" or question["min"] > 0


def test_templates_name_existing_playbooks_and_variables() -> None:
    known = {*options(), "audit_strict"}
    for template in AWX["awx_templates"]:
        plays = yaml.safe_load((CHECKOUT / template["playbook"]).read_text())
        assert all("hosts" in play or "ansible.builtin.import_playbook" in play for play in plays)
        assert set(template.get("extra_vars", {})) <= known


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"awx_inventory": "nodes"}, "awx_credential: required by the playbook awx, but not set; set it"),
        ({"awx_inventory": ["nodes"], "awx_credential": "key"}, "awx_inventory: "),
    ],
)
def test_options_of_the_playbook_are_validated_first(
    tmp_path: Path, variables: dict[str, Any], problem: str
) -> None:
    """Without awx.awx: only the validation runs."""
    text = (CHECKOUT / "playbooks/awx.yml").read_text()
    play = yaml.safe_load(text.replace("vars/awx.yml", f"{CHECKOUT}/playbooks/vars/awx.yml"))[0]
    assert "podnet.datapath.validate_options" in play["tasks"][0]
    play["tasks"] = [play["tasks"][0], {"name": "Second", "ansible.builtin.meta": "noop"}]
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    command = (
        "ansible-playbook",
        "-i",
        "localhost,",
        str(tmp_path / "play.yml"),
        "-e",
        json.dumps(variables),
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and problem in done.stdout, done.stdout
    complete = json.dumps({"awx_inventory": "nodes", "awx_credential": "key"})
    done = subprocess.run([*command[:-1], complete], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_workflow_asks_before_canary_and_before_remaining_hosts() -> None:
    nodes = {node["identifier"]: node for node in AWX["awx_workflow"]["nodes"]}
    templates = {template["name"] for template in AWX["awx_templates"]}
    order, name = [], "preflight"
    while name:
        node = nodes[name]["unified_job_template"]
        assert node["type"] == "workflow_approval" or node["name"] in templates
        order.append(name)
        following = nodes[name].get("related", {}).get("success_nodes", [])
        name = following[0]["identifier"] if following else ""
    assert order == ["preflight", "approve-canary", "canary", "approve-rest", "rest", "audit"] == list(nodes)


@pytest.fixture
def project(tmp_path: Path) -> dict[str, str]:
    """Make AWX' folders of a job, with a clone and the installed collection; return a job's environment."""
    clone = ["git", "-c", "safe.directory=*", "clone", "-q", str(CHECKOUT), str(tmp_path / "project")]
    subprocess.run(clone, check=True)
    collections = tmp_path / "requirements_collections"
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHONPATH"))
    }
    install = ("ansible-galaxy", "collection", "install", "-r", "collections/requirements.yml")
    subprocess.run(
        [*install, "-p", str(collections)],
        cwd=tmp_path / "project",
        env={**environment, "ANSIBLE_COLLECTIONS_PATH": str(collections)},
        check=True,
        capture_output=True,
    )
    for name in ("inventory", "env"):
        (tmp_path / name).mkdir()
    forms = {"text": "1,10%,100%", "integer": 0}
    answers = {
        one["variable"]: forms.get(one["type"], one.get("choices", [""])[0]) for one in AWX["awx_survey"]
    }
    answers.update(preflight_driver="veth", podnet_report=str(tmp_path / "report"))
    (tmp_path / "env/extravars").write_text(json.dumps(answers))
    (tmp_path / "env/envvars").write_text(json.dumps({"ANSIBLE_COLLECTIONS_PATH": str(collections)}))
    return environment


def test_templates_run_under_ansible_runner(tmp_path: Path, project: dict[str, str]) -> None:
    """The project is a clone, its requirements install the collection, answers are extra variables."""
    runner = shutil.which("ansible-runner")
    if not runner:
        pytest.fail("ansible-runner is missing; run make tools")

    def launch(name: str, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Run a template's job; return its statistics and artifacts."""
        (template,) = (one for one in AWX["awx_templates"] if one["name"] == name)
        check = ["--check"] if template.get("job_type") == "check" else []
        done = subprocess.run(
            [
                *(runner, "run", str(tmp_path), "-p", template["playbook"], "-i", name.split()[-1], "--json"),
                *("--limit", "node1", "--cmdline", " ".join(["--forks 5", *check, *arguments])),
            ],
            env=project,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        (stats,) = [event["event_data"] for event in events if event["event"] == "playbook_on_stats"]
        return stats, stats["artifact_data"]

    with node(tmp_path) as facts:
        (tmp_path / "inventory/hosts").write_text(yaml.safe_dump({"all": {"hosts": {"node1": facts}}}))
        _stats, found = launch("podnet preflight")
        summary = found["podnet_preflight"]["node1"]
        assert summary["driver"] == "veth" and summary["kernel"] == os.uname().release
        report = json.loads((tmp_path / "report/preflight.json").read_text())
        assert report["node1"]["driver"] == "veth"
        stats, found = launch("podnet rollout", SKIPPED)
        assert found["podnet_rollout"] == {"completed": ["node1"], "failed": [], "remaining": []}
        assert stats["changed"]["node1"] > 0
        stats, found = launch("podnet drift", SKIPPED)
        assert found["podnet_rollout"] == {"completed": [], "failed": [], "remaining": ["node1"]}
        assert stats["changed"] == stats["failures"] == stats["dark"] == {}, "a converged node has no drift"


def test_execution_environment_is_accepted_by_ansible_builder(tmp_path: Path) -> None:
    builder = shutil.which("ansible-builder")
    if not builder:
        pytest.fail("ansible-builder is missing; run make tools")
    done = subprocess.run(
        [builder, "create", "-f", str(CHECKOUT / "execution-environment.yml"), "-c", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clang" in (tmp_path / "_build/bindep.txt").read_text()
