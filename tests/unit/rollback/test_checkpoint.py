# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints: their state in the journal, and the program that stays on the node."""

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

from ansible_collections.podnet.datapath.plugins.module_utils._core.files import read_file
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Change, Plan, Problem, Value
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.ethtool import Ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply
from ansible_collections.podnet.datapath.plugins.module_utils._nic.revert import Nics
from ansible_collections.podnet.datapath.plugins.module_utils._ops import confirm, revert_node
from ansible_collections.podnet.datapath.plugins.module_utils._programs import revert
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import arm, journal
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import checkpoint as _checkpoint
from ansible_collections.podnet.datapath.plugins.module_utils._rollback.net_changes import Key, net_changes
from ansible_collections.podnet.datapath.plugins.module_utils._rollback.revert import GONE, Now, Subsystem

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


def options(name: str, state: str, reason: str = "") -> dict[str, Any]:
    """Return options of the module checkpoint."""
    return {"name": name, "state": state, "reason": reason, "errors": {}}


def armed(name: str = "one", boot_id: str = "") -> None:
    more = {"by": "192.0.2.1", "time": "then", "timeout": 120, "boot_id": boot_id or journal.boot_id()}
    journal.append({"checkpoint": name, "checkpoint_state": "armed", **more})


def write(path: Path, text: str, checkpoint: str) -> None:
    plan = Plan("nics", files={str(path): (read_file(str(path)), text)})
    with journal.transaction(plan, checkpoint=checkpoint):
        path.write_text(text)


def test_a_confirmed_change_stays_and_is_confirmed_once(tmp_path: Path) -> None:
    armed()
    write(tmp_path / "file", "new", "one")
    _checkpoint.complete("one")
    result = confirm.run(options("one", "confirmed"), False, command, SUBSYSTEMS)
    assert (
        result.changed and result.values["status"] == "confirmed" and (tmp_path / "file").read_text() == "new"
    )
    with pytest.raises(Problem, match="one is already confirmed"):
        confirm.run(options("one", "confirmed"), False, command, SUBSYSTEMS)
    assert "No checkpoint is pending" in _checkpoint.expire(command, SUBSYSTEMS)


def test_an_unconfirmed_change_is_rolled_back_and_no_other(tmp_path: Path) -> None:
    write(tmp_path / "earlier", "kept", "")
    armed()
    for text in ("new", "newer"):
        write(tmp_path / "file", text, "one")
    assert "not confirmed in 120 s" in _checkpoint.expire(command, SUBSYSTEMS)
    assert not (tmp_path / "file").exists() and (tmp_path / "earlier").read_text() == "kept"
    with pytest.raises(Problem, match=r"one was reverted at .*not confirmed in 120 s.*file"):
        confirm.run(options("one", "confirmed"), False, command, SUBSYSTEMS)
    assert [key.name for key in net_changes(journal.read()).files] == [str(tmp_path / "earlier")]
    assert not confirm.run(options("one", "reverted"), False, command, SUBSYSTEMS).changed


def test_the_reason_names_a_boot(tmp_path: Path) -> None:
    armed(boot_id="another")
    assert "booted before the confirmation" in _checkpoint.expire(command, SUBSYSTEMS)


def test_an_interrupted_rollback_is_finished_and_cannot_be_confirmed(tmp_path: Path) -> None:
    armed()
    write(tmp_path / "file", "new", "one")
    journal.append({"checkpoint": "one", "checkpoint_state": "reverting", "time": "t"})
    with pytest.raises(Problem, match="reverting"):
        confirm.run(options("one", "confirmed"), False, command, SUBSYSTEMS)
    _checkpoint.expire(command, SUBSYSTEMS)
    assert not (tmp_path / "file").exists()
    ended = _checkpoint.status(journal.read())
    assert (ended["checkpoint_state"], ended["reverted"]) == ("reverted", [str(tmp_path / "file")])


class Killed(BaseException):
    """Stand-in for SIGKILL: nothing catches it."""


class Settings(Subsystem):
    """A subsystem of one NIC; the next write raises ``failing`` halfway."""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {"mtu": 1500, "txqlen": 1000}
        self.failing: BaseException | None = None

    def change(self, name: str, value: Value) -> None:
        change = Change(name, self.values[name], value, "wire0")
        with journal.transaction(Plan("nics", [change]), checkpoint="one"):
            self.values[name] = value

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        return {key: self.values[key.name] for key in keys}

    def write(self, desired: Mapping[Key, Value]) -> None:
        for key, value in sorted(desired.items(), key=lambda item: item[0].name):
            self.values[key.name] = value
            failing, self.failing = self.failing, None
            if failing:
                raise failing


@pytest.mark.parametrize("failing", [Killed(), Problem("the NIC is being reset")])
def test_a_failed_rollback_is_repeated(tmp_path: Path, failing: BaseException) -> None:
    """After a rollback that was killed or rejected by the kernel, the next attempt completes it."""
    nic, former = Settings(), dict(Settings().values)
    armed()
    nic.change("mtu", 9000)
    nic.change("txqlen", 10)
    write(tmp_path / "file", "for the next boot", "one")
    nic.failing = failing
    with pytest.raises(type(failing)):
        _checkpoint.expire(command, {"nics": nic})
    assert nic.values != former and journal.pending(journal.read())
    message = _checkpoint.expire(command, {"nics": nic})
    assert nic.values == former and not (tmp_path / "file").exists()
    assert "mtu = 1500" in message and "txqlen = 1000" in message
    assert not journal.pending(journal.read()) and not net_changes(journal.read())


def test_files_are_restored_even_if_a_setting_cannot_be(tmp_path: Path) -> None:
    nic = Settings()
    armed()
    nic.change("mtu", 9000)
    write(tmp_path / "file", "for the next boot", "one")
    nic.failing = Problem("never")
    with pytest.raises(Problem, match="never"):
        _checkpoint.expire(command, {"nics": nic})
    assert not (tmp_path / "file").exists()


def test_a_nic_that_cannot_be_read_is_not_treated_as_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    def detached(*words: object) -> Any:
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(Ethtool, "read", detached)
    with pytest.raises(Problem, match="lo cannot be read: No such device"):
        Nics().read([Key("nics", "lo", "mtu")])
    absent = Key("nics", "absent0", "mtu")
    assert Nics().read([absent]) == {absent: GONE}


def test_the_journal_is_not_archived_while_a_change_is_pending() -> None:
    armed()
    with pytest.raises(Problem, match="is pending confirmation"):
        revert_node.run(["nics"], False, False, lambda words: (0, "", ""))
    assert journal.pending(journal.read())


def install_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redirect everything that arming writes into a directory."""
    for name in ("PROGRAM", "SERVICE", "AT_BOOT", "TIMER"):
        monkeypatch.setattr(arm, name, str(tmp_path / name.lower()))
    monkeypatch.setattr(arm, "ARMED", str(tmp_path / "armed"))
    monkeypatch.setattr(arm, "_CONTAINER", str(tmp_path / "container"))
    monkeypatch.setattr(arm.os.path, "isdir", lambda path: True)


@pytest.mark.parametrize("verb", ["daemon-reload", "restart", "append"])
def test_a_kill_while_arming_leaves_nothing_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """A pending checkpoint without a timer would block all changes until the next boot."""
    install_below(tmp_path, monkeypatch)
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
        arm.arm(arm.Confirmation(120), apply.ROLLBACK, systemctl)
    assert not journal.pending(journal.read())
    assert started == [verb in ("restart", "append")]
    # The service's ConditionPathExists.
    assert (tmp_path / "armed").exists()
    assert "No checkpoint is pending" in _checkpoint.expire(command, SUBSYSTEMS)
    assert not (tmp_path / "armed").exists()


def test_a_timer_that_expires_while_arming_waits_for_the_journal(tmp_path: Path) -> None:
    with journal.locked():
        expiring = subprocess.Popen(
            [sys.executable, "-c", EXPIRE, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        time.sleep(2)
        armed()
    assert "Reverted (not confirmed in 120 s)" in expiring.communicate()[0]


def test_nothing_is_changed_after_the_checkpoint_expired(tmp_path: Path) -> None:
    """A module slower than its timer would leave changes that nothing rolls back."""
    armed()
    write(tmp_path / "file", "new", "one")
    _checkpoint.expire(command, SUBSYSTEMS)
    for state in ("reverted", "reverting"):
        with pytest.raises(Problem, match="expired before all changes were made"):
            write(tmp_path / "later", "new", "one")
        assert not (tmp_path / "later").exists()
        journal.append({"checkpoint": "one", "checkpoint_state": state, "time": "t"})


def test_a_full_disk_does_not_prevent_the_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        assert confirm.run(options("", state), True, command, SUBSYSTEMS).changed
    assert confirm.run(options("", "status"), False, command, SUBSYSTEMS).values["status"] == "armed"
    assert confirm.run(options("other", "status"), False, command, SUBSYSTEMS).values["status"] == "none"


def test_an_automatic_rollback_is_reported_once() -> None:
    armed()
    confirm.run(options("one", "reverted", "asked for"), False, command, SUBSYSTEMS)
    assert not _checkpoint.unreported()
    armed("two")
    _checkpoint.expire(command, SUBSYSTEMS)
    messages = _checkpoint.unreported()
    assert [*messages] == ["two"] and "not confirmed in 120 s" in messages["two"]
    _checkpoint.mark_reported(messages)
    assert not _checkpoint.unreported()


def test_a_backup_is_removed_with_its_checkpoint(tmp_path: Path) -> None:
    for state in ("confirmed", "reverted"):
        armed(state)
        backup = tmp_path / "backup"
        backup.mkdir()
        plan = Plan("nics", files={"/none": (None, "x")})
        with journal.transaction(plan, checkpoint=state, backup=str(backup)):
            pass
        _checkpoint.complete(state)
        confirm.run(options(state, state), False, command, SUBSYSTEMS)
        assert not backup.exists()


@pytest.mark.parametrize("rollback", [apply.ROLLBACK, revert.ROLLBACK])
def test_the_program_contains_all_its_imports(tmp_path: Path, rollback: arm.RollbackProgram) -> None:
    program = tmp_path / "checkpoint.pyz"
    program.write_bytes(rollback.archive())
    with zipfile.ZipFile(program) as packed:
        main = packed.read("__main__.py").decode()
    # All imports, in an interpreter without this collection.
    imports = "\n".join(line for line in main.splitlines() if "import" in line)
    done = subprocess.run(
        [sys.executable, "-P", "-c", imports],
        env={"PYTHONPATH": str(program)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("rollback", "read"),
    [
        (apply.ROLLBACK, 'print(Nics().read([Key("nics", "lo", "mtu")]), mtu.devices())'),
        (revert.ROLLBACK, 'print(hooks.read_devices()["lo"], hooks.read_filters(1, "ingress"))'),
    ],
)
def test_the_program_needs_no_installed_pyroute2(
    tmp_path: Path, rollback: arm.RollbackProgram, read: str
) -> None:
    """The distribution's interpreter runs it at the rollback, and may have no pyroute2, or none any more."""
    program = tmp_path / "checkpoint.pyz"
    program.write_bytes(rollback.archive())
    package = "ansible_collections.podnet.datapath.plugins.module_utils"
    with zipfile.ZipFile(program) as packed:
        start = packed.read("__main__.py").decode().partition("from ")[0]
    code = f"""{start}
from {rollback.maker.__module__} import {rollback.maker.__name__}
from {package}._rollback.net_changes import Key
from {package}.{"_nic import mtu" if rollback is apply.ROLLBACK else "_programs import hooks"}
{read}
import sys
print(sys.modules["pyroute2.netlink"].__file__)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code],
        env={"PYTHONPATH": str(program)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "lo" in done.stdout and f"{program}/lib/pyroute2/netlink/" in done.stdout


def test_the_timer_counts_from_boot_and_the_service_runs_before_the_network() -> None:
    text = arm.timer(120)
    at = int(text.partition("OnBootSec=")[2].splitlines()[0])
    with open("/proc/uptime") as file:
        assert abs(at - 120 - float(file.read().split()[0])) < 60
    assert "Before=network-pre.target" in arm.service(sys.executable)


def test_an_incomplete_change_is_not_confirmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change is incomplete if its module was killed, or still runs after the connection was lost."""
    monkeypatch.setattr(confirm, "PATIENCE", 0)
    armed()
    write(tmp_path / "file", "new", "one")
    with pytest.raises(Problem, match="one is not confirmed: its changes are not complete"):
        confirm.run(options("one", "confirmed"), False, command, SUBSYSTEMS)
    monkeypatch.setattr(confirm, "PATIENCE", 15)
    threading.Timer(1, _checkpoint.complete, ("one",)).start()
    assert (
        confirm.run(options("one", "confirmed"), False, command, SUBSYSTEMS).values["status"] == "confirmed"
    )


def test_a_run_without_changes_while_a_change_is_pending(tmp_path: Path) -> None:
    """The state may still be rolled back, so only a run with the pending checkpoint's name succeeds."""
    armed("mine")
    write(tmp_path / "file", "new", "mine")
    for confirmation in (arm.Confirmation(), arm.Confirmation(120), arm.Confirmation(120, "other")):
        other = arm.Checkpoint(confirmation, apply.ROLLBACK, command)
        with (
            pytest.raises(Problem, match="checkpoint mine"),
            other.complete_or_revert(),
            other.transaction(Plan("nics")),
        ):
            pytest.fail("entered")
    again = arm.Checkpoint(arm.Confirmation(120, "mine"), apply.ROLLBACK, command)
    with again.complete_or_revert(), again.transaction(Plan("nics")):
        assert again.name == "mine"
    assert _checkpoint.status(journal.read(), "mine")["complete"]


def test_a_module_that_fails_after_the_timeout_reports_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_below(tmp_path, monkeypatch)
    mine = arm.Checkpoint(arm.Confirmation(120), apply.ROLLBACK, command)
    plan = Plan("nics", [Change("mtu", 1, 2, "eth0")])
    both = r"(?s)the kernel refuses.*was reverted at .*not confirmed in 120 s"
    with pytest.raises(Problem, match=both), mine.complete_or_revert():
        with mine.transaction(plan, list):
            pass
        _checkpoint.expire(command, SUBSYSTEMS)
        raise Problem("the kernel refuses")


def test_a_reverted_checkpoint_cannot_be_completed() -> None:
    armed()
    _checkpoint.expire(command, SUBSYSTEMS)
    with pytest.raises(Problem, match="expired before all changes were made"):
        _checkpoint.complete("one")


def test_checkpoint_names_are_unique(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_below(tmp_path, monkeypatch)
    confirmation = arm.Confirmation(120, "mine")
    assert arm.arm(confirmation, apply.ROLLBACK, command) == "mine"
    found = _checkpoint.status(journal.read(), "mine")
    assert found["checkpoint_state"] == "armed" and "lo" not in found["no_carrier"]
    with pytest.raises(Problem, match="the journal has no checkpoint named other"):
        confirm.run(options("other", "confirmed"), False, command, SUBSYSTEMS)
    _checkpoint.expire(command, SUBSYSTEMS)
    with pytest.raises(Problem, match="confirm_name: mine is the name of an earlier checkpoint"):
        arm.arm(confirmation, apply.ROLLBACK, command)
    assert len(arm.arm(arm.Confirmation(120), apply.ROLLBACK, command)) == 12


def test_invalid_confirmations_are_rejected() -> None:
    with pytest.raises(Problem, match="confirm_timeout: -1 is negative"):
        arm.Confirmation(-1)
    for name in ("a b", "a" * 65, "a/b", "a\n"):
        with pytest.raises(Problem, match=r"confirm_name: .* is not a valid name"):
            arm.Confirmation(120, name)


def test_nothing_is_armed_in_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_below(tmp_path, monkeypatch)
    (tmp_path / "container").write_text("lxc")
    with pytest.raises(Problem, match="confirm_timeout: this is a container"):
        arm.arm(arm.Confirmation(120), apply.ROLLBACK, command)
    assert not journal.read() and not (tmp_path / "service").exists()


def test_a_nic_without_carrier_is_not_confirmed() -> None:
    armed()
    # The loopback has a carrier and no errors.
    assert confirm.unhealthy(["lo"], {"lo": 0}) == [] == confirm.unhealthy(["lo"], {})
    assert confirm.unhealthy(["lo"], {"lo": -1}) == ["lo counted 1 errors since the change"]
    assert confirm.unhealthy(["none0"], {}) == ["none0 has no carrier"]
    # A port without a cable had none before.
    assert confirm.unhealthy(["none0"], {}, ["none0"]) == []
    # Without a carrier before the change there is no count to compare with.
    assert confirm.unhealthy(["lo"], {"lo": None}) == []


def test_each_automatic_rollback_is_reported_once() -> None:
    for name in ("first", "second"):
        armed(name)
        _checkpoint.expire(command, SUBSYSTEMS)
    armed("third")
    _checkpoint.end("third", "confirmed", command)
    messages = _checkpoint.unreported()
    assert list(messages) == ["first", "second"] and "not confirmed in 120 s" in messages["first"]
    _checkpoint.mark_reported(messages)
    assert _checkpoint.unreported() == {}


def test_repeated_rollbacks_wait_longer_and_write_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A NIC that rejects a setting is reset at growing intervals."""
    waited: list[float] = []
    monkeypatch.setattr(_checkpoint.time, "sleep", waited.append)

    class Stubborn(Subsystem):
        def read(self, keys: Any) -> Any:
            return dict.fromkeys(keys, 2)

        def write(self, desired: Any) -> None:
            raise Problem("no")

    armed()
    with journal.transaction(Plan("nics", [Change("mtu", 1, 2, "eth0")]), checkpoint="one"):
        pass
    for dummy in range(12):
        with pytest.raises(Problem, match="no"):
            _checkpoint.expire(command, {"nics": Stubborn()})
    assert waited[:4] == [2, 4, 8, 16] and waited[-2:] == [300, 300]
    states = [r["checkpoint_state"] for r in journal.read() if "checkpoint_state" in r]
    assert states == ["armed", "reverting"]


def test_a_timer_without_a_checkpoint_is_stopped(tmp_path: Path) -> None:
    """The process was killed after it started the timer and before it journalled the checkpoint."""
    commands: list[list[str]] = []
    (tmp_path / "timer").write_text("")
    (tmp_path / "armed").write_text("")

    def listening(words: Any) -> tuple[int, str, str]:
        commands.append([*words])
        return 0, "", ""

    assert _checkpoint.expire(listening, SUBSYSTEMS) == "No checkpoint is pending confirmation."
    assert commands == [["systemctl", "stop", "timer"]]
    assert not (tmp_path / "timer").exists() and not (tmp_path / "armed").exists()
