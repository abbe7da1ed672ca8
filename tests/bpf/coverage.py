# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Branch coverage of the programs: clang's counters, in a map of the loaded object.

The counters are moved to the section .data.counters, which libbpf loads as a map. Their final values become a
profile for llvm-cov, which finds the branches in the same object.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAP = "counters"
SECTION = f".data.{MAP}"
# Its two branches are not counted: their counters would exceed the stack limit of 512 bytes.
UNCOUNTED = "flow_cache_update"

_COUNTERS = re.compile(r"^@__profc_(\S+) = private global \[(\d+) x i64\]")
_GLOBAL = re.compile(
    r"^__noinline [^\n(]*\((?P<arguments>[^)]*)\)\n\{(?P<body>.*?)^\}", re.MULTILINE | re.DOTALL
)
_DATA = re.compile(r"^@__profd_(\S+) = .*? \{ i64 (-?\d+), i64 (-?\d+),")


@dataclass(frozen=True)
class Counted:
    """A function's counters: its name in profiles, its structural hash, and the number of counters."""

    name: str
    form: int
    count: int


def build(sources: Path, folder: Path) -> tuple[Path, dict[str, Counted]]:
    """Compile the programs with counters; return the object, and its functions by counter symbol."""
    command = subprocess.run(
        ["make", "-s", "-n", "-B", "-C", str(sources), f"OUT={folder}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    compile_line = next(line for line in command.splitlines() if " -c datapath.bpf.c" in line)
    words = compile_line.replace("-target bpf", "-target bpf-unknown-linux").split()
    words = words[: words.index("-c")]
    excluded = folder / "uncounted"
    excluded.write_text(f"!fun:{UNCOUNTED}\n")
    code = subprocess.run(
        [
            *words,
            *("-fprofile-instr-generate", "-fcoverage-mapping", f"-fprofile-list={excluded}"),
            *("-S", "-emit-llvm", "datapath.bpf.c", "-o", "-"),
        ],
        cwd=sources,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    functions: dict[str, Counted] = {}
    forms: dict[str, tuple[int, int]] = {}
    lines = []
    for line in code.splitlines():
        if data := _DATA.match(line):
            forms[data[1]] = (int(data[2]) % 2**64, int(data[3]) % 2**64)
        elif counters := _COUNTERS.match(line):
            functions[counters[1]] = Counted("", 0, int(counters[2]))
            line = line.replace("private global", "internal global", 1)
            line = re.sub(r'section "[^"]*", comdat(\([^)]*\))?', f'section "{SECTION}"', line)
        lines.append(line)
    assert functions and functions.keys() == forms.keys()
    for symbol, counted in functions.items():
        number, form = forms[symbol]
        names = (symbol, symbol.replace(".c_", ".c:", 1))  # static functions have the prefix of their file
        name = next(n for n in names if _number(n) == number)
        functions[symbol] = Counted(name, form, counted.count)
    (folder / "counted.ll").write_text("\n".join(lines) + "\n")
    target = folder / "datapath.o"
    subprocess.run(
        [
            *words,
            "-Wno-unused-command-line-argument",
            "-x",
            "ir",
            "-c",
            str(folder / "counted.ll"),
            "-o",
            str(target),
        ],
        cwd=sources,
        check=True,
    )
    return target, functions


def _number(name: str) -> int:
    return int(struct.unpack("<Q", hashlib.md5(name.encode()).digest()[:8])[0])


def report(path: Path, functions: dict[str, Counted], counters: bytes) -> str:
    """Return llvm-cov's report on the counters."""
    symbols = subprocess.run(["llvm-nm", str(path)], capture_output=True, text=True, check=True).stdout
    profile = []
    for at, symbol in re.findall(r"^(\w+) \w __profc_(\S+)$", symbols, re.MULTILINE):
        counted = functions[symbol]
        values = struct.unpack_from(f"={counted.count}Q", counters, int(at, 16))
        profile.append("\n".join(map(str, (counted.name, counted.form, counted.count, *values))) + "\n")
    assert len(profile) == len(functions)
    text, merged = path.with_suffix(".proftext"), path.with_suffix(".profdata")
    text.write_text("\n".join(profile))
    subprocess.run(["llvm-profdata", "merge", str(text), "-o", str(merged)], check=True)
    described = [f"-instr-profile={merged}", str(path)]
    shown = subprocess.run(
        ["llvm-cov", "show", "-show-branches=count", *described], capture_output=True, text=True, check=True
    )
    path.with_suffix(".txt").write_text(shown.stdout)
    done = subprocess.run(
        ["llvm-cov", "report", "-show-branch-summary", *described], capture_output=True, text=True, check=True
    )
    exported = subprocess.run(
        ["llvm-cov", "export", "-skip-expansions", *described], capture_output=True, text=True, check=True
    )
    return done.stdout + _summary(json.loads(exported.stdout)["data"][0])


def _summary(data: dict[str, Any]) -> str:
    """Return the covered branches, without the outcome of pointer_checks() that no caller can cause."""
    total = data["totals"]["branches"]
    checks = covered = 0
    for file in data["files"]:
        source = Path(file["filename"]).read_text()
        expected = pointer_checks(source)
        lines = source.splitlines()
        for first, start, last, end, taken, *dummy in file["branches"]:
            if first == last and (first, lines[first - 1][start - 1 : end - 1]) in expected:
                checks += 1
                covered += taken > 0
    counted, found = total["count"] - checks, total["covered"] - covered
    return (
        f"\nWithout {checks} failing checks of global functions' arguments, which the verifier requires: "
        f"{found} of {counted} branches ({100 * found / counted:.2f} %)\n"
    )


def pointer_checks(source: str) -> set[tuple[int, str]]:
    """Return line and text of each ``!argument`` in a global function."""
    found = set()
    for function in _GLOBAL.finditer(source):
        names = re.findall(r"\*(\w+)", function["arguments"])
        before = source.count("\n", 0, function.start("body")) + 1
        for number, line in enumerate(function["body"].split("\n"), before):
            found.update((number, f"!{name}") for name in names if re.search(rf"!{name}\b(?!->)", line))
    return found
