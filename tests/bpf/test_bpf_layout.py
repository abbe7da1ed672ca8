# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The check that structs and constants of the compiled object match those of the collection."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import layout, verify
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.libbpf import BpfObject
from tests.bpf.programs import SOURCES


def swap(first: str, second: str) -> tuple[str, str]:
    """Return an edit that swaps two adjacent fields."""
    return rf"(\t{first};.*\n)(\t{second};.*\n)", r"\2\1"


# Header ("*": all files), edit, and the difference that must be reported
DIFFERENCES = {
    "map value": (
        "endpoints.h",
        *swap("__u16 slot", "__u16 flags"),
        "map endpoints6: field `slot` is at offset 22 in the object and at 20 in this collection",
    ),
    "map key": (
        "policy.h",
        *swap("__u8 buffer", "__u8 direction"),
        "map policy: field `buffer` is at offset 9 in the object and at 8 in this collection",
    ),
    "nested struct": (
        "policy.h",
        *swap("__u8 proto", "__u8 verdict"),
        "map rulesets: field `range.proto` is at offset 5 in the object and at 4 in this collection",
    ),
    "struct in no map": (
        "drops.h",
        *swap("__u8 reason", "__u8 direction"),
        "struct drop_event: field `reason` is at offset 63 in the object and at 62 in this collection",
    ),
    "struct in that struct": (
        "tuple.h",
        *swap("__be16 sport", "__be16 dport"),
        "struct drop_event: field `tuple.sport` is at offset 42 in the object and at 40 in this collection",
    ),
    "padding in use": (
        "endpoints.h",
        r"__u16 pad;",
        "__u16 priority;",
        "map pods: field `pad` of the value is missing in the object",
    ),
    "element size": (
        "lb.h",
        r"__u32 backend\[TABLE_SIZE\]",
        "__u16 backend[TABLE_SIZE * 2]",
        "map maglev: field `backend` has 630 * 2 bytes in the object and 315 * 4 in this collection",
    ),
    "array length": (
        "metrics.h",
        "METRICS_REASONS 64",
        "METRICS_REASONS 128",
        "map metrics: field `packets` has 128 * 8 bytes in the object and 64 * 8 in this collection",
    ),
    "struct size": (
        "lb.h",
        r"(__u32 affinity;.*\n)",
        r"\1\t__u32 more;\n",
        "map services: the value has 24 bytes in the object and 20 in this collection",
    ),
    "scalar size": (
        "endpoints.h",
        r"__type\(key, __be32\)",
        "__type(key, __u64)",
        "map endpoints4: the key has 8 bytes in the object and 4 in this collection",
    ),
    "map name": ("*", r"\bnode\b(?=, &buffer| SEC)", "own_node", "map node: missing in the object"),
    "map size": (
        "metrics.h",
        "POD_SLOTS 1024",
        "POD_SLOTS 512",
        "map metrics: max_entries is 512 in the object and 1024 in this collection",
    ),
    "layout number": (
        "config.h",
        f"LAYOUT {layout.LAYOUT}",
        f"LAYOUT {layout.LAYOUT + 1}",
        f"layout number is {layout.LAYOUT + 1} in the object and {layout.LAYOUT} in this collection",
    ),
    "flag": (
        "endpoints.h",
        "POD_L2 = 1 << 1",
        "POD_L2 = 1 << 4",
        "enum pod_flag: POD_L2 is 16 in the object and 2 in this collection",
    ),
    "constant name": (
        "*",
        "VERDICT_DENY",
        "VERDICT_REJECT",
        "enum verdict: VERDICT_DENY is missing in the object and 2 in this collection",
    ),
    "reason": (
        "*",
        "REASON_INBOUND",
        "REASON_FROM_WIRE",
        "enum reason: REASON_INBOUND is missing in the object",
    ),
}


def compiled(folder: Path, *edits: tuple[str, str, str]) -> str:
    """Compile the programs, with edits of header, pattern and replacement; return the object."""
    sources = folder / "sources"
    shutil.copytree(SOURCES, sources)
    for header, pattern, text in edits:
        count = 0
        for path in sources.glob("*.[ch]" if header == "*" else header):
            changed, replaced = re.subn(pattern, text, path.read_text())
            path.write_text(changed)
            count += replaced
        assert count, pattern
    subprocess.run(["make", "-s", "-C", str(sources), f"OUT={folder}"], check=True)
    return str(folder / "datapath.o")


def refusal(path: str) -> str:
    """Return the message with which an object is rejected."""
    with BpfObject(path) as obj, pytest.raises(Problem, match="of different versions") as error:
        verify.check(obj)
    return str(error.value)


@pytest.fixture(scope="module")
def differing(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the object with all differences: the compiler takes most of the time of these tests."""
    edits = (difference[:3] for difference in DIFFERENCES.values())
    return compiled(tmp_path_factory.mktemp("differing"), *edits)


def test_the_object_of_this_collection_is_accepted(tmp_path: Path) -> None:
    with BpfObject(compiled(tmp_path)) as obj:
        verify.check(obj)


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_each_difference_is_reported(
    differing: str, monkeypatch: pytest.MonkeyPatch, difference: str
) -> None:
    monkeypatch.setattr(verify, "MAX_SHOWN", 1000)  # instead of the first differences
    assert DIFFERENCES[difference][3] in refusal(differing)


def test_one_difference_is_rejected(tmp_path: Path) -> None:
    header, pattern, text, message = DIFFERENCES["reason"]
    assert message in refusal(compiled(tmp_path, (header, pattern, text)))


def test_an_object_without_the_maps_is_not_checked(tmp_path: Path) -> None:
    """bpf_attach loads any object."""
    source = tmp_path / "pass.bpf.c"
    source.write_text(
        "#include <linux/bpf.h>\n#include <bpf/bpf_helpers.h>\n"
        'SEC("tc") int pass(struct __sk_buff *skb) { return 0; }\n'
    )
    target = tmp_path / "pass.o"
    flags = ["-O2", "-g", "-target", "bpf", "-idirafter", "/usr/include/x86_64-linux-gnu"]
    subprocess.run(["clang", *flags, "-c", str(source), "-o", str(target)], check=True)
    with BpfObject(str(target)) as obj:
        verify.check(obj)
