# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB's drop-in file and grub.cfg; molecule runs the real update-grub."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._boot import grub
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from tests.unit.boot.boot_system import System, facts, fill

words = st.text("abcxyz_019.,:=/@%+~-", min_size=1, max_size=8).filter(
    lambda w: not w.startswith("=") and w != "--"
)
lines = st.lists(words, max_size=6, unique=True)


@given(lines)
def test_the_drop_in_file_is_parsed_as_it_was_rendered(tokens: list[str]) -> None:
    text = grub.render_drop_in(tokens)
    assert list(grub.parse_drop_in(text)) == tokens
    assert (text is None) == (not tokens)


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_arguments_are_added_kept_and_removed(system: System) -> None:
    untouched = system.files()
    running = system.cmdline.read_text()
    args = {"iommu": "pt", "nowatchdog": None}
    predicted = system(args, check=True)
    assert facts(predicted) == (True, True, ["iommu=pt", "nowatchdog"], []) and system.files() == untouched
    made = system(args)
    assert made == predicted
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


def test_an_argument_that_is_set_elsewhere_too_is_not_stale(system: System) -> None:
    system(["audit=0"])
    system.boot()
    assert facts(system([], check=True)) == (True, False, [], [])
    assert facts(system([])) == (True, False, [], [])


def test_an_outdated_grub_cfg_is_generated_again(system: System) -> None:
    before = system.config.read_text()
    system(["iommu=pt"])
    system.config.write_text(before)
    assert len(system(["iommu=pt"], check=True)["changes"]) == 4
    assert system(["iommu=pt"])["changed"]
    assert not system(["iommu=pt"])["changed"]


def test_a_failing_update_restores_all_files(system: System) -> None:
    system(["iommu=pt"])
    system.default("FAIL='no space'\n")
    message = system.refused(["iommu=pt", "nowatchdog"])
    assert "update-grub failed with 1:\nerror: no space" in message
    assert "zz-podnet.cfg and /boot/grub/grub.cfg were restored" in message


def test_an_overriding_value_is_reported(system: System) -> None:
    system.default('GRUB_CMDLINE_LINUX_DEFAULT="quiet iommu=strict"\n')
    message = system.refused(["iommu=pt"])
    assert "iommu=strict overrides it in the entry 'Debian GNU/Linux, with Linux 6.1.0-56-amd64'" in message
    assert "recovery" not in message


def test_a_drop_in_file_that_is_not_read_is_reported(system: System) -> None:
    (system.root / "etc/default/grub.d/zzz.cfg").write_text('GRUB_CMDLINE_LINUX=""\n')
    assert "iommu=pt is missing in the entry" in system.refused(["iommu=pt"])


def test_no_kernels_in_boot(system: System) -> None:
    for kernel in system.root.glob("boot/vmlinuz-*"):
        kernel.unlink()
    assert "wrote no kernel entry" in system.refused(["iommu=pt"])


def test_a_foreign_drop_in_file_is_not_overwritten(system: System) -> None:
    system.drop_in.write_text('GRUB_CMDLINE_LINUX="x"\n')
    assert "was not written by this collection" in system.refused(["iommu=pt"])


def test_risks_need_to_be_acknowledged(system: System) -> None:
    message = system.refused(["iommu=off", "init_on_alloc=0", "init_on_free=0"])
    assert message.count("set acknowledge_risk: true") == 2 and "VFIO" in message
    assert system(["iommu=off", "init_on_alloc=0"], risk=True)["changed"]
    assert len(system.warnings) == 2 and "iommu=off: devices can read" in system.warnings[0]


def test_no_boot_loader(system: System) -> None:
    (system.root / "usr/sbin/update-grub").unlink()
    assert "no supported boot loader found (grub, grubby, systemd-boot)" in system.refused(["iommu=pt"])
    assert facts(system({})) == (False, False, [], [])


def test_an_iommu_in_use_is_not_disabled(system: System) -> None:
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
        " IOMMU: use iommu=pt, or stop using these devices first"
    )
    assert system.files() == before
    assert system(["iommu=pt", "init_on_alloc=0"], risk=True)["changed"]


def test_an_unsafe_argument_in_another_spelling_needs_the_acknowledgement(system: System) -> None:
    assert "set acknowledge_risk: true" in system.refused({"init-on-alloc": "0"})
    (system.root / "sys/bus/pci/drivers/vfio-pci/0000:3b:00.2").mkdir(parents=True)
    before = system.files()
    with pytest.raises(Problem, match="need the IOMMU"):
        system({"intel-iommu": "off"}, risk=True)
    assert system.files() == before


def test_arguments_of_init_are_no_arguments_of_the_kernel(system: System) -> None:
    system.cmdline.write_text("root=UUID=1 ro -- iommu=pt\n")
    assert facts(system(["iommu=pt"], check=True))[1:3] == (True, ["iommu=pt"])
    system.cmdline.write_text('root=UUID=1 note="a iommu=pt b"\n')
    assert facts(system(["iommu=pt"], check=True))[1:3] == (True, ["iommu=pt"])
    system.default('GRUB_CMDLINE_LINUX="audit=0 -- single"\n')
    assert "iommu=pt is missing in the entry" in system.refused(["iommu=pt"])


def test_all_repeated_arguments_reach_the_entries(system: System) -> None:
    huge = ["hugepagesz=1G", "hugepages=4", "hugepagesz=2M", "hugepages=4"]
    system(huge)
    assert system.config.read_text().count(" ".join(huge)) == 4
    system.boot()
    assert facts(system(huge)) == (False, False, [], [])


def test_programs_do_not_depend_on_the_callers_environment(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = system.root / "usr/sbin/update-grub"
    check = "case :$PATH: in *:/usr/sbin:*) ;; *) echo 'no sbin' >&2; exit 127 ;; esac\n"
    update.write_text(update.read_text().replace("set -e\n", f"set -e\n{check}", 1))
    monkeypatch.setenv("PATH", "/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setenv("GRUB_CMDLINE_LINUX_DEFAULT", "iommu=off")
    assert system(["iommu=pt"])["changed"]


@pytest.mark.parametrize("free", [0, 4096, 8192])
def test_a_full_boot_partition_changes_nothing(small_boot: Path, free: int) -> None:
    system = System(small_boot)
    padding = fill(small_boot / "boot", free)
    huge = [f"memmap={number}M" for number in range(300)]
    message = system.refused(huge)
    assert "No space left on device" in message or "update-grub failed" in message
    padding.unlink()
    assert system(huge)["changed"]
