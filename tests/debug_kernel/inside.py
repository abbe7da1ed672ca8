# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Init of the debug kernel. /mnt/arguments has its arguments, one per line: ``detectors`` plants bugs,
``driver SEED MINUTES CHECK...`` tests the driver.

Its messages go to the kernel's log, so that they are in order with the kernel's reports. Results are written
to the host's folder, mounted at /run/host.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import time
import traceback
from pathlib import Path

MOUNTS = (
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("tmpfs", "/run", ""),
    ("tmpfs", "/tmp", ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
    ("bpf", "/sys/fs/bpf", ""),
    ("hostfs", "/run/host", "/mnt"),
)
KMEMLEAK = Path("/sys/kernel/debug/kmemleak")
YOUNG = 6  # seconds: kmemleak ignores objects younger than 5 s
SHOWN = 10  # leaks to log at most
POWER_OFF = 0x4321FEDC  # linux/reboot.h
RNDADDENTROPY = 0x40085203  # linux/random.h
BUGS = ("leak", "rcu-usage", "refcount", "lock-order", "use-after-free")  # the last two disable lockdep


def seed_random() -> None:
    """Credit the host's entropy: the kernel has no source, so getrandom() would block."""
    data = Path("/mnt/randomness").read_bytes()
    with Path("/dev/random").open("wb") as device:
        fcntl.ioctl(device, RNDADDENTROPY, struct.pack("=ii", 8 * len(data), len(data)) + data)


def log_message(**facts: str) -> None:
    Path("/dev/kmsg").write_text("podnet: " + json.dumps(facts))


def begin(what: str) -> None:
    log_message(begin=what)


def show_leaks() -> None:
    """Scan twice, because an object can be missed by one scan; write the leaks to the kernel's log."""
    time.sleep(YOUNG)
    for dummy in range(2):
        KMEMLEAK.write_text("scan")
    with Path("/dev/kmsg").open("w", buffering=1) as log:
        for leak in KMEMLEAK.read_text().split("unreferenced object")[1 : SHOWN + 1]:
            for line in ("unreferenced object" + leak).rstrip().splitlines():
                log.write(line + "\n")
    KMEMLEAK.write_text("clear")


def check_lockdep() -> None:
    """Log whether lockdep is still on: it turns itself off at its first report."""
    stats = Path("/proc/lockdep_stats").read_text()
    log_message(lockdep="on" if re.search(r"debug_locks:\s+1\b", stats) else "off")


def detectors() -> None:
    """Send traffic over the kernel's own devices, then plant one bug of each kind."""
    from tests.support import driver_node, driver_topology  # at import they need the mounts

    begin("traffic without the driver")
    programs = driver_node.Programs("/mnt/driver.bpf.o")
    with contextlib.closing(driver_topology.Topology("", programs)) as topology:
        topology.wire()
        for address in (driver_topology.WIRE, driver_topology.WIRE_6):
            topology.host.ping(address)
            driver_topology.transfer(topology.far, topology.host, address)
        with driver_topology.flood(topology.host, driver_topology.WIRE):
            time.sleep(1)
    programs.close()
    show_leaks()
    check_lockdep()
    for bug in BUGS:
        begin(f"plant {bug}")
        subprocess.run(["insmod", "/mnt/plant.ko", f"bug={bug}"], check=True)
        if bug == "leak":
            show_leaks()
        subprocess.run(["rmmod", "plant"], check=True)


def driver(seed: str, minutes: str, *checks: str) -> None:
    """Run the checks, then random operations under traffic; log leaks after both."""
    begin("checks")
    with Path("/run/host/checks").open("w") as output:
        arguments = ["/mnt/meta.ko", "/mnt/driver.bpf.o", *checks]
        command = [sys.executable, "-m", "tests.driver.driver_checks", *arguments]
        subprocess.run(command, stdout=output, check=True)
    begin("leaks after the checks")
    show_leaks()
    begin("random operations")
    with Path("/run/host/random").open("w") as output:
        command = [sys.executable, "-m", "tests.debug_kernel.random_operations", seed, minutes]
        subprocess.run(command, stdout=output, check=True)
    begin("leaks after random operations")
    show_leaks()  # while the module is loaded, so that its functions have names
    subprocess.run(["rmmod", "meta"], check=True)
    show_leaks()
    check_lockdep()


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, folder, data in MOUNTS:
        with contextlib.suppress(FileExistsError):
            Path(folder).mkdir()
        if libc.mount(b"none", folder.encode(), kind.encode(), 0, data.encode()):
            print(f"{folder}: {os.strerror(ctypes.get_errno())}", flush=True)
    Path("/run/netns").mkdir()
    seed_random()
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    try:
        what, *arguments = Path("/mnt/arguments").read_text().splitlines()
        {"detectors": detectors, "driver": driver}[what](*arguments)
        log_message(end="complete")
    except BaseException:
        for line in traceback.format_exc().splitlines():
            log_message(end=line[:700])
    libc.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
