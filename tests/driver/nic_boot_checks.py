# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nic_tuning's settings over a reload of a driver and a boot: ``nic_boot_checks.py keep|reload|look``.

Each NIC has an owner that wants something else: e1000e is networkd's, igb has a .link file; the lab's wire0
is networkd's, which has no MTU for it. Prints the boot that it saw.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool as _ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply, settings

OTHERS = {
    "/etc/systemd/network/30-e1000e.network": "[Match]\nDriver=e1000e\n[Link]\nMTUBytes=1400\n"
    "[Network]\nLinkLocalAddressing=no\nConfigureWithoutCarrier=yes\n",
    "/etc/systemd/network/05-igb.link": "[Match]\nDriver=igb\n[Link]\nNamePolicy=path\nMTUBytes=1300\n"
    "RxBufferSize=128\nReceiveHashing=no\n",
}
WISHES: list[dict[str, Any]] = [
    {"driver": "e1000e", "mtu": 4168, "rings": {"rx": 1024}, "coalesce": {"rx-usecs": 50}},
    {"driver": "igb", "mtu": 8264, "rings": {"rx": 512}, "priv_flags": {"legacy-rx": True}},
    {"name": "wire0", "mtu": 8264, "gro_max_size": 60000, "features": {"tso": False}},
]
EXPECTED = {
    "e1000e": {"mtu": 4168, "rings.rx": 1024, "coalesce.rx-usecs": 50},
    "igb": {"mtu": 8264, "rings.rx": 512, "priv_flags.legacy-rx": True},
    "wire0": {"mtu": 8264, "gro_max_size": 60000, "features.tx-tcp-segmentation": False},
}
DROP_IN = "/etc/systemd/network/30-e1000e.network.d/zz-podnet.conf"


def command(words: Any) -> tuple[int, str, str]:
    done = subprocess.run(list(words), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def wrong() -> dict[str, dict[str, Any]]:
    """Return which settings of which NIC are not as they are to be, with what they are."""
    found: dict[str, dict[str, Any]] = {}
    ethtool = _ethtool.Ethtool()
    try:
        for device in settings.devices(ethtool):
            for key in {device.name, device.driver} & {*EXPECTED}:
                try:
                    now = settings.read(ethtool, device.name).values
                except OSError:  # udev has just given it its name
                    continue
                found[key] = {s: now.get(s) for s, value in EXPECTED[key].items() if now.get(s) != value}
    finally:
        ethtool.close()
    return {key: found.get(key, {"it": "is missing"}) for key in EXPECTED if found.get(key) != {}}


def settled() -> None:
    """Wait until units and networkd are done with the NICs, then assert what they are set to."""
    end = time.monotonic() + 60
    while wrong() and time.monotonic() < end:
        time.sleep(0.5)
    time.sleep(3)  # an owner that comes later would show now
    dummy, out, dummy = command(["systemctl", "--failed", "--no-legend", "podnet-nic@*"])
    assert not wrong() and not out, f"{wrong()} {out} {command(['journalctl', '-b', '-u', 'podnet-nic@*'])}"


def keep() -> None:
    for path, text in OTHERS.items():
        Path(path).write_text(text)
    command(["systemctl", "restart", "systemd-networkd"])
    time.sleep(3)
    result = apply.run(WISHES, True, False, command)
    assert result.changed and not result.warnings, result
    assert DROP_IN in result.values["files"], result
    again = apply.run(WISHES, True, False, command)
    assert not again.changed and not again.values["files"] and not again.warnings, again
    command(["systemctl", "restart", "systemd-networkd"])
    settled()


def reload() -> None:
    """Take the NICs from their drivers and give them back."""
    for driver in ("virtio_net", "e1000e", "igb"):
        bus = "virtio" if driver == "virtio_net" else "pci"
        folder = Path(f"/sys/bus/{bus}/drivers/{driver}")
        wire = Path("/sys/class/net/wire0/device").resolve().name
        for device in [path.name for path in folder.iterdir() if (path / "net").is_dir()]:
            if bus == "pci" or device == wire:  # the other is the way that this came
                (folder / "unbind").write_text(device)
                (folder / "bind").write_text(device)
    settled()


def main() -> None:
    {"keep": keep, "reload": reload, "look": settled}[sys.argv[1]]()
    print(json.dumps({"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}))


if __name__ == "__main__":
    main()
