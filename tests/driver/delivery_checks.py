# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace drivers on a node, in a folder with old.ko, new.ko and signed.ko.

The checks depend on each other, in the order of this file.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import netlink
from ansible_collections.podnet.datapath.plugins.module_utils._kmod import delivery, dkms, files, loading
from ansible_collections.podnet.datapath.plugins.module_utils._node import facts as _node
from ansible_collections.podnet.datapath.plugins.module_utils._node import readiness
from tests.support import node_checks
from tests.support.namespaces import command

KERNEL = os.uname().release
INSTALLED = Path(files.delivered_file("meta", KERNEL))
ENFORCE = Path("/sys/module/module/parameters/sig_enforce")
CHECKS = node_checks.Checks()


def deliver(file: str, reload: str = "idle", **options: str) -> tuple[list[str], str, str]:
    """Install a module; return the steps, the version loaded afterwards, and the warnings."""
    installer = delivery.Installer("meta")
    desired = delivery.Desired("meta", KERNEL, Path(file).read_bytes(), reload, **options)
    result = delivery.deliver(installer, desired, check_mode=False)
    return [step.split(":")[0] for step in result.values["changes"]], version(), " ".join(installer.warnings)


def refused(file: str, **options: Any) -> str:
    try:
        deliver(file, **options)
    except loading.ModuleError as error:
        return str(error)
    raise AssertionError(f"{file} was not refused")


def version() -> str:
    return Path("/sys/module/meta/version").read_text().strip()


def pair(name: str, alias: str, kind: str = "meta") -> None:
    command("ip", "link", "add", name, "type", kind)
    command("ip", "link", "set", name, "alias", alias)


def primaries() -> list[str]:
    return [link.name for link in netlink.links_of_kind("meta") if link.primary]


@CHECKS
def driver_is_installed_loaded_and_loaded_at_boot() -> None:
    found = deliver("old.ko")
    assert found == (["install", "autoload", "load"], "0.1.0", ""), found
    assert deliver("old.ko") == ([], "0.1.0", "")
    assert Path("/etc/modules-load.d/podnet-meta.conf").read_text().split()[-1] == "meta"
    assert command("modprobe", "--show-depends", "meta").split()[-1] == str(INSTALLED)


@CHECKS
def new_driver_waits_while_a_pod_uses_the_old_one() -> None:
    pair("own0", "podnet:checks/a")
    steps, loaded, warning = deliver("new.ko")
    assert (steps, loaded) == (["install"], "0.1.0") and "own0" in warning and "next boot" in warning, warning
    assert primaries() == ["own0"] and INSTALLED.read_bytes() == Path("new.ko").read_bytes()


@CHECKS
def unmanaged_device_prevents_reload() -> None:
    pair("guest0", "unmanaged")
    steps, loaded, warning = deliver("new.ko", "managed")
    assert (steps, loaded) == ([], "0.1.0") and "guest0" in warning and "own0" not in warning, warning
    command("ip", "netns", "add", "elsewhere")
    command("ip", "link", "set", "guest0", "netns", "elsewhere")
    steps, loaded, warning = deliver("new.ko", "managed")
    assert (steps, loaded) == ([], "0.1.0") and "guest0 in /run/netns/elsewhere" in warning, warning
    assert primaries() == ["own0"]
    command("ip", "-n", "elsewhere", "link", "delete", "guest0")


@CHECKS
def reload_removes_managed_devices_and_leaves_veth_traffic_alone() -> None:
    for words in (
        "link add vp0 type veth peer name vp1 netns elsewhere",
        "address add 10.79.0.1/24 dev vp0",
        "link set vp0 up",
        "-n elsewhere address add 10.79.0.2/24 dev vp1",
        "-n elsewhere link set vp1 up",
    ):
        command("ip", *words.split())
    command("ping", "-c1", "-W20", "10.79.0.2")
    ping = subprocess.Popen(["ping", "-i0.2", "-w3600", "10.79.0.2"], stdout=subprocess.PIPE, text=True)
    try:
        steps, loaded, warning = deliver("new.ko", "managed")
    finally:
        ping.send_signal(2)
        output = ping.communicate(timeout=60)[0]
    assert (steps, loaded, warning) == (["reload"], "0.1.1", "") and primaries() == []
    # The reply to the last request may be outstanding when ping stops.
    sent, received = map(int, re.findall(r"(\d+) (?:packets transmitted|received)", output))
    assert sent > 1 and sent - received <= 1, output
    command("ip", "link", "delete", "vp0")


@CHECKS
def module_that_fails_to_load_leaves_the_former_driver() -> None:
    Path("broken.ko").write_bytes(
        Path("old.ko").read_bytes().replace(b"rtnl_link_register", b"rtnl_link_registeq")
    )
    message = refused("broken.ko")
    assert "modprobe" in message or "does not match" in message, message
    assert version() == "0.1.1" and INSTALLED.read_bytes() == Path("new.ko").read_bytes()
    assert deliver("new.ko") == ([], "0.1.1", "")


@CHECKS
def dkms_driver_absent_removes_module_and_configuration() -> None:
    result = dkms.absent(dkms.DkmsModule("meta"), KERNEL, False)
    assert result.changed and not INSTALLED.exists() and not Path("/sys/module/meta").exists()
    assert not Path("/etc/modules-load.d/podnet-meta.conf").exists()


@CHECKS
def unsigned_module_is_refused_when_signatures_are_enforced() -> None:
    """This check is the last: signatures stay enforced until the next boot."""
    node = _node.Node()
    assert not readiness.signature_refusal(node.security(""), delivered=True)
    ENFORCE.write_text("1")
    facts = node.facts()
    assert facts["security"]["signature_required"]
    (problem,) = readiness.problems(
        {**facts, "security": node.security("")}, "meta", readiness.Requirements((), True, True)
    )
    assert "signatures are enforced" in problem and "meta_driver_signing_key" in problem, problem
    message = refused("old.ko")
    assert "signatures are enforced" in message and not INSTALLED.exists(), message
    # The kernel does not have the key of this module, so it refuses and the delivery rolls back.
    message = refused("signed.ko", serial="4CFE")
    assert "Required key not available" in message or "signature" in message, message
    assert not INSTALLED.exists() and not Path("/sys/module/meta").exists()


def main() -> None:
    for name, function in CHECKS.items():
        node_checks.report(name, node_checks.run(function))


if __name__ == "__main__":
    main()
