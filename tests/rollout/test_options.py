# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All options of all roles as text and as JSON, by runs of ansible-playbook: same values, or the same errors.

``make test-options`` runs this with each series of ansible-core in PODNET_ANSIBLE_CORES.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.plugin_utils import options
from tests.support.checkout import CHECKOUT

ROLES = [role for role in options.roles() if role != "fleet"]
ALL = {name: spec for role in options.roles() for name, spec in options.options(role).items()}
PLAYBOOK = {name: spec for name, spec in options.options("").items() if name != "podnet_hosts"}
CORES = os.environ.get("PODNET_ANSIBLE_CORES", "").split() or [""]


@pytest.fixture(params=CORES, scope="module")
def programs(request: pytest.FixtureRequest) -> Path:
    """Return the directory with the programs of a series of ansible-core; "" is the installed one."""
    if not request.param:
        return Path(sys.executable).parent
    folder = Path(os.environ["PODNET_CACHE"]) / "ansible-core" / request.param
    if not (folder / "bin/ansible-playbook").exists():
        # ansible-core 2.20 and later require Python 3.12, which pyenv hides unless it is selected.
        python = ">=3.11,<3.14" if request.param in ("2.18", "2.19") else ">=3.12"
        path = os.pathsep.join([os.environ["PATH"], *map(str, Path.home().glob(".pyenv/versions/*/bin"))])
        command = ["uv", "venv", "-q", "--clear", "--python", python, str(folder)]
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
        install = ["uv", "pip", "install", "-q", "--python", str(folder / "bin/python3")]
        subprocess.run([*install, f"ansible-core=={request.param}.*"], check=True)
    return folder / "bin"


def run(programs: Path, playbook: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook on a host that nothing may connect to."""
    inventory = playbook.parent / "hosts.json" if playbook.parent.name != "playbooks" else None
    command = [str(programs / "ansible-playbook"), "-i", str(inventory or "node1,"), str(playbook), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def failure(output: str) -> dict[str, Any]:
    """Return the result of the only host of the only task of a run."""
    assert output.count("TASK [") == output.count("FAILED! => ") == 1, output
    found: dict[str, Any] = json.loads(output.partition("FAILED! => ")[2].partition("\n")[0])
    return found


def example(spec: dict[str, Any]) -> Any:
    """Return a valid value that is not the default."""
    if "choices" in spec:
        value = spec["choices"][-1]
        return [value] if spec["type"] == "list" else value
    if "options" in spec:
        value = {name: example(suboption) for name, suboption in spec["options"].items()}
        return [value] if spec["type"] == "list" else value
    if spec["type"] == "list":
        return [example({"type": spec.get("elements", "str")})] * 2
    values = {"bool": not spec.get("default"), "int": 3, "float": 1.5, "dict": {"a": 1}, "raw": {"a": "b"}}
    return values.get(spec["type"], "some text")


def text(value: Any) -> str:
    """Return a value as ``-e`` and AWX pass it on."""
    return value if isinstance(value, str) else json.dumps(value)


VALID = {name: example(dict(spec)) for name, spec in ALL.items()}
# Every option that cannot have a dictionary as its value.
INVALID = {
    name: {"wrong": 1}
    for name, spec in {**ALL, **PLAYBOOK}.items()
    if spec["type"] not in ("dict", "raw") and ("choices" in spec or spec["type"] not in ("str", "path"))
} | {name: [1] for name, spec in ALL.items() if spec["type"] == "dict"}
FORMS = {
    "json": lambda values: ["-e", json.dumps(values)],
    "text": lambda values: ["-e", json.dumps({name: text(value) for name, value in values.items()})],
    "key=value": lambda values: [
        word
        for name, value in values.items()
        for word in ("-e", f"{name}={json.dumps(text(value)) if ' ' in text(value) else text(value)}")
    ],
}


def converted(programs: Path, folder: Path, values: dict[str, Any], form: str) -> dict[str, Any]:
    """Return the values that the roles use."""
    files = [
        CHECKOUT / f"roles/{role}/{kind}/main.yml"
        for role in options.roles()
        for kind in ("defaults", "vars")
    ]
    names = ", ".join(f"'{name}': __{name}" for name in values)
    tasks: list[dict[str, Any]] = [{"ansible.builtin.include_vars": str(file)} for file in files]
    copy = {"content": f"{{{{ {{{names}}} | to_json }}}}", "dest": str(folder / "out.json"), "mode": "0600"}
    tasks.append({"ansible.builtin.copy": copy})
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "hosts.json").write_text(
        json.dumps({"all": {"hosts": {"localhost": {"ansible_python_interpreter": sys.executable}}}})
    )
    done = run(programs, folder / "play.yml", *FORMS[form](values))
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    # ansible-core 2.18 returns the number of a variable as text; modules and `| int` convert it.
    numbers = {"int": int, "float": float}
    return {name: numbers.get(ALL[name]["type"], lambda value: value)(value) for name, value in found.items()}


@pytest.mark.parametrize("form", FORMS)
def test_roles_use_the_same_values(programs: Path, tmp_path: Path, form: str) -> None:
    assert converted(programs, tmp_path, VALID, form) == VALID


def test_playbooks_refuse_other_types_before_any_change(programs: Path) -> None:
    found = {}
    for form in ("json", "text"):
        done = run(programs, CHECKOUT / "playbooks/site.yml", *FORMS[form](INVALID))
        assert done.returncode, done.stdout
        problems = failure(done.stdout)["problems"]
        found[form] = {problem.partition(":")[0].partition("[")[0] for problem in problems}
    assert found["json"] == found["text"] == set(INVALID)


@pytest.mark.parametrize("name", ["audit", "benchmark", "lab_down", "lab_up", "preflight", "revert", "site"])
def test_playbooks_report_unknown_options(programs: Path, name: str) -> None:
    done = run(programs, CHECKOUT / f"playbooks/{name}.yml", "-e", "fleet_bathces=1", "-e", "pods_network=x")
    assert done.returncode and "did you mean fleet_batches?" in done.stdout, done.stdout + done.stderr
    assert len(failure(done.stdout)["problems"]) == 1
    assert "pods_network: unknown option" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize("name", ["audit", "benchmark", "preflight", "revert", "site"])
@pytest.mark.parametrize(
    "words", [["-e", "podnet_hosts=absent"], ["-i", "localhost,"]], ids=["absent", "localhost"]
)
def test_no_matching_host_is_an_error(programs: Path, name: str, words: list[str]) -> None:
    command = [str(programs / "ansible-playbook"), str(CHECKOUT / f"playbooks/{name}.yml"), *words]
    if "-i" not in words:
        command += ["-i", "node1,"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode and "podnet_hosts: " in done.stderr + done.stdout, done.stdout
    assert "matches no host of the inventory" in done.stderr + done.stdout


@pytest.mark.parametrize("form", FORMS)
def test_roles_used_alone_validate_first(programs: Path, tmp_path: Path, form: str) -> None:
    """Each role accepts every option and refuses an unknown one, before it connects to the host."""
    # Facts start no module; one task writes all messages.
    tasks: list[dict[str, Any]] = [
        {
            "block": [{"ansible.builtin.include_role": {"name": f"podnet.datapath.{role}"}}],
            "rescue": [{"ansible.builtin.set_fact": {f"failure_{role}": "{{ ansible_failed_result.msg }}"}}],
        }
        for role in ROLES
    ]
    messages = ", ".join(f"'{role}': failure_{role}" for role in ROLES)
    copy = {
        "content": f"{{{{ {{{messages}}} | to_json }}}}",
        "dest": str(tmp_path / "out.json"),
        "mode": "0600",
    }
    tasks.append({"ansible.builtin.copy": copy, "vars": {"ansible_python_interpreter": sys.executable}})
    play = {"hosts": "node1", "gather_facts": False, "tasks": tasks}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    host = {"ansible_connection": "local", "ansible_python_interpreter": "absent", "fleet_bathces": [1]}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"node1": host}}}))
    done = run(programs, tmp_path / "play.yml", *FORMS[form](VALID))
    assert done.returncode == 0, done.stdout + done.stderr
    expected = "Invalid options:\nfleet_bathces: unknown option; did you mean fleet_batches?"
    for role, message in json.loads((tmp_path / "out.json").read_text()).items():
        assert message.startswith(expected), role


def test_role_fleet_alone_fails(programs: Path, tmp_path: Path) -> None:
    play = {"hosts": "node1", "gather_facts": False, "roles": ["podnet.datapath.fleet"]}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"hosts": {"node1": {}}}}))
    done = run(programs, tmp_path / "play.yml")
    assert done.returncode and "tasks_from: plan" in done.stdout, done.stdout
