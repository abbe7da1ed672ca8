# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""NIC settings that only sysfs and procfs have: NAPI, queues and interrupts.

Settings are named ``napi.threaded``, ``queues.rx-0.rps_cpus``, ``irqs.24``. CPU sets are lists (``0-3,8``).

Sources: Documentation/ABI/testing/sysfs-class-net and sysfs-class-net-queues,
Documentation/core-api/irq/irq-affinity.rst.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping
from typing import Union

from .cpus import Cpus, format_list, format_mask, parse_list, parse_mask

Value = Union[int, bool, str]

NAPI = ("threaded", "gro_flush_timeout", "napi_defer_hard_irqs")
GROUPS = ("napi", "queues", "irqs")


class Sysfs:
    """Settings of NICs in /sys and /proc."""

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

    def shows(self, name: str, index: int) -> bool:
        """Return whether /sys shows this NIC, and not those of the network namespace that mounted it."""
        return self._read(f"/sys/class/net/{name}/ifindex") == str(index)

    def cpus(self, name: str) -> Cpus:
        """Return the online CPUs, and those on the NIC's NUMA node, or all if it has no NUMA node."""
        online = parse_list(self._read("/sys/devices/system/cpu/online") or "0")
        local = parse_list(self._read(f"/sys/class/net/{name}/device/local_cpulist") or "") & online
        flows = self._read("/proc/sys/net/core/rps_sock_flow_entries") or "0"
        return Cpus(online, local or online, int(flows))

    def _file(self, name: str, setting: str) -> str:
        group, word = setting.split(".", 1)
        if group == "irqs":
            return f"/proc/irq/{word}/smp_affinity_list"
        return f"/sys/class/net/{name}/{'' if group == 'napi' else 'queues/'}{word.replace('.', '/')}"

    def read(self, name: str, index: int) -> dict[str, Value]:
        """Return the settings of a NIC, none if /sys shows another network namespace."""
        if not self.shows(name, index):
            return {}
        settings = [f"napi.{word}" for word in NAPI]
        queues = self._path(f"/sys/class/net/{name}/queues")
        for word in ("rx-*/rps_cpus", "rx-*/rps_flow_cnt", "tx-*/xps_cpus"):
            for path in glob.glob(f"{queues}/{word}"):
                settings.append("queues." + os.path.relpath(path, queues).replace("/", "."))
        for path in glob.glob(self._path(f"/sys/class/net/{name}/device/msi_irqs/*")):
            settings.append(f"irqs.{os.path.basename(path)}")
        # The device of a virtio NIC is virtioN; the interrupts belong to its parent, the PCI function.
        for path in glob.glob(self._path(f"/sys/class/net/{name}/device/../msi_irqs/*")):
            settings.append(f"irqs.{os.path.basename(path)}")
        found: dict[str, Value] = {}
        for setting in sorted(settings):
            text = self._read(self._file(name, setting))
            if text is None:
                continue
            if setting.endswith("_cpus"):
                found[setting] = format_list(parse_mask(text))
            elif setting.startswith("irqs."):
                found[setting] = format_list(parse_list(text))
            elif setting == "napi.threaded":
                found[setting] = text == "1"
            else:
                found[setting] = int(text)
        return found

    def write(self, name: str, settings: Mapping[str, Value]) -> None:
        """Write settings; raises ``OSError``."""
        for setting, value in settings.items():
            if setting.endswith("_cpus"):
                text = format_mask(parse_list(str(value)))
            elif isinstance(value, bool):
                text = str(int(value))
            else:
                text = str(value)
            descriptor = os.open(self._path(self._file(name, setting)), os.O_WRONLY)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)

    def irqbalance_runs(self) -> bool:
        """Return whether irqbalance runs, which changes the affinity of interrupts."""
        return any(self._read(f"/proc/{name}/comm") == "irqbalance" for name in self._processes())

    def _processes(self) -> list[str]:
        return [name for name in os.listdir(self._path("/proc")) if name.isdigit()]
