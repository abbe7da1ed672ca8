# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation refers to exists: links, make targets, options, modules, releases."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.checkout import CHECKOUT

PAGES = sorted(
    [
        *(CHECKOUT / "docs").glob("*.md"),
        *(CHECKOUT / "roles").glob("*/README.md"),
        *(CHECKOUT / f"{name}.md" for name in ("README", "ARCHITECTURE", "CONTRIBUTING")),
    ]
)
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(CHECKOUT)) for page in PAGES])
# The README of benchmark refers to its argument_specs.yml instead.
ROLES = sorted(path.name for path in (CHECKOUT / "roles").iterdir() if path.name != "benchmark")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@EVERY_PAGE
def test_links(page: Path) -> None:
    for url in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if url.startswith("https://"):
            continue
        path, _separator, anchor = url.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), url
        assert not anchor or anchor in anchors(target), url


@EVERY_PAGE
def test_make_targets(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    used = re.findall(r"`(?:nice )?make (?:-\w+ )?([a-z][\w-]*)", text)
    used += re.findall(r"^ {4}make ([a-z][\w-]*)", text, re.MULTILINE)
    assert set(used) <= targets


@pytest.mark.parametrize("role", ROLES)
def test_all_options_of_a_role_are_described(role: str) -> None:
    specs = yaml.safe_load((CHECKOUT / f"roles/{role}/meta/argument_specs.yml").read_text())["argument_specs"]
    options = {name for spec in specs.values() for name in spec.get("options", {})}
    pages = [f"roles/{role}/README.md", *(["docs/cilium.md"] if role == "cilium" else [])]
    text = "".join((CHECKOUT / page).read_text() for page in pages)
    described = set(re.findall(rf"\b{role}_\w+", text))
    assert options <= described


def test_all_reasons_are_described() -> None:
    """A drop or a packet that passes to the stack is what operators look up."""
    source = (CHECKOUT / "roles/bpf_datapath/files/metrics.h").read_text()
    reasons = set(re.findall(r"^\tREASON_(\w+)", source, re.MULTILINE)) - {"NONE", "MAX"}
    assert reasons <= set(re.findall(r"`([A-Z_]+)`", (CHECKOUT / "docs/datapath.md").read_text()))


def test_readme_lists_all_modules() -> None:
    modules = {path.stem for path in (CHECKOUT / "plugins/modules").glob("*.py")}
    # Called by playbooks and roles only.
    modules.remove("validate_options")
    assert modules <= set(re.findall(r"`(\w+)`", (CHECKOUT / "README.md").read_text()))


def test_no_option_is_of_a_later_release() -> None:
    current = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())["version"]
    for path in sorted((CHECKOUT / "plugins").rglob("*.py")):
        for release in re.findall(r"version_added: (\S+)", path.read_text()):
            assert [*map(int, release.split("."))] <= [*map(int, current.split("."))], path
