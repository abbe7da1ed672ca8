# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: net changes, and no change without a record."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.files import bytes_of, digest, read_file
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Change, Plan, Problem
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal, revert
from ansible_collections.podnet.datapath.plugins.module_utils._rollback.net_changes import (
    Key,
    NetChange,
    NetChanges,
    net_changes,
)
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl.revert import Sysctls

MTU = Key("nics", "eth0", "mtu")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    monkeypatch.setattr(journal, "_LOCK_TIMEOUT", 0.5)


def mtu(before: int, after: int) -> Plan:
    return Plan("nics", [Change("mtu", before, after, "eth0")])


def done(*plans: Plan, observe: journal.Observe | None = None) -> NetChanges:
    for plan in plans:
        with journal.transaction(plan, observe):
            pass
    return net_changes(journal.read())


def test_net_change_is_first_before_and_last_after() -> None:
    assert done(mtu(1500, 4000), mtu(4000, 8264)).settings == {MTU: NetChange(1500, 8264)}


def test_a_restored_setting_has_no_net_change() -> None:
    assert not done(mtu(1500, 4000), mtu(4000, 1500))
    assert done(mtu(1600, 9000)).settings == {MTU: NetChange(1600, 9000)}


def test_scopes_and_subsystems_are_distinct() -> None:
    sysctl = [Change("net.core.a", "1", "2"), Change("net.core.a", "3", "2", "pod")]
    assert done(Plan("sysctls", sysctl), Plan("x", sysctl[:1])).settings == {
        Key("sysctls", "", "net.core.a"): NetChange("1", "2"),
        Key("sysctls", "pod", "net.core.a"): NetChange("3", "2"),
        Key("x", "", "net.core.a"): NetChange("1", "2"),
    }


def test_observed_changes_count() -> None:
    found: list[Change] = []
    with journal.transaction(mtu(1500, 9000), lambda: found):
        found += [Change("mtu", 1500, 9000, "eth0"), Change("features.rx-lro", True, False, "eth0")]
    assert net_changes(journal.read()).settings == {
        MTU: NetChange(1500, 9000),
        Key("nics", "eth0", "features.rx-lro"): NetChange(True, False),
    }


def test_drift_since_the_plan_is_refused(tmp_path: Path) -> None:
    found = [Change("mtu", 1500, 4000, "eth0")]
    with pytest.raises(Problem, match="eth0: mtu changed while this was planned"):
        done(mtu(1500, 9000), observe=lambda: found)
    (tmp_path / "file").write_text("theirs")
    with pytest.raises(Problem, match=f"{tmp_path}/file changed while this was planned"):
        done(Plan("nics", files={str(tmp_path / "file"): (None, "ours")}))
    # A setting outside the plan may change, as it may depend on another one.
    found = [Change("coalesce.rx-usecs", 8, 9, "eth0")]
    assert done(mtu(1500, 9000), observe=lambda: found).settings


@pytest.mark.parametrize("happened", [False, True])
def test_an_interrupted_second_change_is_managed_whether_it_happened_or_not(happened: bool) -> None:
    done(mtu(1500, 4000))
    child = os.fork()
    if not child:
        with journal.transaction(mtu(4000, 9000)):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    nets = net_changes(journal.read())
    assert nets.settings == {MTU: NetChange(1500, 9000, frozenset({4000}))}
    now = 9000 if happened else 4000
    restored = revert.plan("nics", nets, {MTU: now}, {}, force=False)
    assert restored.settings == {MTU: Change("mtu", now, 1500, "eth0")}
    assert revert.plan("nics", nets, {MTU: 1400}, {}, force=False).drift
    assert done(mtu(now, 8264)).settings == {MTU: NetChange(1500, 8264)}


def test_interrupted_changes_of_a_file_and_back_to_the_original_value(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    begin = {"run": "1", "subsystem": "nics", "changes": [], "files": {path: {"before": "a", "after": "B"}}}
    cut = {"run": "2", "subsystem": "nics", "changes": [], "files": {path: {"before": "b", "after": "C"}}}
    nets = net_changes([begin, {"run": "1", "end": "done"}, cut])
    assert nets.files == {Key("nics", "", path): NetChange("a", "C", frozenset({"B"}))}
    records = [
        {
            "run": str(n),
            "subsystem": "nics",
            "files": {},
            "changes": [{"scope": "eth0", "name": "mtu", **change}],
        }
        for n, change in enumerate(({"before": 1500, "after": 9000}, {"before": 9000, "after": 1500}))
    ]
    ends = [{"run": "0", "end": "done", "changes": records[0]["changes"]}]
    assert net_changes([*records, *ends]).settings == {MTU: NetChange(1500, 1500, frozenset({9000}))}


def test_a_failed_change_that_was_restored_has_no_net_change() -> None:
    with pytest.raises(KeyError), journal.transaction(mtu(1500, 9000), list):
        raise KeyError
    assert journal.read()[-1]["end"] == "restored" and not net_changes(journal.read())


def test_a_failed_change_without_observation_counts_as_planned() -> None:
    with pytest.raises(KeyError), journal.transaction(mtu(1500, 9000)):
        raise KeyError
    assert net_changes(journal.read()).settings == {MTU: NetChange(1500, 9000)}


def test_an_interrupted_change_is_recorded_and_counts_as_planned() -> None:
    child = os.fork()
    if not child:
        with journal.transaction(mtu(1500, 9000)):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (begin,) = journal.read()
    assert "end" not in begin and begin["boot_id"] == journal.boot_id()
    assert net_changes([begin]).settings == {MTU: NetChange(1500, 9000)}


def test_files_are_recorded_byte_for_byte(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)))
    before = read_file(str(file))
    with journal.transaction(
        Plan("nics", files={str(file): (before, "new"), str(tmp_path / "other"): (None, "x")})
    ):
        file.write_text("new")
    nets = net_changes(journal.read())
    (net,) = nets.files.values()  # the other one was not written
    assert net.after == digest("new") and bytes_of(str(net.before)) == bytes(range(256))


def test_the_metadata_of_a_removed_file_is_recorded(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("secret")
    file.chmod(0o600)
    with journal.transaction(Plan("sysctls", files={str(file): ("secret", None)})):
        file.unlink()
    found = revert.plan(
        "sysctls", net_changes(journal.read()), {}, {Key("sysctls", "", str(file)): None}, False
    )
    revert.apply(found, Sysctls(), lambda words: (0, "", ""))
    assert file.read_text() == "secret" and file.stat().st_mode & 0o777 == 0o600


def test_an_incomplete_last_line_is_overwritten() -> None:
    done(mtu(1500, 4000))
    with open(journal.path(), "a") as file:
        file.write('{"run": "cut')
    assert done(mtu(4000, 8264)).settings == {MTU: NetChange(1500, 8264)}
    assert all(json.loads(line) for line in Path(journal.path()).read_text().splitlines())


def test_an_invalid_line_is_an_error() -> None:
    done(mtu(1500, 4000))
    with open(journal.path(), "a") as file:
        file.write("nonsense\n")
    with pytest.raises(Problem, match=r"line 3 is not JSON"):
        journal.read()


def test_nothing_is_changed_if_the_journal_cannot_be_written() -> None:
    done(mtu(1500, 4000))
    before = Path(journal.path()).read_bytes()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, len(before) + 40))
        try:
            with journal.transaction(mtu(4000, 9000)):
                os._exit(1)
        except Problem as problem:
            os._exit(0 if "so nothing was changed" in str(problem) else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert Path(journal.path()).read_bytes() == before


def test_one_run_at_a_time() -> None:
    with (
        journal.locked(),
        pytest.raises(Problem, match=f"process {os.getpid()}"),
        journal.transaction(mtu(1, 2)),
    ):
        pytest.fail("entered")


def test_another_change_is_refused_while_one_is_pending() -> None:
    armed = {"checkpoint_state": "armed", "checkpoint": "c1", "by": "192.0.2.1", "time": "t", "timeout": 120}
    os.makedirs(journal.FOLDER)
    journal.append(armed)
    with pytest.raises(Problem, match=r"192\.0\.2\.1 at t is pending"), journal.transaction(mtu(1, 2)):
        pytest.fail("entered")
    with journal.transaction(mtu(1500, 4000), checkpoint="c1"):
        pass
    journal.append({"checkpoint_state": "confirmed", "checkpoint": "c1"})
    assert done(mtu(4000, 9000)).settings == {MTU: NetChange(1500, 9000)}


def test_an_empty_plan_writes_no_journal() -> None:
    done(Plan("nics"))
    assert not os.path.exists(journal.FOLDER)
