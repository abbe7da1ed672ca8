# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""netperf: order of runs, parsing of the output, and planning of servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._measure import netperf
from ansible_collections.podnet.datapath.plugins.module_utils._measure.netperf import (
    NetperfError,
    Run,
    Rung,
    Running,
    Server,
    parse_output,
    plan_servers,
    schedule,
)

# printed by netperf 2.7.0 of Debian 12
RR = """\
THROUGHPUT=15069.60
MIN_LATENCY=22
MEAN_LATENCY=66.30
P50_LATENCY=66
P90_LATENCY=75
P99_LATENCY=95
MAX_LATENCY=2455
THROUGHPUT_UNITS=Trans/s
ELAPSED_TIME=1.00
"""
STREAM = """\
THROUGHPUT=5555.12
LOCAL_TRANSPORT_RETRANS=5546
THROUGHPUT_UNITS=10^6bits/s
ELAPSED_TIME=1.00
"""


def test_parse_output_of_tcp_rr() -> None:
    assert parse_output("tcp_rr", RR) == {
        "transactions": 15069.6,
        "min_us": 22,
        "mean_us": 66.3,
        "p50_us": 66,
        "p90_us": 75,
        "p99_us": 95,
        "max_us": 2455,
        "elapsed": 1,
    }


def test_parse_output_of_tcp_stream() -> None:
    assert parse_output("tcp_stream", STREAM) == {"mbits": 5555.12, "retransmits": 5546, "elapsed": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RR.replace("Trans/s", "10^6bits/s"), "unit '10\\^6bits/s' instead of 'Trans/s'"),
        (RR.replace("P99_LATENCY=95\n", ""), "no number for P99_LATENCY; netperf 2.7"),
        (RR.replace("=22", "=-"), "no number for MIN_LATENCY"),
        (RR.replace("15069.60", "0.00"), "throughput of 0"),
        ("", "unit 'None'"),
    ],
)
def test_parse_output_rejects_invalid_output(text: str, message: str) -> None:
    with pytest.raises(NetperfError, match=message):
        parse_output("tcp_rr", text)


RUNGS = [Rung(name, "10.0.0.1", "wire") for name in ("host", "veth_stack", "veth_bpf", "meta")]
TESTS = ["tcp_rr", "tcp_stream"]


@given(st.integers(1, 4), st.integers(1, 2), st.integers(1, 6))
def test_schedule_has_a_warmup_and_all_samples_of_each_rung(rungs: int, tests: int, samples: int) -> None:
    runs = schedule(RUNGS[:rungs], TESTS[:tests], samples)
    count = Counter((run.test, run.rung.name, run.warmup) for run in runs)
    assert set(count.values()) == ({1, samples} if samples > 1 else {1})
    assert len(runs) == rungs * tests * (samples + 1)
    assert [run.round for run in runs] == sorted(run.round for run in runs)


def test_schedule_reverses_odd_rounds() -> None:
    names = [run.rung.name for run in schedule(RUNGS, ["tcp_rr"], 1)]
    assert names == ["host", "veth_stack", "veth_bpf", "meta", "meta", "veth_bpf", "veth_stack", "host"]


def test_command_has_all_options() -> None:
    words = netperf.command("/usr/bin/netperf", Run(1, "tcp_rr", Rung("meta", "fd00::1", "wire")), 10, 12865)
    assert " ".join(words).startswith("/usr/bin/netperf -6 -H fd00::1 -p 12865 -t TCP_RR -l 10 -P 0 -- -k ")
    assert {"MIN_LATENCY", "P90_LATENCY", "P99_LATENCY", "THROUGHPUT"} <= set(words[-1].split(","))


def test_find_tool_names_the_package() -> None:
    with pytest.raises(NetperfError, match=r"netperf-nowhere is not installed.*component non-free"):
        netperf.find_tool("netperf-nowhere")


servers = st.builds(
    Server,
    address=st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]),
    netns=st.sampled_from([None, "pod1", "pod2"]),
)


@given(st.lists(servers, unique=True), st.lists(servers, unique=True))
def test_plan_servers_results_in_exactly_the_desired_servers(
    before: list[Server], desired: list[Server]
) -> None:
    running = {server.name: Running(1, 1) for server in before}
    to_stop, to_start = plan_servers(running, desired)
    after = (set(running) - set(to_stop)) | {server.name for server in to_start}
    assert after == {server.name for server in desired}
    assert not set(to_stop) & {server.name for server in desired}
    assert not {server.name for server in to_start} & set(running)


def test_read_running_excludes_exited_and_reused_process_ids(tmp_path) -> None:
    own = netperf.process_start(os.getpid())
    assert own
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    records = {
        "host-10.0.0.1-12865": {"pid": os.getpid(), "start": own},
        "host-10.0.0.2-12865": {"pid": os.getpid(), "start": own - 1},
        "host-10.0.0.3-12865": {"pid": child.pid, "start": own},
    }
    for name, record in records.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert netperf.read_running(str(tmp_path)) == {"host-10.0.0.1-12865": Running(os.getpid(), own)}
    assert netperf.read_running(str(tmp_path / "none")) == {}


def test_unique_rejects_duplicates() -> None:
    with pytest.raises(NetperfError, match="rungs: 'rung wire/a' is duplicated"):
        netperf.unique("rungs", ["rung wire/a", "rung wire/b", "rung wire/a"])
