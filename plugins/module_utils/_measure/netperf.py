# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""netperf's servers and runs: which to start, in which order, and what the output means.

Private to this collection: may change in any release.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .._kernel import netns as _netns
from .environment import read_links, run_tool
from .probe import netns, parse_address, read_host_counters

PORT = 12865  # netperf's registered port
RUN_DIR = "/run/podnet/bench"
GRACE = 30  # seconds that a run may take beyond its own time, for connecting and the slowest of nodes

# Test -> netperf's output selectors (netperf manual, "Omni Output Selectors") -> name in a result
SELECTORS: dict[str, dict[str, str]] = {
    "tcp_rr": {
        "THROUGHPUT": "transactions",
        "MIN_LATENCY": "min_us",
        "MEAN_LATENCY": "mean_us",
        "P50_LATENCY": "p50_us",
        "P90_LATENCY": "p90_us",
        "P99_LATENCY": "p99_us",
        "MAX_LATENCY": "max_us",
    },
    "tcp_stream": {
        "THROUGHPUT": "mbits",
        "LOCAL_TRANSPORT_RETRANS": "retransmits",
    },
}
UNITS = {"tcp_rr": "Trans/s", "tcp_stream": "10^6bits/s"}


class NetperfError(Exception):
    """A run or a server that cannot be; the text says why and what to do."""


def find_tool(name: str) -> str:
    """Return the path of ``netperf`` or ``netserver``; raise NetperfError with the remedy."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin:/usr/sbin")
    if path:
        return path
    raise NetperfError(
        f"{name} is not on this node: install the package netperf. Debian 13 has it in its main component;"
        " where a release lacks it, look in the component non-free or build it from Debian's source package"
    )


# The schedule


@dataclass(frozen=True)
class Rung:
    """One way between two addresses: where netperf runs, and the address of its server.

    A rung without a name is called after the kind of the device that its packets leave by.
    """

    name: str | None
    target: str
    group: str
    netns: str | None = None

    def __str__(self) -> str:
        """Return the rung as messages name it."""
        return f"rung {self.group}/{self.name or self.target}"


@dataclass(frozen=True)
class Run:
    """One netperf run; runs of round 0 warm caches and buffers up and are discarded."""

    round: int
    test: str
    rung: Rung

    @property
    def warmup(self) -> bool:
        """Tell whether this run only warms up."""
        return self.round == 0


def schedule(rungs: Sequence[Rung], tests: Sequence[str], samples: int) -> list[Run]:
    """Return all runs in order: a round to warm up, then a round for each sample.

    Within a round the rungs follow each other test by test, so that slow drift of the machine hits
    all alike; every other round goes backwards, so that none always runs first.
    """
    return [
        Run(number, test, rung)
        for number in range(samples + 1)
        for test in tests
        for rung in (rungs if number % 2 == 0 else list(reversed(rungs)))
    ]


def command(netperf: str, run: Run, seconds: int, port: int) -> list[str]:
    """Return the netperf call of a run; ``-k`` prints a ``NAME=value`` line for each selector."""
    version = parse_address("rungs: target", run.rung.target).version
    return [
        netperf,
        f"-{version}",
        "-H",
        run.rung.target,
        "-p",
        str(port),
        "-t",
        run.test.upper(),
        "-l",
        str(seconds),
        "-P",
        "0",
        "--",
        "-k",
        ",".join([*SELECTORS[run.test], "THROUGHPUT_UNITS", "ELAPSED_TIME"]),
    ]


def parse_output(test: str, text: str) -> dict[str, float]:
    """Return the figures of a run from netperf's ``-k`` output.

    Latencies are in microseconds, streams in 10^6 bit/s. Raises NetperfError where a figure is
    missing, is no number, or has another unit.
    """
    values = dict(line.strip().split("=", 1) for line in text.splitlines() if "=" in line)
    unit = values.get("THROUGHPUT_UNITS")
    if unit != UNITS[test]:
        raise NetperfError(f"netperf's result is in '{unit}', not in '{UNITS[test]}': {text.strip()}")
    figures = {}
    for selector, name in {**SELECTORS[test], "ELAPSED_TIME": "elapsed"}.items():
        try:
            figures[name] = float(values[selector])
        except (KeyError, ValueError):
            raise NetperfError(
                f"netperf's result has no number for {selector} (is it older than 2.7?): {text.strip()}"
            ) from None
    if figures["transactions" if test == "tcp_rr" else "mbits"] <= 0:
        raise NetperfError(f"netperf measured nothing: {text.strip()}")
    return figures


def check_server(rung: Rung, port: int) -> None:
    """Raise NetperfError where nothing listens at the rung's target."""
    address = parse_address("rungs: target", rung.target)
    with netns(rung.netns):
        sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
    with contextlib.closing(sock):
        sock.settimeout(5)
        try:
            sock.connect((rung.target, port))
        except OSError as e:
            reason = e.strerror or "no answer in 5 s"
            raise NetperfError(
                f"{rung}: no netserver answers at {rung.target} port {port} from"
                f" {'namespace ' + rung.netns if rung.netns else 'the host'} ({reason});"
                " start it there with state=serving, and look at routes and firewall"
            ) from None


def describe_path(rung: Rung) -> dict[str, Any]:
    """Return the device that a rung's packets leave by, with its kind (``meta``, ``veth``, ...) and MTU.

    ``name`` is the rung's own or, where it has none, that kind.
    """
    with netns(rung.netns):
        route = json.loads(run_tool("ip", "-j", "route", "get", rung.target) or "[{}]")[0]
        devices = read_links()
    device = devices.get(route.get("dev"), {})
    name = rung.name or device.get("kind")
    if not name:
        raise NetperfError(
            f"{rung}: give it a name, its device '{route.get('dev')}' has no kind to be called after"
        )
    return {
        "group": rung.group,
        "name": name,
        "netns": rung.netns,
        "target": rung.target,
        "source": route.get("prefsrc"),
        "device": route.get("dev"),
        **device,
    }


def measure(netperf: str, run: Run, seconds: int, port: int) -> dict[str, Any]:
    """Make one run and return its figures and what the host's upper stack forwarded meanwhile.

    Ends after ``seconds`` + GRACE at the latest. Raises NetperfError where there is no result.
    """
    began = time.time()
    before = read_host_counters()
    with netns(run.rung.netns):
        process = subprocess.Popen(
            command(netperf, run, seconds, port),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    try:
        output = process.communicate(timeout=seconds + GRACE)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0]
        raise NetperfError(
            f"{run.rung}: {run.test} to {run.rung.target} did not end within {seconds + GRACE} s"
            f" (asked for {seconds} s). {output.strip()}"
        ) from None
    if process.returncode != 0:
        raise NetperfError(
            f"{run.rung}: {run.test} to {run.rung.target} failed, netperf said: {output.strip()}"
        )
    counted = read_host_counters().since(before)
    return {
        "round": run.round,
        "warmup": run.warmup,
        "group": run.rung.group,
        "rung": run.rung.name,
        "test": run.test,
        "start": round(began, 3),
        "forwarded": counted.forwarded,
        **parse_output(run.test, output),
    }


# The servers


@dataclass(frozen=True)
class Server:
    """A netserver in a namespace of this node, listening on one address only."""

    address: str
    netns: str | None = None
    port: int = PORT

    @property
    def name(self) -> str:
        """Return the name of its pid file and of the server in a diff."""
        return f"{self.netns or 'host'}-{self.address}-{self.port}"


@dataclass(frozen=True)
class Running:
    """A netserver that this module started: its process, and when that began (clock ticks since boot)."""

    pid: int
    start: int
    netns: str | None = None

    @property
    def reachable(self) -> bool:
        """Tell whether its namespace still has the name that it was started for."""
        if self.netns is None:
            return True
        try:
            named = os.stat(_netns.path_of(self.netns))
        except OSError:
            return False
        return os.path.samestat(named, os.stat(f"/proc/{self.pid}/ns/net"))


def plan_servers(running: Mapping[str, Running], wanted: Sequence[Server]) -> tuple[list[str], list[Server]]:
    """Return (names to stop, servers to start): what runs becomes exactly what is wanted."""
    names = {server.name for server in wanted}
    return sorted(set(running) - names), [server for server in wanted if server.name not in running]


def process_start(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot (proc(5), stat field 22); None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            # the name in brackets may hold blanks and brackets of its own
            fields = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def read_running(run_dir: str = RUN_DIR) -> dict[str, Running]:
    """Return our servers that still run; a pid that now belongs to another process is none of them.

    One whose namespace was removed, or made anew, serves nobody: it has a name that nobody wants.
    """
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(run_dir):
            if entry.endswith(".json"):
                with open(os.path.join(run_dir, entry), encoding="ascii") as f:
                    record = Running(**json.load(f))
                if process_start(record.pid) == record.start:
                    name = entry[: -len(".json")]
                    found[name if record.reachable else f"{name} in a namespace that is gone"] = record
    return found


def forget_dead(names: Iterable[str], run_dir: str = RUN_DIR) -> None:
    """Remove the records of all servers but these."""
    kept = {name + ".json" for name in names}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(run_dir):
            if entry.endswith(".json") and entry not in kept:
                os.unlink(os.path.join(run_dir, entry))


def _listening(pid: int) -> bool:
    """Tell whether a process has a TCP socket that listens (state 0A in /proc/net/tcp, proc(5))."""
    own = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                own.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}", encoding="ascii") as f:
            for line in f.readlines()[1:]:
                words = line.split()
                if words[3] == "0A" and f"socket:[{words[9]}]" in own:
                    return True
    return False


def start_server(netserver: str, server: Server, run_dir: str = RUN_DIR, timeout: float = 20.0) -> Running:
    """Start a netserver that outlives this process and wait until it listens.

    Raises NetperfError with its own words where it does not.
    """
    version = parse_address("servers: address", server.address).version
    os.makedirs(run_dir, mode=0o755, exist_ok=True)
    with tempfile.TemporaryFile() as words:
        with netns(server.netns):
            process = subprocess.Popen(
                [netserver, "-D", "-N", "-L", f"{server.address},{version}", "-p", str(server.port)],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while not _listening(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                _kill(process.pid)
                words.seek(0)
                said = words.read().decode(errors="replace").strip()
                raise NetperfError(
                    f"servers: netserver does not listen on {server.address} port {server.port} in"
                    f" {'namespace ' + server.netns if server.netns else 'the host'}"
                    f" (does it have this address, and is the port free?): {said or 'it said nothing'}"
                )
            time.sleep(0.05)
    running = Running(process.pid, process_start(process.pid) or 0, server.netns)
    path = os.path.join(run_dir, server.name + ".json")
    with open(path, "w", encoding="ascii") as f:
        json.dump(asdict(running), f)
    return running


def stop_server(name: str, running: Running, run_dir: str = RUN_DIR) -> None:
    """End a server of ours with its children, and forget it."""
    if process_start(running.pid) == running.start:
        _kill(running.pid)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(run_dir, name + ".json"))


def _kill(pid: int) -> None:
    """End the process group of a server: politely, then for sure."""
    for sig, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        try:
            os.killpg(pid, sig)
        except OSError as e:
            if e.errno == errno.ESRCH:
                return
            raise
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if process_start(pid) is None:
                return
            time.sleep(0.05)


def unique(kind: str, names: Iterable[str]) -> None:
    """Raise NetperfError where a name is given twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise NetperfError(f"{kind}: '{name}' is given twice")
        seen.add(name)
