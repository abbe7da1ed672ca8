# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""netperf: manage netserver processes, schedule and execute runs, parse the output.

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

from .._core.plan import Problem
from .._kernel import netns as _netns
from .environment import read_links, run_tool
from .probe import netns, parse_address, read_host_counters

PORT = 12865  # netperf's registered port
RUN_DIR = "/run/podnet/bench"
GRACE = 30  # seconds added to the duration of a run before it times out, for connection setup and slow nodes

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


class NetperfError(Problem):
    """An invalid or failed netperf run, or a netserver that does not start."""


def find_tool(name: str) -> str:
    """Return the path of ``netperf`` or ``netserver``; raise NetperfError if it is not installed."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin:/usr/sbin")
    if path:
        return path
    raise NetperfError(
        f"{name} is not installed; install the package netperf. Debian 13 has it in the component main;"
        " in other releases, use the component non-free or build Debian's source package"
    )


# The schedule


@dataclass(frozen=True)
class Rung:
    """One path to measure: the namespace that netperf runs in, and the address of its netserver.

    The name defaults to the kind of the egress device.
    """

    name: str | None
    target: str
    group: str
    netns: str | None = None

    def __str__(self) -> str:
        """Return the name of the rung for messages."""
        return f"rung {self.group}/{self.name or self.target}"


@dataclass(frozen=True)
class Run:
    """One netperf run. Round 0 warms up caches and buffers; its results are discarded."""

    round: int
    test: str
    rung: Rung

    @property
    def warmup(self) -> bool:
        """Return whether this run is a warm-up."""
        return self.round == 0


def schedule(rungs: Sequence[Rung], tests: Sequence[str], samples: int) -> list[Run]:
    """Return all runs in order: a warm-up round, then a round for each sample.

    Each round runs each test on all rungs in turn, so that slow drift of the machine affects all
    rungs equally. Odd rounds reverse the order of the rungs, so that none always runs first.
    """
    return [
        Run(number, test, rung)
        for number in range(samples + 1)
        for test in tests
        for rung in (rungs if number % 2 == 0 else list(reversed(rungs)))
    ]


def command(netperf: str, run: Run, seconds: int, port: int) -> list[str]:
    """Return the netperf command line of a run; ``-k`` prints a ``NAME=value`` line for each selector."""
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

    Latencies are in microseconds, throughput in 10^6 bit/s. Raises NetperfError if a figure is
    missing or not a number, or if the unit is unexpected.
    """
    values = dict(line.strip().split("=", 1) for line in text.splitlines() if "=" in line)
    unit = values.get("THROUGHPUT_UNITS")
    if unit != UNITS[test]:
        raise NetperfError(f"netperf printed the unit '{unit}' instead of '{UNITS[test]}': {text.strip()}")
    figures = {}
    for selector, name in {**SELECTORS[test], "ELAPSED_TIME": "elapsed"}.items():
        try:
            figures[name] = float(values[selector])
        except (KeyError, ValueError):
            raise NetperfError(
                f"netperf printed no number for {selector}; netperf 2.7 or newer is required: {text.strip()}"
            ) from None
    if figures["transactions" if test == "tcp_rr" else "mbits"] <= 0:
        raise NetperfError(f"netperf measured a throughput of 0: {text.strip()}")
    return figures


def check_server(rung: Rung, port: int) -> None:
    """Raise NetperfError if no netserver accepts connections at the rung's target."""
    address = parse_address("rungs: target", rung.target)
    with netns(rung.netns):
        sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
    with contextlib.closing(sock):
        sock.settimeout(5)
        try:
            sock.connect((rung.target, port))
        except OSError as e:
            reason = e.strerror or "timeout after 5 s"
            raise NetperfError(
                f"{rung}: cannot connect to netserver at {rung.target} port {port} from"
                f" {'namespace ' + rung.netns if rung.netns else 'the host'} ({reason});"
                " start it with state=serving, and check routes and firewall"
            ) from None


def describe_path(rung: Rung) -> dict[str, Any]:
    """Return the egress device of a rung, with its kind (``meta``, ``veth``, ...) and MTU.

    ``name`` defaults to that kind.
    """
    with netns(rung.netns):
        route = json.loads(run_tool("ip", "-j", "route", "get", rung.target) or "[{}]")[0]
        devices = read_links()
    device = devices.get(route.get("dev"), {})
    name = rung.name or device.get("kind")
    if not name:
        raise NetperfError(
            f"{rung}: name is required because the device '{route.get('dev')}' has no kind; set name"
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
    """Execute one run and return its figures and the number of packets that the host forwarded.

    Times out after ``seconds`` + GRACE. Raises NetperfError if netperf fails or prints no result.
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
            f"{run.rung}: {run.test} to {run.rung.target} timed out after {seconds + GRACE} s"
            f" (seconds: {seconds}). {output.strip()}"
        ) from None
    if process.returncode != 0:
        raise NetperfError(
            f"{run.rung}: {run.test} to {run.rung.target} failed; netperf printed: {output.strip()}"
        )
    delta = read_host_counters().since(before)
    return {
        "round": run.round,
        "warmup": run.warmup,
        "group": run.rung.group,
        "rung": run.rung.name,
        "test": run.test,
        "start": round(began, 3),
        "forwarded": delta.forwarded,
        **parse_output(run.test, output),
    }


# netserver processes


@dataclass(frozen=True)
class Server:
    """A netserver that listens on one address in a namespace of this node."""

    address: str
    netns: str | None = None
    port: int = PORT

    @property
    def name(self) -> str:
        """Return the name of the server, used in diffs and for its record file."""
        return f"{self.netns or 'host'}-{self.address}-{self.port}"


@dataclass(frozen=True)
class Running:
    """A managed netserver: process ID and start time (clock ticks since boot)."""

    pid: int
    start: int
    netns: str | None = None

    @property
    def reachable(self) -> bool:
        """Return whether the namespace ``netns`` is still the one that the process runs in."""
        if self.netns is None:
            return True
        try:
            named = os.stat(_netns.path_of(self.netns))
        except OSError:
            return False
        return os.path.samestat(named, os.stat(f"/proc/{self.pid}/ns/net"))


def plan_servers(running: Mapping[str, Running], desired: Sequence[Server]) -> tuple[list[str], list[Server]]:
    """Return (names to stop, servers to start), so that exactly the desired servers run."""
    names = {server.name for server in desired}
    return sorted(set(running) - names), [server for server in desired if server.name not in running]


def process_start(pid: int) -> int | None:
    """Return a start time in clock ticks since boot (proc(5), field 22); None if it exited."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            # The name in parentheses may contain spaces and parentheses.
            fields = f.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])


def read_running(run_dir: str = RUN_DIR) -> dict[str, Running]:
    """Return the managed servers that still run; reused process IDs are excluded.

    A server whose namespace was removed or recreated gets a name that no desired server has.
    """
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(run_dir):
            if entry.endswith(".json"):
                with open(os.path.join(run_dir, entry), encoding="ascii") as f:
                    record = Running(**json.load(f))
                if process_start(record.pid) == record.start:
                    name = entry[: -len(".json")]
                    found[name if record.reachable else f"{name} in a removed namespace"] = record
    return found


def forget_dead(names: Iterable[str], run_dir: str = RUN_DIR) -> None:
    """Remove the record files of all servers except ``names``."""
    kept = {name + ".json" for name in names}
    with contextlib.suppress(FileNotFoundError):
        for entry in os.listdir(run_dir):
            if entry.endswith(".json") and entry not in kept:
                os.unlink(os.path.join(run_dir, entry))


def _listening(pid: int) -> bool:
    """Return whether a process has a listening TCP socket (state 0A in /proc/net/tcp, proc(5))."""
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

    Raises NetperfError with the output of netserver if it does not listen within ``timeout`` seconds.
    """
    version = parse_address("servers: address", server.address).version
    os.makedirs(run_dir, mode=0o755, exist_ok=True)
    with tempfile.TemporaryFile() as output:
        with netns(server.netns):
            process = subprocess.Popen(
                [netserver, "-D", "-N", "-L", f"{server.address},{version}", "-p", str(server.port)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while not _listening(process.pid):
            if process.poll() is not None or time.monotonic() > deadline:
                _kill(process.pid)
                output.seek(0)
                text = output.read().decode(errors="replace").strip()
                raise NetperfError(
                    f"servers: netserver does not listen on {server.address} port {server.port} in"
                    f" {'namespace ' + server.netns if server.netns else 'the host'}"
                    f"; check the address and that the port is free: {text or 'no output'}"
                )
            time.sleep(0.05)
    running = Running(process.pid, process_start(process.pid) or 0, server.netns)
    path = os.path.join(run_dir, server.name + ".json")
    with open(path, "w", encoding="ascii") as f:
        json.dump(asdict(running), f)
    return running


def stop_server(name: str, running: Running, run_dir: str = RUN_DIR) -> None:
    """Stop a managed server and its children, and remove its record file."""
    if process_start(running.pid) == running.start:
        _kill(running.pid)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(run_dir, name + ".json"))


def _kill(pid: int) -> None:
    """Send SIGTERM to the process group of a server, then SIGKILL."""
    for sig, timeout in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
        try:
            os.killpg(pid, sig)
        except OSError as e:
            if e.errno == errno.ESRCH:
                return
            raise
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if process_start(pid) is None:
                return
            time.sleep(0.05)


def unique(kind: str, names: Iterable[str]) -> None:
    """Raise NetperfError if a name is duplicated."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise NetperfError(f"{kind}: '{name}' is duplicated; remove one")
        seen.add(name)
