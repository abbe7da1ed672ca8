# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of docs/operations.md on two nodes, and jobs as AWX runs them.

The tests depend on each other, run in the order of this file and stop at the first failure. The nodes stay
for the next run, which resets them to their state after boot; `lab.py down --name operations` removes them.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import pytest
import yaml

from bench.rollout_scale.count_tasks import CONTROLLER_ACTIONS
from tests.support.checkout import CHECKOUT
from tests.support.lab_node import lab

LAB = "operations"
UPSTREAM = "https://github.com/podnet/datapath"
NEW_VERSION = "0.1.1"
# Rows of the preflight report, which an operator reads before the first change.
REPORTED = {
    "kernel",
    "driver",
    "netkit",
    "meta",
    "headers",
    "NICs",
    "module signing",
    "bootloader",
    "VFIO",
    "SR-IOV",
}
REPORTED |= {"virtual machines", "CNI", "Cilium", "other tuning tools", "problems"}
OPTMEM = "net.core.optmem_max"
REACH = "ip netns exec pod1 ping -c1 -W9 10.31.2.11 >/dev/null && echo reached"
# Enable the kernel of the backports from the node's mirror, with a pin that makes apt upgrade to it.
BACKPORTS = (
    "sed -n 's/ bookworm main.*/ bookworm-backports main/p' /etc/apt/sources.list"
    " > /etc/apt/sources.list.d/backports.list && printf"
    " 'Package: linux-*\\nPin: release n=bookworm-backports\\nPin-Priority: 500\\n'"
    " > /etc/apt/preferences.d/backports"
)
BOOT = 1800  # seconds that an emulated node may take to boot


def commands() -> dict[str, list[str]]:
    """Return the commands of each heading of docs/operations.md."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in (CHECKOUT / "docs/operations.md").read_text().splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif re.match(r"    (ansible|rm)", line):
            found.setdefault(heading, []).append(re.sub(r"\s+#.*", "", line.strip()))
    return found


COMMANDS = commands()


def ssh(node: str, command: str) -> str:
    return lab("ssh", "--name", LAB, node, "--", command).strip()


@dataclass
class Run:
    """Status and output of a command, with the counts of each node's recap."""

    status: int
    output: str

    @property
    def words(self) -> str:
        """Return the output without line breaks."""
        return " ".join(self.output.split())

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        lines = re.findall(r"^(node\d)\s+: (ok=.*?)\s*$", self.output, re.MULTILINE)
        return {
            node: {key: int(count) for key, count in re.findall(r"(\w+)=(\d+)", counts)}
            for node, counts in lines
        }

    def changed(self) -> dict[str, int]:
        return {node: counts["changed"] for node, counts in self.recap.items()}


class Operator:
    """An operator's folder: an inventory, a home directory and the installed collection."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.upstream = folder / "upstream"
        (folder / "home").mkdir()
        access = yaml.safe_load(Path(json.loads(lab("inventory", "--name", LAB))["inventory"]).read_text())
        self.access = access["lab"]
        self.variables = yaml.safe_load((CHECKOUT / "inventories/lab/group_vars/lab.yml").read_text())
        # With a newer kernel, auto would select netkit.
        self.variables["preflight_driver"] = "meta"
        self.variables["node_tuning_reboot_timeout"] = BOOT
        del self.variables["fleet_batches"]
        self.environment = {
            **{
                key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PODNET_"))
            },
            "HOME": str(folder / "home"),
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_HOME": str(folder / "home/.ansible"),
            "ANSIBLE_COLLECTIONS_PATH": str(folder / "home/.ansible/collections"),
            "ANSIBLE_NOCOLOR": "1",
            # The published collection is a clone of this checkout.
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": f"url.{self.upstream}.insteadOf",
            "GIT_CONFIG_VALUE_0": UPSTREAM,
            "GIT_CONFIG_KEY_1": "safe.directory",
            "GIT_CONFIG_VALUE_1": "*",
        }
        self.environment.pop("PYTHONPATH", None)

    def write_inventory(self, folder: Path, *nodes: str) -> None:
        """Write an inventory of nodes, with routes to each other's Pods."""
        hosts = {node: self.access["hosts"][node] for node in nodes}
        (folder / "host_vars").mkdir(parents=True, exist_ok=True)
        (folder / "group_vars").mkdir(exist_ok=True)
        everything = {"all": {"hosts": hosts, "vars": self.access["vars"]}}
        (folder / "hosts.yml").write_text(yaml.safe_dump(everything))
        (folder / "group_vars/all.yml").write_text(yaml.safe_dump(self.variables))
        for node in nodes:
            facts = yaml.safe_load((CHECKOUT / f"inventories/lab/host_vars/{node}.yml").read_text())
            if len(nodes) == 1:
                del facts["pods_host_routes"]
            (folder / f"host_vars/{node}.yml").write_text(yaml.safe_dump(facts))

    def run(self, command: str, answer: str = "yes", good: bool = True, **environment: str) -> Run:
        """Run a command at a terminal, answer its questions, and assert success (``good``) or failure."""
        print(f"\n$ {command}", flush=True)
        terminal = pexpect.spawn(
            "bash",
            ["-c", command],
            timeout=None,
            logfile=sys.stdout.buffer,
            cwd=str(self.folder),
            env={**self.environment, **environment},
        )
        output = b""
        while terminal.expect([pexpect.EOF, "Type yes to continue.*:"]):
            output += terminal.before + terminal.after
            terminal.sendline(answer)
        output += terminal.before
        # The terminal may close before the command ends; pexpect.run would kill the command then.
        status = terminal.wait()
        text = output.decode(errors="replace").replace("\r\n", "\n")
        assert (status == 0) is good, f"{command}: status {status}\n{text[-4000:]}"
        return Run(status, text)

    def do(self, heading: str, **names: str) -> Iterator[Run]:
        """Run the commands of a heading in order, with names in place of NODE and NEW; yield the runs."""
        for command in COMMANDS[heading]:
            patience = f" -a reboot_timeout={BOOT}" if command.endswith(".reboot") else ""
            yield self.run(filled(command, names) + patience)


def filled(command: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        command = re.sub(rf"\b{name}\b", value, command)
    return command


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Operator:
    """Boot two nodes; write an inventory of the first one, and install the collection."""
    lab("up", "--name", LAB, "--kernel", "6.1", "--snapshot", "booted")
    person = Operator(tmp_path_factory.mktemp("operations"))
    person.write_inventory(person.folder / "inventory", "node1")
    clone = ["git", "clone", "-q", str(CHECKOUT), str(person.upstream)]
    subprocess.run(clone, env=person.environment, check=True)
    person.run(COMMANDS["5. Upgrade the collection"][0])
    return person


def test_every_task_has_commands() -> None:
    tasks = [heading for heading in COMMANDS if re.match(r"\d\. ", heading)]
    assert [task[0] for task in tasks] == list("12345678")


def test_1_first_roll_out(operator: Operator) -> None:
    preflight, dry, *_more = list(map(operator.run, COMMANDS["1. First rollout"][:3]))
    assert preflight.changed() == {"node1": 0} and dry.changed()["node1"] > 0
    report = operator.folder / "reports/preflight"
    rows = re.findall(r"^\| ([^|]+) \|", (report / "preflight.md").read_text(), re.MULTILINE)
    assert set(rows) >= REPORTED
    assert json.loads((report / "preflight.json").read_text())["node1"]["driver"] == "meta"
    assert ssh("node1", "cat /sys/module/meta/version") == version(operator.upstream)
    assert ssh("node1", "ip netns exec pod1 cat /sys/class/net/eth0/mtu") == str(
        operator.variables["pods_mtu"]
    )


def test_2_change_one_value(operator: Operator) -> None:
    forwarding = {f"net.ipv{family}.conf.all.forwarding": 1 for family in (4, 6)}
    operator.variables["node_tuning_sysctls"] = {**forwarding, OPTMEM: 2097152}
    operator.write_inventory(operator.folder / "inventory", "node1")
    before = ssh("node1", f"sysctl -n {OPTMEM}")
    dry, done = operator.do("2. Change one value")
    assert before != "2097152" == ssh("node1", f"sysctl -n {OPTMEM}")
    assert OPTMEM in dry.output and done.changed()["node1"] > 0


def test_3_add_a_node(operator: Operator) -> None:
    operator.write_inventory(operator.folder / "inventory", "node1", "node2")
    new, others = operator.do("3. Add a node", NEW="node2")
    assert set(new.recap) == {"node2"} and others.changed()["node2"] == 0
    assert ssh("node1", REACH) == "reached"


def test_4_upgrade_the_kernel(operator: Operator) -> None:
    """Upgrade to the kernel of the backports, which stands in for a newer one of the distribution."""
    before = ssh("node1", "uname -r")
    ssh("node1", BACKPORTS)
    list(operator.do("4. Upgrade the kernel", NODE="node1"))
    assert ssh("node1", "uname -r") != before
    assert ssh("node1", "cat /sys/module/meta/version") == version(operator.upstream)
    assert ssh("node1", REACH) == "reached"


def test_4_kernel_without_headers_is_reported_and_refused(operator: Operator) -> None:
    """Missing headers are reported before the reboot and refused after it; the network is unchanged."""
    network = "ip -brief address show wire0; ip route show default; cat /sys/class/net/wire0/mtu"
    release = ssh("node1", "uname -r")
    # The image package breaks older linux-headers-amd64, so apt would upgrade the headers as well.
    packages = "linux-image-amd64 linux-headers-amd64-"
    ssh("node2", f"{BACKPORTS} && apt-get -qq update && apt-get -qqy install {packages} 2>&1")
    *_install, preflight, boot, roll_out = [
        filled(c, {"NODE": "node2"}) for c in COMMANDS["4. Upgrade the kernel"]
    ]
    dkms = "-e meta_driver_build=dkms -e preflight_install_packages=false"
    assert f"linux-headers-{release}, and DKMS builds it" in operator.run(f"{preflight} {dkms}").words
    before = ssh("node2", network)
    operator.run(f"{boot} -a reboot_timeout={BOOT}")
    assert ssh("node2", f"uname -r; ls /lib/modules/{release}/build 2>/dev/null; true") == release
    refused = operator.run(f"{roll_out} {dkms}", good=False)
    assert f"missing: the headers of kernel {release}" in refused.words and refused.changed() == {"node2": 0}
    assert ssh("node2", network) == before
    # A driver built on another node for this kernel needs no headers.
    operator.run(roll_out)
    assert ssh("node1", REACH) == "reached"


def test_5_upgrade_the_collection(operator: Operator) -> None:
    """The second batch is not approved; the run is resumed by the command of the first task."""
    raise_version(operator)
    install, dry, roll_out = COMMANDS["5. Upgrade the collection"]
    operator.run(install)
    assert NEW_VERSION in operator.run("ansible-galaxy collection list podnet.datapath").output
    assert operator.run(dry).changed()["node1"] > 0
    stopped = operator.run(roll_out, answer="no", good=False)
    assert "not approved; 1 nodes were not changed" in stopped.words
    rest = operator.run(COMMANDS["1. First rollout"][3])
    assert set(rest.recap) - {"localhost"} == {"node2"}
    assert "the new driver version will be loaded at the next boot" in stopped.output + rest.output
    operator.run(f"{roll_out} -e meta_driver_reload=managed")
    assert {ssh(node, "cat /sys/module/meta/version") for node in ("node1", "node2")} == {NEW_VERSION}


def test_6_find_drift(operator: Operator) -> None:
    audit, dry = operator.do("6. Find drift")
    assert audit.changed() == dry.changed() == {"node1": 0, "node2": 0}
    ssh("node2", f"sysctl -qw {OPTMEM}=65536")
    found = operator.run(COMMANDS["6. Find drift"][0], good=False)
    assert OPTMEM in found.output and found.recap["node1"]["failed"] == 0 < found.recap["node2"]["failed"]
    assert operator.run(COMMANDS["6. Find drift"][1]).changed()["node2"] > 0


def test_awx_jobs_have_the_same_results(operator: Operator) -> None:
    """ansible-runner in AWX' folders with unanswered surveys; results are artifacts."""
    folder = operator.folder / "awx"
    operator.write_inventory(folder / "inventory", "node1", "node2")
    (folder / "env").mkdir()
    survey = yaml.safe_load((CHECKOUT / "playbooks/vars/awx.yml").read_text())
    answers = {"podnet_report": str(folder / "report")}
    (folder / "env/extravars").write_text(json.dumps(answers))
    clone = ["git", "clone", "-q", str(operator.upstream), str(folder / "project")]
    subprocess.run(clone, env=operator.environment, check=True)

    numbers = itertools.count(1)

    def launch(name: str) -> tuple[dict[str, Any], dict[str, Any], Counter[str]]:
        """Run a template's job; return statistics, artifacts, and the number of remote tasks of each node."""
        (template,) = (one for one in survey["awx_templates"] if one["name"] == name)
        (folder / "env/cmdline").write_text("--forks 5" + " --check" * (template.get("job_type") == "check"))
        ident = str(next(numbers))
        operator.run(f"ansible-runner run {folder} -p {template['playbook']} -i {ident}")
        files = (folder / f"artifacts/{ident}/job_events").glob("*.json")
        events = [json.loads(path.read_text()) for path in files]
        (stats,) = (event["event_data"] for event in events if event["event"] == "playbook_on_stats")
        ran = [event["event_data"] for event in events if event["event"] == "runner_on_ok"]
        tasks = Counter(
            one["host"] for one in ran if one["task_action"].split(".")[-1] not in CONTROLLER_ACTIONS
        )
        return stats, stats.get("artifact_data", {}), tasks

    _stats, found, _tasks = launch("podnet preflight")
    assert {node["driver"] for node in found["podnet_preflight"].values()} == {"meta"}
    _stats, found, _tasks = launch("podnet rollout")
    assert found["podnet_rollout"] == {"completed": ["node1", "node2"], "failed": [], "remaining": []}
    _stats, _found, tasks = launch("podnet rollout")
    assert set(tasks) == {"node1", "node2"} and max(tasks.values()) <= 25, tasks
    stats, _found, _tasks = launch("podnet drift")
    assert stats["changed"] == {} == stats["failures"] == stats["dark"]
    _stats, found, _tasks = launch("podnet audit")
    assert found["podnet_drift"] == {"node1": [], "node2": []}


def test_7_roll_back(operator: Operator) -> None:
    """After the next boot the kernel command line is restored as well."""
    assert "iommu=pt" in ssh("node1", "cat /proc/cmdline").split()
    (done,) = operator.do("7. Roll back", NODE="node1")
    assert set(done.recap) == {"node1"}
    assert_bare("node1")
    (reboot,) = (command for command in COMMANDS["4. Upgrade the kernel"] if "builtin.reboot" in command)
    operator.run(filled(reboot, {"NODE": "node1"}))
    assert "iommu" not in ssh("node1", "cat /proc/cmdline")
    assert ssh("node2", "cat /sys/module/meta/version") == NEW_VERSION


def test_8_uninstall(operator: Operator) -> None:
    done, _removed = operator.do("8. Uninstall")
    home = operator.folder / "home"
    assert not list(home.glob(".ansible/collections/*/podnet/datapath")) and not list(
        home.glob(".cache/podnet*")
    )
    assert done.changed()["node1"] == 0, "node1 was rolled back before"
    assert_bare("node2")


def assert_bare(node: str) -> None:
    """Assert that a node has no files, modules, programs and settings of this collection."""
    remaining = ssh(
        node,
        "ls -d /sys/module/meta /sys/fs/bpf/podnet /etc/sysctl.d/*podnet* /usr/local/sbin/podnet-datapath"
        " /lib/modules/*/updates/*/meta.ko* /etc/modules-load.d/*meta* 2>/dev/null; ip -br netns;"
        f" sysctl -n {OPTMEM} | grep -x 2097152; cat /sys/class/net/wire0/mtu | grep -x 8264; true",
    )
    assert remaining == ""


def version(collection: Path) -> str:
    """Return the version of a collection's driver."""
    found = re.search(r'META_VERSION\s+"(.+)"', (collection / "roles/meta_driver/files/meta.h").read_text())
    assert found
    return found[1]


def raise_version(operator: Operator) -> None:
    """Publish a newer collection with a newer driver."""
    changes = {
        "galaxy.yml": r"(version: ).+()",
        "roles/meta_driver/files/meta.h": r'(META_VERSION\s+").+(")',
        "roles/meta_driver/files/dkms.conf": r'(PACKAGE_VERSION=").+(")',
    }
    for name, pattern in changes.items():
        file = operator.upstream / name
        file.write_text(re.sub(pattern, rf"\g<1>{NEW_VERSION}\2", file.read_text()))
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    commit = ["git", *author, "-C", str(operator.upstream), "commit", "-qam", "A newer version"]
    subprocess.run(commit, env=operator.environment, check=True)
