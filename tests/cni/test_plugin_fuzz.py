# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Random environments, standard inputs and responses for the sanitized plugin, against a model of it.

PODNET_FUZZ (200, about 4 s) is the number of runs, PODNET_SEED their seed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from tests.cni.plugin import ERROR, LIMIT, RESULT, Agent, Build, Outcome, read_request, response, run

COUNT = int(os.environ.get("PODNET_FUZZ") or 200)
SEED = int(os.environ.get("PODNET_SEED") or 1)
COMMANDS = ["ADD", "DEL", "CHECK", "GC", "STATUS"]
NAMES = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"]
TOKENS = [b"{", b"}", b'"', b"\\", b"\n", b"\0", b" ", b"0", b"255", b"-", b"[", b"]", b'\\"', b"\xff"]


@dataclass
class Case:
    """Input of one run."""

    command: bytes
    env: dict[str, bytes]
    given: bytes
    answer: bytes
    parts: int
    reads: bool
    requests: list[bytes] = field(default_factory=list)

    def request(self) -> bytes:
        variables = {"CNI_COMMAND": self.command, **self.env}
        ordered = [name for name in ("CNI_COMMAND", *NAMES) if name in variables]
        return (
            b"".join(b"%b=%b\0" % (name.encode(), variables[name]) for name in ordered) + b"\0" + self.given
        )

    def respond(self, connection: socket.socket) -> None:
        if self.reads:
            self.requests.append(read_request(connection))
        size = len(self.answer) // self.parts + 1
        for start in range(0, len(self.answer), size):
            connection.sendall(self.answer[start : start + size])

    def valid_response(self) -> bool:
        head, newline, body = self.answer.partition(b"\n")
        if not newline or not re.fullmatch(rb"[0-9]{1,3}", head) or int(head) > 255:
            return False
        return is_object(body) if body else int(head) == 0 and self.command != b"ADD"

    def code(self) -> int | None:
        """Return the code of the error to report, None if the response is to be printed."""
        if self.command.decode("latin-1") not in COMMANDS:
            return 4
        if any(len(value) > 16384 for value in self.env.values()):
            return 4
        if len(self.request()) > LIMIT:
            return 6
        if self.reads and self.valid_response():
            return None
        return 50 if self.command == b"STATUS" else 11


def is_object(body: bytes) -> bool:
    """Return whether the braces outside of strings are those of one object."""
    braces = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", body, flags=re.DOTALL)
    if b'"' in braces or not braces.startswith(b"{"):
        return False
    depths = itertools.accumulate((char == ord("{")) - (char == ord("}")) for char in braces)
    end = next((index for index, depth in enumerate(depths) if depth == 0), None)
    return end is not None and not braces[end + 1 :].strip(b" \n")


def text(rng: random.Random, length: int) -> bytes:
    return bytes(rng.choices(range(1, 256), k=length))


def length(rng: random.Random, limit: int) -> int:
    """Return a length that is mostly small, sometimes near the limit."""
    return rng.choice([0, 1, rng.randrange(300), rng.randrange(300), limit - rng.randrange(-2, 300)])


def mutated(rng: random.Random, data: bytes) -> bytes:
    for _time in range(rng.choice([0, 0, 1, 1, 2, 8])):
        start = rng.randrange(len(data) + 1)
        end = rng.choice([start, start, start + 1, rng.randrange(start, len(data) + 1)])
        data = data[:start] + rng.choice([b"", *TOKENS, data[start:end] * 2]) + data[end:]
    return data


def random_case(rng: random.Random) -> Case:
    command = rng.choice(COMMANDS).encode()
    if rng.random() < 0.1:
        command = mutated(rng, command).replace(b"\0", b"") or text(rng, 1 + length(rng, 16384))
    limit = rng.choice([1000, 1000, 16384])
    answer = rng.choice([response(RESULT), response(ERROR, rng.randrange(300)), b"0\n"])
    return Case(
        command=command,
        env={name: text(rng, length(rng, limit)) for name in NAMES if rng.random() < 0.7},
        given=rng.randbytes(length(rng, rng.choice([1000] * 9 + [LIMIT - 60]))),
        answer=mutated(rng, answer),
        parts=rng.choice([1, 1, 2, 5]),
        reads=rng.random() < 0.95,
    )


def check(case: Case, outcome: Outcome) -> None:
    code = case.code()
    if code is None:
        status, _newline, body = case.answer.partition(b"\n")
        assert (outcome.status, outcome.out, outcome.err) == (int(status), body, b"")
        assert case.requests == [case.request()]
    else:
        assert outcome.error()["code"] == code
        assert outcome.err == b""
        assert code > 6 or not case.requests


def test_random_input(sanitized: Build, path: Path) -> None:
    rng = random.Random(SEED)
    printed = 0
    for number in range(COUNT):
        case = random_case(rng)
        with Agent(path, case.respond):
            env = {**case.env, "CNI_COMMAND": case.command}
            outcome = run(sanitized, path, None, case.given, env)
        try:
            check(case, outcome)
        except (AssertionError, json.JSONDecodeError) as error:
            raise AssertionError(f"run {number} of seed {SEED}: {case} -> {outcome}") from error
        printed += case.code() is None
    assert 0 < printed < COUNT
