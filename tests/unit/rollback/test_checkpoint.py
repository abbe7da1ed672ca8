# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints: what the journal says of them, and the program that stays on the node."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Change, Problem, Value
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply, settings
from ansible_collections.podnet.datapath.plugins.module_utils._nic.revert import Nics
from ansible_collections.podnet.datapath.plugins.module_utils._ops import confirm, revert_node
from ansible_collections.podnet.datapath.plugins.module_utils._programs import revert
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import arm, journal
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import checkpoint as _checkpoint
from ansible_collections.podnet.datapath.plugins.module_utils._rollback.journal import Entry, Key
from ansible_collections.podnet.datapath.plugins.module_utils._rollback.revert import GONE, Now

SUBSYSTEMS = {"nics": Nics()}
EXPIRE = f"""
import sys
from {_checkpoint.__package__} import checkpoint, journal
journal.FOLDER = sys.argv[1]
checkpoint.TIMER = checkpoint.ARMED = sys.argv[1] + "/none"
print(checkpoint.expire(lambda words: (0, "", ""), {{}}))
"""
COMMANDS: list[Sequence[str]] = []


def command(words: Sequence[str]) -> tuple[int, str, str]:
    COMMANDS.append(words)
    return 0, "", ""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path))
    monkeypatch.setattr(_checkpoint, "TIMER", str(tmp_path / "timer"))
    monkeypatch.setattr(_checkpoint, "ARMED", str(tmp_path / "armed"))


def armed(name: str = "one", boot_id: str = "") -> None:
    more = {"by": "192.0.2.1", "time": "then", "timeout": 120, "boot_id": boot_id or journal.boot_id()}
    journal.append({"checkpoint": name, "checkpoint_state": "armed", **more})


def write(path: Path, text: str, checkpoint: str) -> None:
    before = journal.read_file(str(path))
    with journal.entered(Entry("nics", files={str(path): (before, text)}), checkpoint):
        path.write_text(text)


def test_confirmed_once_and_kept(tmp_path: Path) -> None:
    armed()
    write(tmp_path / "file", "new", "one")
    _checkpoint.complete("one")
    result = confirm.run("one", "confirmed", "", {}, False, command, SUBSYSTEMS)
    assert result["changed"] and result["status"] == "confirmed" and (tmp_path / "file").read_text() == "new"
    with pytest.raises(Problem, match="one is confirmed already"):
        confirm.run("one", "confirmed", "", {}, False, command, SUBSYSTEMS)
    assert "Nothing waits" in _checkpoint.expire(command, SUBSYSTEMS)


def test_not_confirmed_everything_of_it_is_as_it_was_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "earlier", "kept", "")
    armed()
    for text in ("new", "newer"):
        write(tmp_path / "file", text, "one")
    assert "not confirmed in 120 s" in _checkpoint.expire(command, SUBSYSTEMS)
    assert not (tmp_path / "file").exists() and (tmp_path / "earlier").read_text() == "kept"
    with pytest.raises(Problem, match=r"one was reverted at .*not confirmed in 120 s.*file"):
        confirm.run("one", "confirmed", "", {}, False, command, SUBSYSTEMS)
    assert [key.name for key in journal.fold(journal.read()).files] == [str(tmp_path / "earlier")]
    assert not confirm.run("one", "reverted", "", {}, False, command, SUBSYSTEMS)["changed"]


def test_a_boot_in_between_is_told(tmp_path: Path) -> None:
    armed(boot_id="another")
    assert "booted before the confirmation" in _checkpoint.expire(command, SUBSYSTEMS)


def test_a_revert_that_was_cut_short_is_finished_and_not_confirmed(tmp_path: Path) -> None:
    armed()
    write(tmp_path / "file", "new", "one")
    journal.append({"checkpoint": "one", "checkpoint_state": "reverting", "time": "t"})
    with pytest.raises(Problem, match="reverting"):
        confirm.run("one", "confirmed", "", {}, False, command, SUBSYSTEMS)
    _checkpoint.expire(command, SUBSYSTEMS)
    assert not (tmp_path / "file").exists()
    ended = _checkpoint.status(journal.read())
    assert (ended["checkpoint_state"], ended["reverted"]) == ("reverted", [str(tmp_path / "file")])


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


class Settings:
    """A subsystem of one NIC; ``failing`` is raised by the next write, half of which was done."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {"mtu": 1500, "txqlen": 1000}
        self.failing: BaseException | None = None

    def change(self, name: str, value: Value) -> None:
        change = ("wire0", Change(name, self.values[name], value))
        with journal.entered(Entry("nics", [change]), "one"):
            self.values[name] = value

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        return {key: self.values[key.name] for key in keys}

    def write(self, wished: Mapping[Key, Value]) -> None:
        for key, value in sorted(wished.items(), key=lambda item: item[0].name):
            self.values[key.name] = value
            failing, self.failing = self.failing, None
            if failing:
                raise failing


@pytest.mark.parametrize("failing", [Killed(), Problem("the NIC is being reset")])
def test_a_way_back_that_failed_is_begun_again(tmp_path: Path, failing: BaseException) -> None:
    """Killed, or refused by the kernel once: the next attempt does all that is left, files too."""
    nic, former = Settings(), dict(Settings().values)
    armed()
    nic.change("mtu", 9000)
    nic.change("txqlen", 10)
    write(tmp_path / "file", "for the next boot", "one")
    nic.failing = failing
    with pytest.raises(type(failing)):
        _checkpoint.expire(command, {"nics": nic})
    assert nic.values != former and journal.pending(journal.read())
    said = _checkpoint.expire(command, {"nics": nic})
    assert nic.values == former and not (tmp_path / "file").exists()
    assert "mtu = 1500" in said and "txqlen = 1000" in said
    assert not journal.pending(journal.read()) and not journal.fold(journal.read())


def test_what_cannot_be_put_back_keeps_no_file_from_it(tmp_path: Path) -> None:
    nic = Settings()
    armed()
    nic.change("mtu", 9000)
    write(tmp_path / "file", "for the next boot", "one")
    nic.failing = Problem("never")
    with pytest.raises(Problem, match="never"):
        _checkpoint.expire(command, {"nics": nic})
    assert not (tmp_path / "file").exists()


def test_a_nic_that_cannot_be_read_is_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def detached(*words: object) -> Any:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(settings, "read", detached)
    with pytest.raises(Problem, match="lo cannot be read: No such device"):
        Nics().read([Key("nics", "lo", "mtu")])
    absent = Key("nics", "absent0", "mtu")
    assert Nics().read([absent]) == {absent: GONE}


def test_no_journal_is_put_away_while_a_change_waits() -> None:
    armed()
    with pytest.raises(Problem, match="waits for its confirmation"):
        revert_node.run(["nics"], False, False, lambda words: (0, "", ""))
    assert journal.pending(journal.read())


def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have everything that arming writes below a folder."""
    for name in ("PROGRAM", "SERVICE", "AT_BOOT", "TIMER"):
        monkeypatch.setattr(arm, name, str(tmp_path / name.lower()))
    monkeypatch.setattr(arm, "ARMED", str(tmp_path / "armed"))
    monkeypatch.setattr(arm, "_CONTAINER", str(tmp_path / "container"))
    monkeypatch.setattr(arm.os.path, "isdir", lambda path: True)


@pytest.mark.parametrize("verb", ["daemon-reload", "restart", "append"])
def test_killed_while_it_arms_nothing_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Or every later change would be refused until the next boot."""
    at_home(tmp_path, monkeypatch)
    started: list[bool] = []

    def killed(*words: object, **more: object) -> None:
        started.append("restart" in COMMANDS[-1])
        raise Killed

    def systemctl(words: Sequence[str]) -> tuple[int, str, str]:
        COMMANDS.append(words)
        return killed() if verb in words else (0, "", "")

    if verb == "append":
        monkeypatch.setattr(journal, "append", killed)
    with pytest.raises(Killed):
        arm.arm(arm.Terms(120), apply.WAY_BACK, systemctl)
    assert not journal.pending(journal.read())
    assert started == [verb in ("restart", "append")]
    # Without it systemd would not start what the timer is for.
    assert (tmp_path / "armed").exists()
    assert "Nothing waits" in _checkpoint.expire(command, SUBSYSTEMS)
    assert not (tmp_path / "armed").exists()


def test_a_timer_that_expires_while_it_is_armed_waits_for_the_journal(tmp_path: Path) -> None:
    with journal.locked():
        expiring = subprocess.Popen(
            [sys.executable, "-c", EXPIRE, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        time.sleep(2)
        armed()
    assert "Reverted, as not confirmed in 120 s" in expiring.communicate()[0]


def test_what_comes_too_late_is_not_changed(tmp_path: Path) -> None:
    """A module that is slower than its timer would leave what nobody takes back."""
    armed()
    write(tmp_path / "file", "new", "one")
    _checkpoint.expire(command, SUBSYSTEMS)
    for state in ("reverted", "reverting"):
        with pytest.raises(Problem, match="its time was up before all was changed"):
            write(tmp_path / "later", "new", "one")
        assert not (tmp_path / "later").exists()
        journal.append({"checkpoint": "one", "checkpoint_state": state, "time": "t"})


def test_a_full_disk_does_not_bar_the_way_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    armed()
    write(tmp_path / "file", "new", "one")

    def full(record: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "append", full)
    with pytest.raises(OSError, match="No space"):  # systemd tries again
        _checkpoint.expire(command, SUBSYSTEMS)
    assert not (tmp_path / "file").exists()


def test_dry_runs_change_nothing() -> None:
    armed()
    _checkpoint.complete("one")
    for state in ("confirmed", "reverted"):
        assert confirm.run("", state, "", {}, True, command, SUBSYSTEMS)["changed"]
    assert confirm.run("", "status", "", {}, False, command, SUBSYSTEMS)["status"] == "armed"
    assert confirm.run("other", "status", "", {}, False, command, SUBSYSTEMS)["status"] == "none"


def test_what_the_node_did_by_itself_is_told_once() -> None:
    armed()
    confirm.run("one", "reverted", "asked for", {}, False, command, SUBSYSTEMS)
    assert not _checkpoint.news()
    armed("two")
    _checkpoint.expire(command, SUBSYSTEMS)
    news = _checkpoint.news()
    assert [*news] == ["two"] and "not confirmed in 120 s" in news["two"]
    _checkpoint.told(news)
    assert not _checkpoint.news()


def test_what_was_kept_for_the_way_back_goes_with_the_checkpoint(tmp_path: Path) -> None:
    for state in ("confirmed", "reverted"):
        armed(state)
        kept = tmp_path / "kept"
        kept.mkdir()
        with journal.entered(Entry("nics", files={"/none": (None, "x")}, kept=str(kept)), state):
            pass
        _checkpoint.complete(state)
        confirm.run(state, state, "", {}, False, command, SUBSYSTEMS)
        assert not kept.exists()


@pytest.mark.parametrize("way_back", [apply.WAY_BACK, revert.WAY_BACK])
def test_the_program_has_all_that_it_needs(tmp_path: Path, way_back: arm.WayBack) -> None:
    program = tmp_path / "checkpoint.pyz"
    program.write_bytes(way_back.program())
    with zipfile.ZipFile(program) as packed:
        main = packed.read("__main__.py").decode()
    # Every import, in an interpreter without this collection; the journal is that of this machine.
    imports = "\n".join(line for line in main.splitlines() if "import" in line)
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(program)!r})\n{imports}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_timer_counts_from_boot_and_the_service_runs_before_the_network() -> None:
    text = arm.timer(120)
    at = int(text.partition("OnBootSec=")[2].splitlines()[0])
    with open("/proc/uptime") as file:
        assert abs(at - 120 - float(file.read().split()[0])) < 60
    assert "Before=network-pre.target" in arm.service(sys.executable)


def test_a_part_of_a_change_is_not_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its module was killed, or is still at it after the connection was lost."""
    monkeypatch.setattr(confirm, "PATIENCE", 0)
    armed()
    write(tmp_path / "file", "new", "one")
    with pytest.raises(Problem, match="one is not confirmed: only a part of it was changed"):
        confirm.run("one", "confirmed", "", {}, False, command, SUBSYSTEMS)
    monkeypatch.setattr(confirm, "PATIENCE", 15)
    threading.Timer(1, _checkpoint.complete, ("one",)).start()
    assert confirm.run("one", "confirmed", "", {}, False, command, SUBSYSTEMS)["status"] == "confirmed"


def test_nothing_to_change_while_a_change_waits(tmp_path: Path) -> None:
    """It may be taken back yet: somebody else's is refused, one's own is to be confirmed."""
    armed("mine")
    write(tmp_path / "file", "new", "mine")
    for terms in (arm.Terms(), arm.Terms(120), arm.Terms(120, "other")):
        other = arm.Checkpoint(terms, apply.WAY_BACK, command)
        with pytest.raises(Problem, match="checkpoint mine"), other.whole(), other.entered(Entry("nics")):
            pytest.fail("entered")
    again = arm.Checkpoint(arm.Terms(120, "mine"), apply.WAY_BACK, command)
    with again.whole(), again.entered(Entry("nics")):
        assert again.name == "mine"
    assert _checkpoint.status(journal.read(), "mine")["complete"]


def test_a_module_that_fails_after_its_time_says_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_home(tmp_path, monkeypatch)
    mine = arm.Checkpoint(arm.Terms(120), apply.WAY_BACK, command)
    entry = Entry("nics", [("eth0", Change("mtu", 1, 2))], looked=list)
    both = r"(?s)the kernel refuses.*was reverted at .*not confirmed in 120 s"
    with pytest.raises(Problem, match=both), mine.whole():
        with mine.entered(entry):
            pass
        _checkpoint.expire(command, SUBSYSTEMS)
        raise Problem("the kernel refuses")


def test_what_was_taken_back_meanwhile_is_not_complete() -> None:
    armed()
    _checkpoint.expire(command, SUBSYSTEMS)
    with pytest.raises(Problem, match="its time was up before all was changed"):
        _checkpoint.complete("one")


def test_a_change_has_the_name_that_it_was_given_and_no_other_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_home(tmp_path, monkeypatch)
    terms = arm.Terms(120, "mine")
    assert arm.arm(terms, apply.WAY_BACK, command) == "mine"
    found = _checkpoint.status(journal.read(), "mine")
    assert found["checkpoint_state"] == "armed" and "lo" not in found["dark"]
    with pytest.raises(Problem, match="the journal knows none of the name other"):
        confirm.run("other", "confirmed", "", {}, False, command, SUBSYSTEMS)
    _checkpoint.expire(command, SUBSYSTEMS)
    with pytest.raises(Problem, match="confirm_name: mine was the name of an earlier change"):
        arm.arm(terms, apply.WAY_BACK, command)
    assert len(arm.arm(arm.Terms(120), apply.WAY_BACK, command)) == 12


def test_terms_that_are_none_are_refused() -> None:
    with pytest.raises(Problem, match="confirm_timeout: -1 is no time"):
        arm.Terms(-1)
    for name in ("a b", "a" * 65, "a/b", "a\n"):
        with pytest.raises(Problem, match=r"confirm_name: .* is no name"):
            arm.Terms(120, name)


def test_in_a_container_nothing_is_armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_home(tmp_path, monkeypatch)
    (tmp_path / "container").write_text("lxc")
    with pytest.raises(Problem, match="confirm_timeout: this is a container"):
        arm.arm(arm.Terms(120), apply.WAY_BACK, command)
    assert not journal.read() and not (tmp_path / "service").exists()


def test_a_nic_without_carrier_is_not_confirmed() -> None:
    armed()
    # The loopback has a carrier; nothing here has counted minus one errors.
    assert confirm.sick(["lo"], {"lo": 0}) == [] == confirm.sick(["lo"], {})
    assert confirm.sick(["lo"], {"lo": -1}) == ["lo counted 1 errors since the change"]
    assert confirm.sick(["none0"], {}) == ["none0 has no carrier"]
    # As a port without a cable: it had none before.
    assert confirm.sick(["none0"], {}, ["none0"]) == []
    # It had none when errors were counted, so what it has since it was made says nothing.
    assert confirm.sick(["lo"], {"lo": None}) == []


def test_every_change_that_was_taken_back_is_told_once() -> None:
    for name in ("first", "second"):
        armed(name)
        _checkpoint.expire(command, SUBSYSTEMS)
    armed("third")
    _checkpoint.end("third", "confirmed", command)
    news = _checkpoint.news()
    assert list(news) == ["first", "second"] and "not confirmed in 120 s" in news["first"]
    _checkpoint.told(news)
    assert _checkpoint.news() == {}


def test_a_way_back_that_fails_again_and_again_waits_longer_and_writes_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A NIC that refuses a setting for good is not reset every five seconds."""
    waited: list[float] = []
    monkeypatch.setattr(_checkpoint.time, "sleep", waited.append)

    class Stubborn:
        def read(self, keys: Any) -> Any:
            return dict.fromkeys(keys, 2)

        def write(self, wished: Any) -> None:
            raise Problem("no")

    armed()
    with journal.entered(Entry("nics", [("eth0", Change("mtu", 1, 2))]), "one"):
        pass
    for dummy in range(12):
        with pytest.raises(Problem, match="no"):
            _checkpoint.expire(command, {"nics": Stubborn()})
    assert waited[:4] == [2, 4, 8, 16] and waited[-2:] == [300, 300]
    states = [r["checkpoint_state"] for r in journal.read() if "checkpoint_state" in r]
    assert states == ["armed", "reverting"]


def test_a_timer_that_was_started_for_nothing_is_stopped(tmp_path: Path) -> None:
    """Its arming was killed before the journal knew: it would count as running for good."""
    said: list[list[str]] = []
    (tmp_path / "timer").write_text("")
    (tmp_path / "armed").write_text("")

    def listening(words: Any) -> tuple[int, str, str]:
        said.append([*words])
        return 0, "", ""

    assert _checkpoint.expire(listening, SUBSYSTEMS) == "Nothing waits for a confirmation."
    assert said == [["systemctl", "stop", "timer"]]
    assert not (tmp_path / "timer").exists() and not (tmp_path / "armed").exists()
