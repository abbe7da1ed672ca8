# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tune a node and revert it, or change the arguments with which GRUB boots it.

usage: revert_checks prepare | complete | refused | set | booted | revert | restored

``complete`` compares the complete state of the node before the changes and after the rollback. The steps run
in this order, with a reboot before ``booted`` and before ``restored``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._boot import apply as _boot_args
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply as _nic_tuning
from ansible_collections.podnet.datapath.plugins.module_utils._ops import revert_node
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import apply as _sysctl_zc
from tests.support import node_state

STATE = Path("/root/revert_checks.json")
FOLDERS = ("/boot", "/etc", "/usr/local")
ARGS = ["iommu=pt", "hugepagesz=2M", "hugepages=4", "hugepagesz=1G", "hugepages=0"]

# Settings of administrators: a saved entry, several drop-ins, and both kinds of quotes.
SITE = {
    "/etc/default/grub.d/50-site.cfg": (
        "GRUB_DEFAULT=saved\n"
        "# GRUB_CMDLINE_LINUX=\"iommu=off\"\n"
        "GRUB_CMDLINE_LINUX_DEFAULT='quiet  site.first=\"a b\"'\n"
    ),
    "/etc/default/grub.d/zz-site.cfg": 'GRUB_CMDLINE_LINUX="${GRUB_CMDLINE_LINUX} site.second=1"',
}  # fmt: skip
LATER = Path("/etc/default/grub.d/zzz-site.cfg")
SCRIPT = Path("/etc/grub.d/45_site")


def run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def command(words: Sequence[str]) -> tuple[int, str, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def state() -> dict[str, Any]:
    return {
        "sysctls": node_state.sysctls(),
        "files": node_state.files(*FOLDERS),
        **node_state.network(run),
    }


def set_boot_args(args: Sequence[str], run_command: Any = command) -> dict[str, Any]:
    params = {"args": args, "state": "present", "acknowledge_risk": False}
    return _boot_args.run(params, False, run_command).as_dict()


def revert() -> None:
    made = revert_node.run(revert_node.SUBSYSTEMS, False, False, command).as_dict()
    assert made["archived"] and not made["drift"], made


def complete() -> None:
    """Change sysctls, NICs and boot arguments, then revert all of them."""
    run("udevadm", "settle")
    before = state()
    sysctls = {
        "net.ipv4.ip_forward": 1, "net.ipv4.conf.default.rp_filter": 2, "net.ipv4.conf.wire0.rp_filter": 0,
        "net.ipv6.conf.default.forwarding": 1, "net.ipv4.tcp_rmem": "4096 131072 134217728",
        "net.core.rmem_max": 134217728, "net.ipv4.neigh.default.base_reachable_time": 40,
        "vm.dirty_bytes": 100000000, "kernel.printk": "4 4 1 7", "net.ipv4.tcp_congestion_control": "reno",
    }  # fmt: skip
    options = {"sysctls": sysctls, "window_scale": None, "file": "/etc/sysctl.d/zz-podnet.conf"}
    _sysctl_zc.run({**options, "state": "present", "pods": None}, False)
    nics: list[dict[str, Any]] = [
        {"driver": "e1000e", "mtu": 4168, "rings": {"rx": 1024}, "coalesce": {"rx-usecs": 50},
         "features": {"tso": False, "rxhash": False}},
        {"driver": "igb", "mtu": 8264, "rings": {"rx": 512}, "priv_flags": {"legacy-rx": True}},
        {"name": "wire0", "mtu": 8264, "gro_max_size": 60000, "features": {"sg": False, "gro": False},
         "qdisc": "fq", "steering": {"rps": "all", "rfs": 0}, "optional": ["steering"]},
    ]  # fmt: skip
    _nic_tuning.run(nics, True, False, command)
    set_boot_args(ARGS)
    changed = node_state.differences(before, state())
    for word in ("ip_forward", "dirty_ratio", "zz-podnet.cfg", "nics.json", "grub.cfg", "'mtu': 4168"):
        assert any(word in line for line in changed), f"{word}: {changed}"
    revert()
    remaining = node_state.differences(before, state())
    assert not remaining, "\n".join(remaining)
    again = revert_node.run(revert_node.SUBSYSTEMS, False, False, command)
    assert not again.changed


# GRUB


def default_line() -> str:
    """Return the command line in the first entry of grub.cfg, as the kernel shows it."""
    text = Path("/boot/grub/grub.cfg").read_text()
    line = re.search(r"^\s*linux\s+(.*?)\s*$", text, re.MULTILINE)
    assert line, text
    # GRUB puts the quotes around the complete argument, and single spaces between arguments.
    return re.sub(r'(\S+)="([^"]*)"', r'"\1=\2"', " ".join(line[1].split()))


def cmdline() -> str:
    return Path("/proc/cmdline").read_text().strip()


def prepare() -> None:
    """Generate grub.cfg with settings of administrators, and save the entry of the submenu as default."""
    for path, text in SITE.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text(text)
    (release,) = [path.name.partition("-")[2] for path in Path("/boot").glob("vmlinuz-*")]
    uuid = run("findmnt", "-no", "UUID", "/").strip()
    run("grub-set-default", f"gnulinux-advanced-{uuid}>gnulinux-{release}-advanced-{uuid}")
    code, out, err = command(["update-grub"])
    assert not code and Path("/boot/grub/grubenv").exists(), out + err
    former = {"files": node_state.files(*FOLDERS), "line": default_line()}
    STATE.write_text(json.dumps(former))


def former() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(STATE.read_text())
    return found


def assert_unchanged() -> None:
    found = node_state.differences({"files": former()["files"]}, {"files": node_state.files(*FOLDERS)})
    assert found == [], found


def refused() -> None:
    """A later drop-in discards the arguments; update-grub fails after it has written a part of grub.cfg."""
    for path, text, message in (
        (LATER, "GRUB_CMDLINE_LINUX=site.third=1\n", "iommu=pt is missing in the entry"),
        (SCRIPT, "#!/bin/sh\necho 'no space' >&2\nexit 1\n", "no space"),
    ):
        path.write_text(text)
        path.chmod(0o755)
        try:
            set_boot_args(ARGS)
        except Problem as problem:
            assert message in str(problem), problem
        else:
            raise AssertionError(f"accepted in spite of {path}")
        path.unlink()
        assert_unchanged()


def change() -> None:
    made = set_boot_args(ARGS)
    assert made["bootloader"] == "grub" and made["changed"] and made["reboot_required"], made
    assert not set_boot_args(ARGS)["changed"]


def booted() -> None:
    line = cmdline()
    assert line.startswith("BOOT_IMAGE=") and " ".join(ARGS) in line, line
    without = " ".join(line.replace(" ".join(ARGS), "").split())
    assert without == f"BOOT_IMAGE={former()['line']}", f"{without}\n{former()}"
    made = set_boot_args(ARGS)
    assert not made["changed"] and not made["reboot_required"], made


def killed(words: Sequence[str]) -> tuple[int, str, str]:
    """Stand in for a command; end this process as a power failure would."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0, "", ""


def undo() -> None:
    """Revert after a removal that was killed before update-grub, and compare all files."""
    child = os.fork()
    if not child:
        set_boot_args([], killed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert "iommu=pt" in Path("/boot/grub/grub.cfg").read_text()
    revert()
    assert_unchanged()


def restored() -> None:
    assert cmdline() == f"BOOT_IMAGE={former()['line']}", f"{cmdline()}\n{former()}"
    assert_unchanged()


STEPS = {
    "prepare": prepare, "complete": complete, "refused": refused, "set": change, "booted": booted,
    "revert": undo, "restored": restored,
}  # fmt: skip


def main() -> None:
    for name in sys.argv[1:]:
        STEPS[name]()


if __name__ == "__main__":
    main()
