# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The call stack of the programs fits each kernel.

Linux 6.1 rounds each function's frame to 32 bytes, newer kernels to 16, so programs that load here may not
load there (kernel/bpf/verifier.c, check_max_stack_depth()).
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.checkout import PROGRAMS

MAX_STACK, ROUNDED = 512, 32
PSEUDO_CALL = "85 10"  # a call of a function of the object, not of a helper


def _lines(*words: str) -> list[str]:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


def _functions(path: Path) -> dict[tuple[str, int], str]:
    """Return the names of all functions by section and offset."""
    symbol = re.compile(r"([0-9a-f]{16}) .{6}F (\S+)\s+[0-9a-f]+ (\S+)")
    found = filter(None, map(symbol.match, _lines("llvm-objdump", "-t", str(path))))
    return {(one[2], int(one[1], 16)): one[3] for one in found}


def _frames_and_calls(path: Path) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Return the stack of each function in bytes, and the functions that it calls."""
    functions = _functions(path)
    frames: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    section = name = ""
    call: tuple[int, str] | None = None  # offset in the section of a relocation, function without one
    for line in _lines("llvm-objdump", "-d", "-r", str(path)):
        if heading := re.match(r"Disassembly of section (\S+):", line):
            section = heading[1]
        elif relocation := re.search(r"R_BPF_64_32\s+(\S+)", line):
            if call:
                calls[name].discard(call[1])
                calls[name].add(functions.get((relocation[1], call[0]), relocation[1]))
        elif instruction := re.match(r"\s+(\d+):\s+((?:[0-9a-f]{2}\s){8})\s*(.*)", line):
            at, call = int(instruction[1]), None
            name = functions.get((section, at * 8), name)
            frames.setdefault(name, 1)
            calls.setdefault(name, set())
            if used := re.search(r"r10 - (\d+)|r\d+ \+= -(\d+)$", instruction[3]):
                size = int(used[1] or used[2])
                frames[name] = max(frames[name], size if size <= MAX_STACK else 0)
            if instruction[2].startswith(PSEUDO_CALL):
                offset = int.from_bytes(bytes.fromhex(instruction[2])[4:8], "little", signed=True)
                call = ((offset + 1) * 8, functions.get((section, (at + 1 + offset) * 8), ""))
                calls[name].add(call[1])
    return frames, calls


def _deepest(name: str, frames: dict[str, int], calls: dict[str, set[str]]) -> list[tuple[str, int]]:
    """Return the chain of calls that needs the most stack, with the rounded frames."""
    chains = [_deepest(one, frames, calls) for one in sorted(calls[name]) if one in frames]
    deepest = max(chains, key=lambda chain: sum(size for _name, size in chain), default=[])
    return [(name, -(-frames[name] // ROUNDED) * ROUNDED), *deepest]


@pytest.mark.parametrize("program", ["pod_egress", "host_ingress", "pod_ingress"])
def test_call_stack(tmp_path: Path, program: str) -> None:
    subprocess.run(["make", "-s", "-C", str(PROGRAMS), f"OUT={tmp_path}"], check=True)
    chain = _deepest(program, *_frames_and_calls(tmp_path / "datapath.o"))
    assert len(chain) >= 3  # else the calls were not found
    assert sum(size for _name, size in chain) <= MAX_STACK, chain
