# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: what it says together, and that nothing is changed which it does not know of."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Change, Problem
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal, revert
from ansible_collections.podnet.datapath.plugins.module_utils._rollback.journal import (
    Entry,
    Folded,
    Key,
    Span,
)

MTU = Key("nics", "eth0", "mtu")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    monkeypatch.setattr(journal, "_WAIT", 0.5)


def mtu(before: int, after: int, **more: Any) -> Entry:
    return Entry("nics", [("eth0", Change("mtu", before, after))], **more)


def done(*entries: Entry) -> Folded:
    for entry in entries:
        with journal.entered(entry):
            pass
    return journal.fold(journal.read())


def test_first_before_and_last_after_count() -> None:
    assert done(mtu(1500, 4000), mtu(4000, 8264)).things == {MTU: Span(1500, 8264)}


def test_what_was_put_back_begins_anew() -> None:
    assert not done(mtu(1500, 4000), mtu(4000, 1500))
    assert done(mtu(1600, 9000)).things == {MTU: Span(1600, 9000)}


def test_places_and_concerns_are_kept_apart() -> None:
    sysctl = [("", Change("net.core.a", "1", "2")), ("pod", Change("net.core.a", "3", "2"))]
    assert done(Entry("sysctls", sysctl), Entry("x", sysctl[:1])).things == {
        Key("sysctls", "", "net.core.a"): Span("1", "2"),
        Key("sysctls", "pod", "net.core.a"): Span("3", "2"),
        Key("x", "", "net.core.a"): Span("1", "2"),
    }


def test_what_really_became_of_it_counts() -> None:
    found: list[tuple[str, Change]] = []
    with journal.entered(mtu(1500, 9000, looked=lambda: found)):
        found += [("eth0", Change("mtu", 1500, 9000)), ("eth0", Change("features.rx-lro", True, False))]
    assert journal.fold(journal.read()).things == {
        MTU: Span(1500, 9000),
        Key("nics", "eth0", "features.rx-lro"): Span(True, False),
    }


def test_what_somebody_else_changed_since_the_plan_is_not_changed(tmp_path: Path) -> None:
    found = [("eth0", Change("mtu", 1500, 4000))]
    with pytest.raises(Problem, match="eth0: mtu: changed by somebody else just now"):
        done(mtu(1500, 9000, looked=lambda: found))
    (tmp_path / "file").write_text("theirs")
    with pytest.raises(Problem, match=f"{tmp_path}/file: changed by somebody else just now"):
        done(Entry("nics", files={str(tmp_path / "file"): (None, "ours")}))
    # What was not planned may move, as a setting that hangs together with another.
    found = [("eth0", Change("coalesce.rx-usecs", 8, 9))]
    assert done(mtu(1500, 9000, looked=lambda: found)).things


@pytest.mark.parametrize("happened", [False, True])
def test_a_second_change_that_was_cut_short_is_ours_whether_it_happened_or_not(happened: bool) -> None:
    done(mtu(1500, 4000))
    child = os.fork()
    if not child:
        with journal.entered(mtu(4000, 9000)):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    folded = journal.fold(journal.read())
    assert folded.things == {MTU: Span(1500, 9000, frozenset({4000}))}
    now = 9000 if happened else 4000
    assert revert.plan(folded.things, {MTU: now}, False).back == {MTU: Change("mtu", now, 1500)}
    assert revert.plan(folded.things, {MTU: 1400}, False).drift
    # The next one has looked; a cut way to where it began may have happened or not, too.
    assert done(mtu(now, 8264)).things == {MTU: Span(1500, 8264)}


def test_a_cut_change_of_a_file_and_one_back_to_the_first_value(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    begin = {"run": "1", "subsystem": "nics", "changes": [], "files": {path: {"before": "a", "after": "B"}}}
    cut = {"run": "2", "subsystem": "nics", "changes": [], "files": {path: {"before": "b", "after": "C"}}}
    folded = journal.fold([begin, {"run": "1", "end": "done"}, cut])
    assert folded.files == {Key("nics", "", path): Span("a", "C", frozenset({"B"}))}
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
    assert journal.fold([*records, *ends]).things == {MTU: Span(1500, 1500, frozenset({9000}))}


def test_a_failed_change_that_was_put_back_counts_for_nothing() -> None:
    with pytest.raises(KeyError), journal.entered(mtu(1500, 9000, looked=list)):
        raise KeyError
    assert journal.read()[-1]["end"] == "put back" and not journal.fold(journal.read())


def test_a_failed_change_that_nobody_looked_at_may_have_happened() -> None:
    with pytest.raises(KeyError), journal.entered(mtu(1500, 9000)):
        raise KeyError
    assert journal.fold(journal.read()).things == {MTU: Span(1500, 9000)}


def test_a_change_is_known_before_it_begins_and_a_cut_one_stands_as_planned() -> None:
    child = os.fork()
    if not child:
        with journal.entered(mtu(1500, 9000)):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (begin,) = journal.read()
    assert "end" not in begin and begin["boot_id"] == journal.boot_id()
    assert journal.fold([begin]).things == {MTU: Span(1500, 9000)}


def test_files_come_back_byte_for_byte(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)))
    before = journal.read_file(str(file))
    with journal.entered(
        Entry("nics", files={str(file): (before, "new"), str(tmp_path / "other"): (None, "x")})
    ):
        file.write_text("new")
    folded = journal.fold(journal.read())
    (span,) = folded.files.values()  # the other one was not written
    assert span.after == journal.digest("new") and journal.bytes_of(str(span.before)) == bytes(range(256))


def test_a_torn_last_line_did_not_begin_and_is_written_over() -> None:
    done(mtu(1500, 4000))
    with open(journal.path(), "a") as file:
        file.write('{"run": "cut')
    assert done(mtu(4000, 8264)).things == {MTU: Span(1500, 8264)}
    assert all(json.loads(line) for line in Path(journal.path()).read_text().splitlines())


def test_a_broken_line_is_no_empty_journal() -> None:
    done(mtu(1500, 4000))
    with open(journal.path(), "a") as file:
        file.write("nonsense\n")
    with pytest.raises(Problem, match=r"line 3 is no JSON"):
        journal.read()


def test_where_nothing_can_be_written_nothing_is_changed() -> None:
    done(mtu(1500, 4000))
    before = Path(journal.path()).read_bytes()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, len(before) + 40))
        try:
            with journal.entered(mtu(4000, 9000)):
                os._exit(1)
        except Problem as problem:
            os._exit(0 if "so nothing was changed" in str(problem) else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert Path(journal.path()).read_bytes() == before


def test_one_run_at_a_time() -> None:
    with (
        journal.locked(),
        pytest.raises(Problem, match=f"process {os.getpid()}"),
        journal.entered(mtu(1, 2)),
    ):
        pytest.fail("entered")


def test_another_change_waits_for_the_confirmation_of_the_first() -> None:
    armed = {"checkpoint_state": "armed", "checkpoint": "c1", "by": "192.0.2.1", "time": "t", "timeout": 120}
    os.makedirs(journal.FOLDER)
    journal.append(armed)
    with pytest.raises(Problem, match=r"192\.0\.2\.1 of t waits"), journal.entered(mtu(1, 2)):
        pytest.fail("entered")
    with journal.entered(mtu(1500, 4000), "c1"):
        pass
    journal.append({"checkpoint_state": "confirmed", "checkpoint": "c1"})
    assert done(mtu(4000, 9000)).things == {MTU: Span(1500, 9000)}


def test_no_change_no_journal() -> None:
    done(Entry("nics"))
    assert not os.path.exists(journal.FOLDER)
