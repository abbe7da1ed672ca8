# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check that nic_tuning's settings survive a reload of the NIC drivers and a reboot.

usage: nic_boot_checks keep|reload|verify

Other configuration competes for each NIC: networkd for e1000e, a .link file for igb; networkd manages the
lab's wire0 without an MTU. Prints the boot ID.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import ethtool as _ethtool
from ansible_collections.podnet.datapath.plugins.module_utils._nic import apply, device

COMPETING_FILES = {
    "/etc/systemd/network/30-e1000e.network": "[Match]\nDriver=e1000e\n[Link]\nMTUBytes=1400\n"
    "[Network]\nLinkLocalAddressing=no\nConfigureWithoutCarrier=yes\n",
    "/etc/systemd/network/05-igb.link": "[Match]\nDriver=igb\n[Link]\nNamePolicy=path\nMTUBytes=1300\n"
    "RxBufferSize=128\nReceiveHashing=no\n",
}
NICS: list[dict[str, Any]] = [
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
    """Return the settings that differ from EXPECTED by NIC, with their current values."""
    found: dict[str, dict[str, Any]] = {}
    ethtool = _ethtool.Ethtool()
    try:
        for nic in device.devices(ethtool):
            for key in {nic.name, nic.driver} & {*EXPECTED}:
                try:
                    now = device.read(ethtool, nic.name).values
                except OSError:  # udev is renaming it
                    continue
                found[key] = {s: now.get(s) for s, value in EXPECTED[key].items() if now.get(s) != value}
    finally:
        ethtool.close()
    return {key: found.get(key, {"NIC": "missing"}) for key in EXPECTED if found.get(key) != {}}


def verify() -> None:
    """Wait until units and networkd have configured the NICs, then assert their settings."""
    end = time.monotonic() + 60
    while wrong() and time.monotonic() < end:
        time.sleep(0.5)
    time.sleep(3)  # detects configuration that is applied late
    dummy, out, dummy = command(["systemctl", "--failed", "--no-legend", "podnet-nic@*"])
    assert not wrong() and not out, f"{wrong()} {out} {command(['journalctl', '-b', '-u', 'podnet-nic@*'])}"


def keep() -> None:
    """Persist the settings by nic_tuning, and assert that networkd's restart keeps them."""
    for path, text in COMPETING_FILES.items():
        Path(path).write_text(text)
    command(["systemctl", "restart", "systemd-networkd"])
    time.sleep(3)
    result = apply.run(NICS, True, False, command)
    assert result.changed and not result.warnings, result
    assert DROP_IN in result.values["files"], result
    again = apply.run(NICS, True, False, command)
    assert not again.changed and not again.values["files"] and not again.warnings, again
    command(["systemctl", "restart", "systemd-networkd"])
    verify()


def reload() -> None:
    """Unbind the NICs from their drivers and bind them again."""
    for driver in ("virtio_net", "e1000e", "igb"):
        bus = "virtio" if driver == "virtio_net" else "pci"
        folder = Path(f"/sys/bus/{bus}/drivers/{driver}")
        wire = Path("/sys/class/net/wire0/device").resolve().name
        for address in [path.name for path in folder.iterdir() if (path / "net").is_dir()]:
            if bus == "pci" or address == wire:  # the other virtio NIC has the controller's connection
                (folder / "unbind").write_text(address)
                (folder / "bind").write_text(address)
    verify()


def main() -> None:
    {"keep": keep, "reload": reload, "verify": verify}[sys.argv[1]]()
    print(json.dumps({"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}))


if __name__ == "__main__":
    main()
