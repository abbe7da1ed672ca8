# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""netperf_ladder with netperf between namespaces: servers, runs and their results."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lablib import debian

SERVERS = Path("/run/podnet/bench")
# the component of netperf where it is not main
COMPONENT = {"bookworm": "non-free"}


def fetch(folder: Path) -> None:
    """Download and unpack netperf of this Debian release, even if its component is not enabled."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    for name in ("lists/partial", "archives/partial", "empty"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    lines = debian.sources_lines(
        debian.machine_mirror(), suite, [COMPONENT.get(suite, "main")], backports=False
    )
    (folder / "sources.list").write_text(lines[0] + "\n")
    apt = [
        "apt-get",
        "-q",
        *("-o", f"Dir::Etc::SourceList={folder}/sources.list", "-o", f"Dir::Etc::SourceParts={folder}/empty"),
        *("-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}"),
        *("-o", "APT::Sandbox::User=root", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="),
    ]
    for arguments in (["update"], ["download", "netperf"]):
        done = subprocess.run([*apt, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.fail(f"apt-get {arguments[0]} for netperf: {done.stdout}{done.stderr}")
    package = next(folder.glob("netperf_*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, folder / "root"], check=True)


@pytest.fixture(scope="module", autouse=True)
def netperf() -> Iterator[None]:
    """Put netperf on the PATH, from the machine or from the cache."""
    if shutil.which("netperf"):
        yield
        return
    cache = (
        os.environ.get("PODNET_CACHE")
        or f"{os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'}/podnet-datapath"
    )
    folder = Path(cache) / "netperf"
    if not (folder / "root/usr/bin/netperf").exists():
        fetch(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}/root/usr/bin:{os.environ['PATH']}")
        yield


@pytest.fixture
def pods(namespaces: Any, run_module: Any) -> Iterator[tuple[str, str]]:
    """Yield two namespaces connected by a veth; stop the servers afterwards."""
    running = run_module("netperf_ladder", {"state": "stopped"}, check=True)
    assert not running["changed"], "a benchmark runs on this machine"
    pod1, pod2 = namespaces("pod1"), namespaces("pod2")
    namespaces.ip(pod1, f"link add eth0 type veth peer name eth0 netns {pod2}")
    for number, pod in ((1, pod1), (2, pod2)):
        namespaces.ip(
            pod,
            f"address add 10.9.0.{number}/24 dev eth0",
            f"address add fd09::{number}/64 dev eth0 nodad",
            "link set eth0 up",
        )
    yield pod1, pod2
    run_module("netperf_ladder", {"state": "stopped"})


def listening(netns: str) -> set[str]:
    """Return the addresses on which netserver listens in a namespace."""
    words = ["nsenter", f"--net=/run/netns/{netns}", "ss", "-Hltn", "sport = 12865"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[3].rpartition(":")[0].strip("[]") for line in lines}


def test_servers_match_declaration(run_module: Any, pods: tuple[str, str]) -> None:
    both = {
        "state": "serving",
        "servers": [{"netns": pods[1], "address": "10.9.0.2"}, {"netns": pods[1], "address": "fd09::2"}],
    }
    foretold = run_module("netperf_ladder", both, check=True)
    assert foretold["changed"] and listening(pods[1]) == set()
    made = run_module("netperf_ladder", both)
    assert made["changed"] and made["diff"] == foretold["diff"]
    assert listening(pods[1]) == {"10.9.0.2", "fd09::2"}
    assert not run_module("netperf_ladder", both)["changed"]

    # an invalid server leaves the others running
    servers = [both["servers"][0], {"netns": pods[1], "address": "10.9.0.99"}]
    failed = run_module("netperf_ladder", {"state": "serving", "servers": servers}, fails=True)
    assert "netserver does not listen on 10.9.0.99 port 12865 in namespace" in failed["msg"]
    assert listening(pods[1]) == {"10.9.0.2", "fd09::2"}

    assert run_module("netperf_ladder", {"state": "serving", "servers": both["servers"][:1]})["changed"]
    assert listening(pods[1]) == {"10.9.0.2"}
    assert run_module("netperf_ladder", {"state": "stopped"})["changed"]
    assert listening(pods[1]) == set()
    assert list(SERVERS.iterdir()) == []
    assert not run_module("netperf_ladder", {"state": "stopped"})["changed"]


def test_recreated_namespace_gets_a_new_server(
    run_module: Any, pods: tuple[str, str], namespaces: Any
) -> None:
    serving = {"state": "serving", "servers": [{"netns": pods[1], "address": "127.0.0.1"}]}
    run_module("netperf_ladder", serving)
    subprocess.run(["ip", "netns", "delete", pods[1]], check=True)
    subprocess.run(["ip", "netns", "add", pods[1]], check=True)
    namespaces.ip(pods[1], "link set lo up")
    again = run_module("netperf_ladder", serving)
    assert again["diff"]["before"] == f"{pods[1]}-127.0.0.1-12865 in a removed namespace\n"
    assert listening(pods[1]) == {"127.0.0.1"}
    assert not run_module("netperf_ladder", serving)["changed"]


def test_foreign_server_is_kept(run_module: Any, pods: tuple[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("/")
        other = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{pods[1]}", "netserver", "-D", "-4", "-p", "12866"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    try:
        run_module(
            "netperf_ladder", {"state": "serving", "servers": [{"netns": pods[1], "address": "10.9.0.2"}]}
        )
        run_module("netperf_ladder", {"state": "stopped"})
        assert other.poll() is None
    finally:
        other.terminate()
        other.wait()


def test_every_scheduled_run_has_results(run_module: Any, pods: tuple[str, str]) -> None:
    run_module(
        "netperf_ladder",
        {
            "state": "serving",
            "servers": [{"netns": pods[1], "address": a} for a in ("10.9.0.2", "fd09::2")],
        },
    )
    ladder = {
        "rungs": [
            {"name": "four", "netns": pods[0], "target": "10.9.0.2"},
            # named after its device's kind
            {"netns": pods[0], "target": "fd09::2"},
        ],
        "samples": 1,
        "seconds": 1,
        "devices": ["lo"],
    }
    assert run_module("netperf_ladder", ladder, check=True)["runs"] == []
    result = run_module("netperf_ladder", ladder)
    assert not result["changed"]
    assert [(run["round"], run["test"], run["rung"]) for run in result["runs"]] == [
        (0, "tcp_rr", "four"),
        (0, "tcp_rr", "veth"),
        (0, "tcp_stream", "four"),
        (0, "tcp_stream", "veth"),
        (1, "tcp_rr", "veth"),
        (1, "tcp_rr", "four"),
        (1, "tcp_stream", "veth"),
        (1, "tcp_stream", "four"),
    ]
    for run in result["runs"]:
        assert 0.5 < run["elapsed"] < 5
        if run["test"] == "tcp_rr":
            assert run["transactions"] > 10
            assert 0 < run["min_us"] <= run["p50_us"] <= run["p90_us"] <= run["p99_us"] <= run["max_us"]
            # transactions are sequential, so their mean time is the inverse of the rate
            assert run["mean_us"] == pytest.approx(1e6 / run["transactions"], rel=0.3)
        else:
            assert run["mbits"] > 1
    assert [(path["name"], path["device"], path["kind"], path["source"]) for path in result["paths"]] == [
        ("four", "eth0", "veth", "10.9.0.1"),
        ("veth", "eth0", "veth", "fd09::1"),
    ]
    assert result["version"].startswith("2.7")
    assert result["environment"]["nics"]["lo"]["mtu"] > 0


@pytest.mark.parametrize(
    ("rung", "message"),
    [
        (
            {"name": "a", "target": "10.9.0.2"},
            "rung wire/a: cannot connect to netserver at 10.9.0.2 port 12865 from namespace",
        ),
        ({"name": "a", "target": "pod2"}, "rungs: target: 'pod2' is not an IPv4 or IPv6 address"),
    ],
)
def test_missing_server_is_reported_before_the_first_run(
    run_module: Any, pods: tuple[str, str], rung: dict[str, str], message: str
) -> None:
    result = run_module("netperf_ladder", {"rungs": [{**rung, "netns": pods[0]}]}, fails=True)
    assert message in result["msg"]
    assert result["runs"] == []


def test_missing_netperf_is_reported_with_package(
    run_module: Any, pods: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if Path("/usr/bin/netperf").exists():
        pytest.fail("netperf is installed on this machine, so its absence cannot be tested")
    monkeypatch.setenv("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
    result = run_module("netperf_ladder", {"rungs": [{"name": "a", "target": "10.9.0.2"}]}, fails=True)
    assert "install the package netperf" in result["msg"] and "non-free" in result["msg"]
