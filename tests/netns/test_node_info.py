# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""node_info detects Cilium by its devices, pins and process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.checkout import CHECKOUT

# A network namespace with its own sysfs and BPF file system.
NODE = """
mount -t sysfs none /sys && mount -t bpf none /sys/fs/bpf
ip link add cilium_host type veth peer name cilium_net
mkdir -p /sys/fs/bpf/cilium/devices
"$1" 60 &
agent=$!
"$2" "$3" <<< "$4"
status=$?
kill $agent
wait $agent
exit $status
"""


def node_info(folder: Path, script: str, **arguments: Any) -> dict[str, Any]:
    agent = folder / "cilium-agent"
    shutil.copy2("/bin/sleep", agent)
    module = CHECKOUT / "plugins/modules/node_info.py"
    given = json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, "_ansible_remote_tmp": "/tmp"}})
    done = subprocess.run(
        ["unshare", "--net", "--mount", "bash", "-c", script, "bash", agent, sys.executable, module, given],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_cilium_is_refused_or_keeps_its_datapath(tmp_path: Path) -> None:
    found = node_info(tmp_path, NODE)
    assert {"cilium_host", "cilium_net", "/sys/fs/bpf/cilium"} <= set(found["cilium"])
    assert any(trace.startswith("process ") for trace in found["cilium"]), found["cilium"]
    (problem,) = [problem for problem in found["problems"] if "Cilium" in problem]
    assert "preflight_cilium: tune" in problem
    tuned = node_info(tmp_path, NODE, cilium="tune", driver="netkit")
    assert tuned["driver"] == "none" and "cilium_host" in tuned["driver_reason"]
    assert not [problem for problem in tuned["problems"] if "Cilium" in problem or "netkit" in problem]


def test_node_without_cilium_reports_none(tmp_path: Path) -> None:
    found = node_info(
        tmp_path, 'mount -t sysfs none /sys && mount -t bpf none /sys/fs/bpf && "$2" "$3" <<< "$4"'
    )
    assert found["cilium"] == [] and found["driver"] != "none"
