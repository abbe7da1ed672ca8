# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot arguments: what holds for any, and GRUB's files below a folder. molecule runs the real update-grub."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._boot import apply, bls
from ansible_collections.podnet.datapath.plugins.module_utils._boot.bls import Current, Entry
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem

words = st.text("abcxyz_019.,:=/@%+~-", min_size=1, max_size=8).filter(lambda w: not w.startswith("="))
lines = st.lists(words, max_size=6, unique=True)


def test_both_forms_say_the_same() -> None:
    assert apply.parse({"iommu": "pt", "quiet": None, "init_on_free": 0}) == apply.parse(
        ["iommu=pt", "quiet", "init_on_free=0"]
    )
    assert apply.parse(["console=tty0", "console=ttyS0", "console=tty0"]) == [
        "console=tty0",
        "console=ttyS0",
    ]


@pytest.mark.parametrize(
    "token",
    ['a="b c"', "a b", "a=$HOME", "a`id`", "a'b'", "a\\b", "a\nb", "", "=b", "a;b", "a&b", "(hd0)", "*", "ä"],
)
def test_what_a_shell_would_change_is_refused(token: str) -> None:
    with pytest.raises(Problem, match="do not reach the kernel unharmed"):
        apply.parse([token])


@pytest.mark.parametrize("args", ["iommu=pt", 1, None, {"a": True}, {"a": ["b"]}, [["a"], "b"]])
def test_other_types_are_refused(args: object) -> None:
    with pytest.raises(Problem, match=r"^args: "):
        apply.parse(args)


@pytest.mark.parametrize(
    "token",
    ["iommu=off", "iommu=noaperture,off", "intel_iommu=off", "amd_iommu=off", "init_on_alloc=0",
     "init_on_alloc=off", "init_on_alloc=N"],
)  # fmt: skip
def test_what_gives_up_protection_has_a_cost(token: str) -> None:
    assert list(apply.costs(["quiet", token])) == [token]


def test_what_costs_nothing() -> None:
    assert (
        apply.costs(["iommu=pt", "init_on_alloc=1", "init_on_alloc=on", "init_on_free=0", "off", "iommu"])
        == {}
    )


@given(lines, lines)
def test_nothing_lacks_once_the_arguments_stand_last(tokens: list[str], line: list[str]) -> None:
    assert apply.lacking(tokens, [*line, *tokens]) == {}
    assert set(apply.lacking(tokens, line)) >= set(tokens) - set(line)


def test_a_later_value_undoes_an_earlier_one() -> None:
    assert apply.lacking(["iommu=pt"], ["ro", "iommu=pt", "iommu=off"]) == {"iommu=pt": "iommu=off"}
    assert apply.lacking(["iommu=pt"], ["ro", "iommu=off", "iommu=pt"]) == {}
    assert apply.lacking(["iommu=pt"], ["ro", "iommu=ptx", "xiommu=pt"]) == {"iommu=pt": ""}
    assert apply.lacking(["console=tty0"], ["console=tty0", "console=ttyS0"]) == {}


@given(lines)
def test_the_drop_in_is_read_as_it_was_written(tokens: list[str]) -> None:
    text = apply.grub_text(tokens)
    assert list(apply.grub_tokens(text)) == tokens
    assert (text is None) == (not tokens)


@given(lines, lines, st.lists(lines, max_size=3))
def test_a_plan_carried_out_is_empty(own: list[str], tokens: list[str], others: list[list[str]]) -> None:
    def booted(mine: list[str]) -> Current:
        return Current(tuple(mine), tuple(Entry("Linux", (*line, *mine)) for line in others))

    changes = apply.plan(booted(own), tokens, "file")
    assert bool(changes) == (own != tokens)
    assert apply.plan(booted(tokens), tokens, "file") == []


def test_entries_that_were_not_made_anew_are_a_change() -> None:
    current = Current(("iommu=pt",), (Entry("new kernel", ("ro",)), Entry("old", ("ro", "iommu=pt"))))
    (change,) = apply.plan(current, ["iommu=pt"], "file")
    assert (change.name, change.before, change.after) == ("new kernel", "ro", "ro iommu=pt")


# What Debian's grub-mkconfig does with settings and kernels, without looking for disks.
UPDATE_GRUB = r"""#!/bin/sh
set -e
root=${0%/usr/sbin/update-grub}
. "$root/etc/default/grub"
for x in "$root"/etc/default/grub.d/*.cfg; do [ -e "$x" ] && . "$x"; done
[ -z "$FAIL" ] || { echo "error: $FAIL" >&2; exit 1; }
{
    echo '### BEGIN /etc/grub.d/10_linux ###'
    for kernel in "$root"/boot/vmlinuz-*; do
        [ -e "$kernel" ] || continue
        name=${kernel##*/}
        printf "menuentry 'Debian GNU/Linux, with Linux %s' --class debian {\n" "${name#vmlinuz-}"
        printf '\tlinux\t/boot/%s root=UUID=1 ro %s\n}\n' \
            "$name" "$GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT"
        printf "menuentry 'Debian GNU/Linux, with Linux %s (recovery mode)' {\n" "${name#vmlinuz-}"
        printf '\tlinux\t/boot/%s root=UUID=1 ro single %s\n}\n' "$name" "$GRUB_CMDLINE_LINUX"
    done
    echo '### END /etc/grub.d/10_linux ###'
    echo '### BEGIN /etc/grub.d/30_os-prober ###'
    printf "menuentry 'Another system' {\n\tlinux /boot/vmlinuz root=/dev/sdb1\n}\n"
    echo '### END /etc/grub.d/30_os-prober ###'
} >"$root/boot/grub/grub.cfg.new"
mv "$root/boot/grub/grub.cfg.new" "$root/boot/grub/grub.cfg"
"""


class System:
    """A system's files below a folder, and the module run on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("etc/default/grub.d", "boot/grub", "usr/sbin", "proc/sys/kernel/random", "run"):
            (root / folder).mkdir(parents=True)
        self.drop_in = root / "etc/default/grub.d/zz-podnet.cfg"
        self.config = root / "boot/grub/grub.cfg"
        self.cmdline = root / "proc/cmdline"
        (root / "boot/vmlinuz-6.1.0-56-amd64").touch()
        (root / "boot/vmlinuz-6.12.1-amd64").touch()
        (root / "usr/sbin/update-grub").write_text(UPDATE_GRUB)
        (root / "usr/sbin/update-grub").chmod(0o755)
        (root / "proc/sys/kernel/random/boot_id").write_text("b00t\n")
        self.default("")
        self.command([str(root / "usr/sbin/update-grub")])
        self.boot()

    def default(self, text: str) -> None:
        settings = 'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="audit=0"\n' + text
        (self.root / "etc/default/grub").write_text(settings)

    def boot(self) -> None:
        """Boot the first entry."""
        line = next(line for line in self.config.read_text().splitlines() if "vmlinuz" in line)
        self.cmdline.write_text(f"BOOT_IMAGE={line.split(None, 1)[1]}\n")
        (self.root / "run/podnet/boot_args").unlink(missing_ok=True)

    def command(self, words: Sequence[str]) -> tuple[int, str, str]:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def __call__(
        self, args: object, check: bool = False, state: str = "present", risk: bool = False
    ) -> dict[str, Any]:
        params = {"args": args, "state": state, "acknowledge_risk": risk}
        result = apply.run(params, check, self.command, str(self.root))
        self.warnings = result.warnings
        return result.as_dict()

    def files(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in self.root.rglob("*") if p.is_file()}

    def refused(self, args: object) -> str:
        before = self.files()
        with pytest.raises(Problem) as raised:
            self(args)
        assert self.files() == before
        return str(raised.value)


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def facts(result: dict[str, Any]) -> tuple[bool, bool, list[str], list[str]]:
    return result["changed"], result["reboot_required"], result["missing"], result["stale"]


def test_arguments_come_stay_and_go(system: System) -> None:
    untouched = system.files()
    running = system.cmdline.read_text()
    args = {"iommu": "pt", "nowatchdog": None}
    promised = system(args, check=True)
    assert facts(promised) == (True, True, ["iommu=pt", "nowatchdog"], []) and system.files() == untouched
    made = system(args)
    assert made == promised
    assert made["bootloader"] == "grub" and made["boot_id"] == "b00t"
    assert system.config.read_text().count(" audit=0 iommu=pt nowatchdog") == 4
    assert facts(system(args)) == (False, True, ["iommu=pt", "nowatchdog"], [])
    system.boot()
    assert facts(system(args)) == (False, False, [], [])

    assert facts(system(["iommu=pt"], check=True)) == (True, True, [], ["nowatchdog"])
    assert facts(system(["iommu=pt"])) == (True, True, [], ["nowatchdog"])
    assert facts(system(["iommu=pt"])) == (False, True, [], ["nowatchdog"])
    assert facts(system({}, state="absent")) == (True, True, [], ["iommu=pt", "nowatchdog"])
    assert facts(system({})) == (False, True, [], ["iommu=pt", "nowatchdog"])
    assert facts(system(["nowatchdog"])) == (True, True, [], ["iommu=pt"])
    assert facts(system([])) == (True, True, [], ["iommu=pt", "nowatchdog"])
    system.boot()
    assert facts(system([])) == (False, False, [], [])
    assert system.files() == untouched and system.cmdline.read_text() == running


def test_an_argument_that_others_give_as_well_is_not_left_over(system: System) -> None:
    system(["audit=0"])
    system.boot()
    assert facts(system([], check=True)) == (True, False, [], [])
    assert facts(system([])) == (True, False, [], [])


def test_entries_of_a_forgotten_update_are_made_anew(system: System) -> None:
    before = system.config.read_text()
    system(["iommu=pt"])
    system.config.write_text(before)
    assert len(system(["iommu=pt"], check=True)["changes"]) == 4
    assert system(["iommu=pt"])["changed"]
    assert not system(["iommu=pt"])["changed"]


def test_a_failing_update_leaves_everything_as_it_was(system: System) -> None:
    system(["iommu=pt"])
    system.default("FAIL='no space'\n")
    message = system.refused(["iommu=pt", "nowatchdog"])
    assert "update-grub failed with 1:\nerror: no space" in message
    assert "zz-podnet.cfg and /boot/grub/grub.cfg are as they were" in message


def test_a_later_value_elsewhere_is_named(system: System) -> None:
    system.default('GRUB_CMDLINE_LINUX_DEFAULT="quiet iommu=strict"\n')
    message = system.refused(["iommu=pt"])
    assert "Linux 6.1.0-56-amd64' of /boot/grub/grub.cfg has iommu=strict after it" in message
    assert "recovery" not in message


def test_a_setting_that_is_not_read_is_named(system: System) -> None:
    (system.root / "etc/default/grub.d/zzz.cfg").write_text('GRUB_CMDLINE_LINUX=""\n')
    assert "iommu=pt is not in the entry" in system.refused(["iommu=pt"])


def test_no_kernels_in_boot(system: System) -> None:
    for kernel in system.root.glob("boot/vmlinuz-*"):
        kernel.unlink()
    assert "left no entry of a kernel" in system.refused(["iommu=pt"])


def test_a_drop_in_of_others_is_left_alone(system: System) -> None:
    system.drop_in.write_text('GRUB_CMDLINE_LINUX="x"\n')
    assert "was not written by this collection" in system.refused(["iommu=pt"])


def test_risks_are_taken_knowingly(system: System) -> None:
    message = system.refused(["iommu=off", "init_on_alloc=0", "init_on_free=0"])
    assert message.count("set acknowledge_risk: true") == 2 and "VFIO" in message
    assert system(["iommu=off", "init_on_alloc=0"], risk=True)["changed"]
    assert len(system.warnings) == 2 and "iommu=off: devices can read" in system.warnings[0]


def test_no_boot_loader(system: System) -> None:
    (system.root / "usr/sbin/update-grub").unlink()
    assert "neither GRUB nor grubby nor systemd-boot is here" in system.refused(["iommu=pt"])
    assert facts(system({})) == (False, False, [], [])


def test_an_iommu_in_use_stays(system: System) -> None:
    vfio = system.root / "sys/bus/pci/drivers/vfio-pci/0000:3b:00.2"
    vfio.mkdir(parents=True)
    function = system.root / "sys/bus/pci/devices/0000:5e:00.0"
    function.mkdir(parents=True)
    (function / "sriov_numvfs").write_text("4\n")
    before = system.files()
    with pytest.raises(Problem) as raised:
        system(["iommu=off"], risk=True)
    assert str(raised.value) == (
        "args: iommu=off: 0000:3b:00.2 (bound to vfio-pci), 0000:5e:00.0 (with virtual functions) need the"
        " IOMMU: use iommu=pt, or take that out of use first"
    )
    assert system.files() == before
    assert system(["iommu=pt", "init_on_alloc=0"], risk=True)["changed"]


@given(lines, lines, lines)
def test_ours_come_and_go_and_others_stay(line: list[str], own: list[str], tokens: list[str]) -> None:
    there = [*line, *own]
    after = bls.changed(there, own, tokens)
    assert after == [*line, *tokens]
    assert bls.changed(after, tokens, own) == there


class SystemdBoot(System):
    """A system with entries of systemd-boot, one of which boots no kernel."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "usr/sbin/update-grub").unlink()
        self.entries = root / "boot/efi/loader/entries"
        self.entries.mkdir(parents=True)
        for version in ("6.1", "6.12"):
            (self.entries / f"m-{version}.conf").write_text(
                f"title Debian\nversion {version}\noptions root=UUID=1 ro quiet\nlinux /m/{version}/linux\n"
            )
        (self.entries / "shell.conf").write_text("title Shell\nefi /shell.efi\noptions -x\n")
        self.coming = root / "etc/kernel/cmdline"

    def boot(self) -> None:
        line = self.entries / "m-6.1.conf" if hasattr(self, "entries") else None
        self.cmdline.write_text(" ".join(bls.options_of(line.read_text())) if line else "quiet")
        (self.root / "run/podnet/boot_args").unlink(missing_ok=True)


def test_systemd_boot_entries_and_kernels_to_come(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    system.coming.parent.mkdir()
    system.coming.write_text("root=UUID=1 ro quiet\n")
    untouched = system.files()
    promised = system(["iommu=pt"], check=True)
    assert system.files() == untouched
    made = system(["iommu=pt"])
    assert made == promised and made["bootloader"] == "systemd-boot" and made["reboot_required"]
    for file in (*system.entries.glob("m-*"), system.coming):
        assert file.read_text().count("root=UUID=1 ro quiet iommu=pt\n") == 1
    assert "iommu" not in (system.entries / "shell.conf").read_text()
    assert not system(["iommu=pt"])["changed"]
    system.boot()
    assert facts(system(["iommu=pt"])) == (False, False, [], [])
    # A kernel that was installed meanwhile without ours.
    (system.entries / "m-7.conf").write_text("linux /m/7/linux\noptions root=UUID=1\n")
    assert system(["iommu=pt"])["changed"] and not system(["iommu=pt"])["changed"]
    (system.entries / "m-7.conf").unlink()
    assert facts(system([])) == (True, True, [], ["iommu=pt"])
    system.boot()
    (tmp_path / "proc/cmdline").write_bytes(untouched[str(tmp_path / "proc/cmdline")])
    assert system.files() == untouched


def test_a_unified_kernel_holds_its_own_arguments(tmp_path: Path) -> None:
    system = SystemdBoot(tmp_path)
    (tmp_path / "boot/efi/EFI/Linux").mkdir(parents=True)
    (tmp_path / "boot/efi/EFI/Linux/debian.efi").touch()
    assert "is a unified kernel image" in system.refused(["iommu=pt"])


# What grubby(8) of Fedora and RHEL documents, over a file for each kernel. It is no part of Debian.
GRUBBY = r"""#!/bin/sh
root=${0%/usr/sbin/grubby}
[ ! -e "$root/broken" ] || { echo "grubby: no space" >&2; exit 1; }
remove= add=
for word; do case $word in
    --info=ALL)
        index=0
        for file in "$root"/boot/bls/*; do
            printf 'index=%s\nkernel="/boot/vmlinuz-%s"\nargs="%s"\nroot="UUID=1"\ntitle="Fedora %s"\n' \
                $index "${file##*/}" "$(cat "$file")" "${file##*/}"
            index=$((index + 1))
        done
        printf 'index=%s\nnon linux entry\n' $index ;;
    --remove-args=*) remove=${word#*=} ;;
    --args=*) add=${word#*=} ;;
    --update-kernel=ALL) ;;
    *) exit 2 ;;
esac; done
[ ! -e "$root/idle" ] || exit 0
for file in "$root"/boot/bls/*; do
    new=
    for token in $(cat "$file"); do
        keep=$token
        for gone in $remove; do [ "$token" = "$gone" ] && keep=; done
        for other in $add; do [ "${token%%=*}" = "${other%%=*}" ] && keep=; done
        [ -z "$keep" ] || new="$new $keep"
    done
    for token in $add; do new="$new $token"; done
    echo $new >"$file"
done
"""


class Fedora(System):
    """A system whose entries are grubby's."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        (root / "usr/sbin/grubby").write_text(GRUBBY)
        (root / "usr/sbin/grubby").chmod(0o755)
        (root / "boot/bls").mkdir()
        for version in ("6.1", "6.12"):
            (root / f"boot/bls/{version}").write_text("ro rhgb quiet\n")

    def lines(self) -> list[str]:
        return [file.read_text().strip() for file in sorted((self.root / "boot/bls").iterdir())]


def test_grubby_s_entries(tmp_path: Path) -> None:
    system = Fedora(tmp_path)
    untouched = system.files()
    promised = system(["iommu=pt", "nowatchdog"], check=True)
    assert system.files() == untouched
    assert system(["iommu=pt", "nowatchdog"]) == promised and promised["bootloader"] == "grubby"
    assert system.lines() == ["ro rhgb quiet iommu=pt nowatchdog"] * 2
    assert not system(["iommu=pt", "nowatchdog"])["changed"]
    system(["iommu=pt"])
    assert system.lines() == ["ro rhgb quiet iommu=pt"] * 2
    system([])
    assert system.files() == untouched


def test_grubby_s_status_and_deeds_are_looked_at(tmp_path: Path) -> None:
    system = Fedora(tmp_path)
    (tmp_path / "idle").touch()
    message = system.refused(["iommu=pt"])
    assert "reported success, but the entry 'Fedora 6.1' lacks iommu=pt" in message
    (tmp_path / "idle").unlink()
    (tmp_path / "broken").touch()
    assert "--info=ALL failed with 1:\ngrubby: no space" in system.refused(["iommu=pt"])


def test_a_value_that_grubby_would_lose_is_named(tmp_path: Path) -> None:
    system = Fedora(tmp_path)
    (tmp_path / "boot/bls/6.1").write_text("ro iommu=strict\n")
    assert "the entry 'Fedora 6.1' has iommu=strict from elsewhere" in system.refused(["iommu=pt"])
