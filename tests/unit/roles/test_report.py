# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's report, rendered by Ansible from results.json alone."""

from __future__ import annotations

import json
import os
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.filter.ladder import ladder

PLAYBOOK = """
- name: Render
  hosts: localhost
  connection: local
  gather_facts: false
  roles:
    - role: podnet.datapath.benchmark
      vars: {benchmark_render_only: true, benchmark_name: made-up}
"""
NODE = {
    "distribution": "Debian GNU/Linux 12 (bookworm)",
    "kernel": "6.1.0-56-amd64",
    "cpu": "Some <fast> CPU",
    "cpus": 2,
    "memory_mib": 1000,
    "virtualization": "none",
    "emulated": False,
    "cmdline": "quiet",
    "nics": {"wire0": {"driver": "virtio_net", "mtu": 8264, "offloads": {"tso": True, "lro": False}}},
    "sysctls": {"net.core.rmem_max": "212992"},
}
VOID = {"meta", "link", "br", "hr", "img"}


def results(**others: Any) -> dict[str, Any]:
    """Return results like those of a run, with values that are easy to find in the report."""
    rungs = [
        {"group": "wire-ipv4", "name": name, "netns": None, "source": "s", "target": "t", "device": "d",
         "kind": None, "mtu": 1500}
        for name in ("host", "veth_stack", "meta")
    ]  # fmt: skip
    runs = []
    for number in (1, 2, 3):
        for rung, value in zip(rungs, (40000.0, 20000.0, 30000.0)):
            run = {"round": number, "warmup": False, "group": rung["group"], "rung": rung["name"]}
            forwarded = 1234 if rung["name"] == "veth_stack" else 0
            latency = dict(zip(("min_us", "p90_us", "p99_us"), (11, 22, 33)))
            runs.append({**run, "test": "tcp_stream", "forwarded": forwarded, "mbits": value + number})
            runs.append({**run, "test": "tcp_rr", "forwarded": forwarded, "transactions": value, **latency})
    return {
        "schema": 1,
        "name": "made-up",
        "date": "2026-11-22 12:00 UTC",
        "collection": {"version": "0.1.0", "commit": ""},
        "netperf": "2.7.0",
        "schedule": {"tests": ["tcp_rr", "tcp_stream"], "samples": 3, "seconds": 10},
        "client": "node1",
        "server": "node2",
        "nodes": {"node1": NODE, "node2": NODE},
        "groups": ladder(runs, rungs),
        "runs": runs,
        **others,
    }


def render(folder: Path, given: dict[str, Any]) -> tuple[str, str]:
    """Return the report as Markdown and as HTML."""
    report = folder / "reports/made-up"
    report.mkdir(parents=True, exist_ok=True)
    (report / "results.json").write_text(json.dumps(given))
    (folder / "play.yml").write_text(PLAYBOOK)
    (folder / "ansible.cfg").write_text("")
    env = {**os.environ, "ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "PWD": str(folder)}
    done = subprocess.run(
        ["ansible-playbook", "play.yml"], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (report / "report.md").read_text(), (report / "report.html").read_text()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return the report of results from nodes that are not emulated."""
    return render(tmp_path_factory.mktemp("report"), results())


class PageParser(HTMLParser):
    """Record unclosed elements, and all resources that the page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [str(value) for name, value in attrs if name in ("src", "srcset", "data")]
        self.loaded += [tag] if tag in ("script", "link", "iframe") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def cells(markdown: str, label: str) -> list[list[str]]:
    """Return the cells of all table rows that start with a label."""
    rows = [line.strip("| \n").split("|") for line in markdown.splitlines() if line.startswith(f"| {label}")]
    return [[cell.strip() for cell in row] for row in rows]


def test_table_has_values_ratios_and_latencies(report: tuple[str, str]) -> None:
    markdown = report[0]
    assert cells(markdown, "host to host") == [
        ["host to host", "40,000 ±0 %", "100 %", "", "11 / 22 / 33", "0"],
        ["host to host", "40,002 ±0 %", "100 %", "", "40,001 to 40,003", "0"],
    ]
    assert cells(markdown, "meta + BPF host routing") == [
        ["meta + BPF host routing", "30,000 ±0 %", "75 %", "150 %", "11 / 22 / 33", "0"],
        ["meta + BPF host routing", "30,002 ±0 %", "75 %", "150 %", "30,001 to 30,003", "0"],
    ]
    assert cells(markdown, "veth + upper stack")[0][-1] == "1,234"
    assert cells(markdown, "kernel") == [["kernel", "6.1.0-56-amd64", "6.1.0-56-amd64"]]
    assert markdown.endswith("\n")


def test_all_rows_of_a_table_have_the_same_number_of_cells(report: tuple[str, str]) -> None:
    for block in report[0].split("\n\n"):
        counts = {line.count("|") for line in block.splitlines() if line.startswith("|")}
        assert len(counts) <= 1, block


def test_page_is_well_formed_and_self_contained(report: tuple[str, str]) -> None:
    page = PageParser()
    page.feed(report[1])
    assert page.open == []
    assert page.loaded == []
    assert "url(" not in report[1] and "@import" not in report[1]
    assert "Some &lt;fast&gt; CPU" in report[1]


def test_bars_are_proportional_to_their_values(report: tuple[str, str]) -> None:
    # The full width is the best run, 40,003 Mbit/s.
    for median in (40002, 20002, 30002):
        assert f'style="width:{100 * median / 40003:.2f}%"' in report[1]


def test_note_on_emulation_comes_first(tmp_path: Path, report: tuple[str, str]) -> None:
    note = "Ratios on an emulated CPU; not a statement about hardware."
    emulated = render(tmp_path, results(nodes={"node1": NODE, "node2": {**NODE, "emulated": True}}))
    for native, text in zip(report, emulated):
        assert note not in native
        assert 0 < text.index(note) < text.index("Between nodes, IPv4")
