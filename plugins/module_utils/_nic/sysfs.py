# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a NIC only sysfs and procfs have: NAPI, the CPUs of its queues and of its interrupts.

Private to this collection. Settings are named ``napi.threaded``, ``queues.rx-0.rps_cpus``, ``irqs.24``; sets
of CPUs are kept as lists (``0-3,8``).

Sources: Documentation/ABI/testing/sysfs-class-net and sysfs-class-net-queues,
Documentation/networking/scaling.rst, Documentation/core-api/irq/irq-affinity.rst.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Union

Value = Union[int, bool, str]

NAPI = ("threaded", "gro_flush_timeout", "napi_defer_hard_irqs")
GROUPS = ("napi", "queues", "irqs")


# Sets of CPUs


def cpus_of_list(text: str) -> frozenset[int]:
    """Return the CPUs in ``0-3,8``; raises ``ValueError``."""
    found: set[int] = set()
    for part in text.strip().split(",") if text.strip() else ():
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if not match:
            raise ValueError(text)
        first, last = int(match.group(1)), int(match.group(2) or match.group(1))
        if last < first:
            raise ValueError(text)
        found.update(range(first, last + 1))
    return frozenset(found)


def list_of(cpus: Iterable[int]) -> str:
    """Return CPUs as ``0-3,8``, empty for none."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][-1] == cpu - 1:
            parts[-1] = [parts[-1][0], cpu]
        else:
            parts.append([cpu])
    return ",".join("-".join(map(str, part)) for part in parts)


def cpus_of_mask(text: str) -> frozenset[int]:
    """Return the CPUs in a mask of words of 32 bits, ``00000001,0000000f``."""
    number = int(text.strip().replace(",", "") or "0", 16)
    return frozenset(cpu for cpu in range(number.bit_length()) if number >> cpu & 1)


def mask_of(cpus: Iterable[int]) -> str:
    """Return the mask of CPUs, as the kernel reads it."""
    number = sum(1 << cpu for cpu in cpus)
    words: list[str] = []
    while number or not words:
        words.append(f"{number & 0xFFFFFFFF:08x}")
        number >>= 32
    return ",".join(reversed(words))


@dataclass(frozen=True)
class Cpus:
    """The CPUs of a node, those next to a NIC, and the size of the node's table of flows for RFS."""

    online: frozenset[int]
    local: frozenset[int]
    flows: int = 0


# The kernel


class Sysfs:
    """The settings of NICs as /sys and /proc of this process have them."""

    def __init__(self, root: str = "/") -> None:
        self._root = root

    def _path(self, path: str) -> str:
        return os.path.join(self._root, path.lstrip("/"))

    def _read(self, path: str) -> str | None:
        try:
            with open(self._path(path), encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError:
            return None

    def sees(self, name: str, index: int) -> bool:
        """Tell whether /sys shows this NIC: it shows the network namespace that it was mounted in."""
        return self._read(f"/sys/class/net/{name}/ifindex") == str(index)

    def cpus(self, name: str) -> Cpus:
        """Return the node's CPUs, and those of the NUMA node of a NIC; all of them where it has none."""
        online = cpus_of_list(self._read("/sys/devices/system/cpu/online") or "0")
        local = cpus_of_list(self._read(f"/sys/class/net/{name}/device/local_cpulist") or "") & online
        flows = self._read("/proc/sys/net/core/rps_sock_flow_entries") or "0"
        return Cpus(online, local or online, int(flows))

    def _file(self, name: str, setting: str) -> str:
        group, word = setting.split(".", 1)
        if group == "irqs":
            return f"/proc/irq/{word}/smp_affinity_list"
        return f"/sys/class/net/{name}/{'' if group == 'napi' else 'queues/'}{word.replace('.', '/')}"

    def read(self, name: str, index: int) -> dict[str, Value]:
        """Return what there is of a NIC; nothing where /sys shows another network namespace."""
        if not self.sees(name, index):
            return {}
        settings = [f"napi.{word}" for word in NAPI]
        queues = self._path(f"/sys/class/net/{name}/queues")
        for word in ("rx-*/rps_cpus", "rx-*/rps_flow_cnt", "tx-*/xps_cpus"):
            for path in glob.glob(f"{queues}/{word}"):
                settings.append("queues." + os.path.relpath(path, queues).replace("/", "."))
        for path in glob.glob(self._path(f"/sys/class/net/{name}/device/msi_irqs/*")):
            settings.append(f"irqs.{os.path.basename(path)}")
        # A virtio NIC's device is virtioN; its parent, the PCI function, has the interrupts.
        for path in glob.glob(self._path(f"/sys/class/net/{name}/device/../msi_irqs/*")):
            settings.append(f"irqs.{os.path.basename(path)}")
        found: dict[str, Value] = {}
        for setting in sorted(settings):
            text = self._read(self._file(name, setting))
            if text is None:
                continue
            if setting.endswith("_cpus"):
                found[setting] = list_of(cpus_of_mask(text))
            elif setting.startswith("irqs."):
                found[setting] = list_of(cpus_of_list(text))
            elif setting == "napi.threaded":
                found[setting] = text == "1"
            else:
                found[setting] = int(text)
        return found

    def write(self, name: str, settings: Mapping[str, Value]) -> None:
        """Write settings; raises ``OSError``."""
        for setting, value in settings.items():
            if setting.endswith("_cpus"):
                text = mask_of(cpus_of_list(str(value)))
            elif isinstance(value, bool):
                text = str(int(value))
            else:
                text = str(value)
            descriptor = os.open(self._path(self._file(name, setting)), os.O_WRONLY)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)

    def balancer(self) -> bool:
        """Tell whether irqbalance runs, which moves interrupts as it likes."""
        return any(self._read(f"/proc/{name}/comm") == "irqbalance" for name in self._processes())

    def _processes(self) -> list[str]:
        return [name for name in os.listdir(self._path("/proc")) if name.isdigit()]


# The plan

_LACKS = {
    "rps": "no receive queue to be seen",
    "xps": "one transmit queue, so there is nothing to choose",
    "irqs": "no interrupts of its own",
}
_PATTERNS = {"rps": r"queues\..*\.rps_cpus", "xps": r"queues\..*\.xps_cpus", "irqs": r"irqs\..*"}


def _chosen(option: str, value: object, cpus: Cpus) -> frozenset[int]:
    """Return the CPUs that a word or a list means; raises ``ValueError`` with what is wrong."""
    if value == "local":
        return cpus.local
    if value == "all":
        return cpus.online
    if value == "none":
        return frozenset()
    try:
        found = cpus_of_list(str(value))
    except ValueError:
        raise ValueError(f"{option}: {value!r} is not local, all, none or a list such as 0-3,8") from None
    offline = found - cpus.online
    if offline:
        raise ValueError(f"{option}: CPU {list_of(offline)} is not online; there are: {list_of(cpus.online)}")
    return found


def _ordered(settings: Iterable[str]) -> list[str]:
    """Return settings by the numbers in them."""
    return sorted(settings, key=lambda text: [int(number) for number in re.findall(r"\d+", text)])


def steer(
    values: Mapping[str, object], wish: Mapping[str, object], cpus: Cpus, balancer: bool
) -> tuple[dict[str, Value], list[str]]:
    """Return the settings of queues and interrupts that ``wish`` means, and what cannot be.

    RPS gives every receive queue all chosen CPUs; XPS and interrupts are dealt out to them one after the
    other; RFS shares a number of flows out to the receive queues, in powers of two.
    """
    settings: dict[str, Value] = {}
    problems = []
    for option, value in wish.items():
        try:
            if option == "rfs":
                settings.update(_rfs(values, value, cpus))
                continue
            chosen = sorted(_chosen(f"steering: {option}", value, cpus))
            pattern = _PATTERNS[option]
            there = _ordered(name for name in values if re.fullmatch(pattern, name))
            if not there:
                raise ValueError(
                    f"steering: {option}: this NIC has {_LACKS[option]}: leave it out, or name"
                    f" steering.{option} in optional"
                )
            if option == "irqs" and not chosen:
                raise ValueError("steering: irqs: an interrupt needs a CPU: choose local, all or a list")
            if option == "irqs" and balancer:
                raise ValueError(
                    "steering: irqs: irqbalance runs and would move them: stop it, or leave irqs out"
                )
            for number, setting in enumerate(there):
                one = [chosen[number % len(chosen)]] if chosen else []
                settings[setting] = list_of(chosen if option == "rps" else one)
        except ValueError as error:
            problems.append(str(error))
    return settings, problems


def _rfs(values: Mapping[str, object], value: object, cpus: Cpus) -> dict[str, Value]:
    queues = [name for name in values if name.endswith(".rps_flow_cnt")]
    if isinstance(value, bool) or not str(value).isdecimal():
        raise ValueError(f"steering: rfs: {value!r} is no number of flows")
    flows = int(str(value))
    if not queues:
        raise ValueError("steering: rfs: this kernel has no RFS (CONFIG_RFS_ACCEL or CONFIG_RPS)")
    if flows > cpus.flows:
        raise ValueError(
            f"steering: rfs: {flows} flows need net.core.rps_sock_flow_entries of at least that, which is"
            f" {cpus.flows}: set it with sysctl_zc first"
        )
    share = max(flows // len(queues), 1)
    return dict.fromkeys(queues, 1 << (share.bit_length() - 1) if flows else 0)
