# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""containerd 1.7 and 2 by the specs of critest for Pods and their network, and by ctr."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._agent.install_plan import SERVICE
from tests.kubernetes.cluster import build, cri_tools, images, root
from tests.kubernetes.cluster.node import CNI_BIN, CONTAINERD, NET_D, Node
from tests.runtimes import critest_images, roots
from tests.runtimes.node import BIN_DIR, booted, fetch, install, leftovers

FOCUS = "Networking|basic operations on PodSandbox|sysctls"
ENDPOINT = "unix:///run/containerd/containerd.sock"
CONTAINERD_1 = f"""\
version = 2
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{BIN_DIR}"
conf_dir = "{NET_D}"
"""
CONFIGS = {"trixie": ("1.7.", CONTAINERD_1), "sid": ("2.", CONTAINERD)}


@pytest.fixture(params=CONFIGS, scope="module")
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """Yield a node with containerd and the CNI plugin."""
    release, config = CONFIGS[request.param]
    base = roots.layer(request.param)
    pause = images.layer(build.programs(), root.layer())
    layers = [cri_tools.layer("critest"), critest_images.layer(), pause, base]
    with booted(f"containerd-{request.param}", layers) as made:
        made.start_containerd(config)
        assert f" {release}" in made.run("containerd", "--version")
        install(made)
        yield made


def test_specs_of_critest_pass(node: Node) -> None:
    command = (
        *("critest", f"--runtime-endpoint={ENDPOINT}", f"--image-endpoint={ENDPOINT}"),
        *("--ginkgo.no-color", "--ginkgo.v", f"--ginkgo.focus={FOCUS}"),
    )
    done = subprocess.run(node.enter(*command), capture_output=True, text=True, check=False)
    assert not done.returncode, f"{done.stdout[-20_000:]}{done.stderr}{node.logs(40)}"
    assert "10 Passed" in done.stdout, done.stdout[-2000:]
    assert leftovers(node) == []


def test_containers_of_ctr_have_the_network(node: Node) -> None:
    """nerdctl uses the same configuration and library."""
    # ctr finds plugins only there.
    node.run("sh", "-ec", f"rm -rf {CNI_BIN}; ln -s {BIN_DIR} {CNI_BIN}")
    ctr = ("ctr", "-n", "k8s.io")
    node.run(*ctr, "run", "--cni", "--detach", images.AGNHOST, "server", "/bin/agnhost", "netexec")
    shown = node.run(*ctr, "tasks", "exec", "--exec-id=1", "server", "ip", "address", "show", "dev", "eth0")
    found = re.findall(r"inet6? (10\.244\.1\.\d+|fd44:0:0:1::\w+)", shown)
    assert len(found) == 2, shown
    for address in found:
        assert fetch(node, address, 8080, "echo?msg=hello") == "hello"
        client = (*ctr, "run", "--cni", "--rm", images.AGNHOST, "client")
        node.run(*client, "ping", "-c1", "-W5", address)
    node.run(*ctr, "tasks", "delete", "--force", "server")
    node.run(*ctr, "containers", "delete", "server")
    # For a container in the background, ctr never calls DEL. The agent notices that it no longer exists.
    node.run("systemctl", "restart", SERVICE)
    deadline = time.monotonic() + 30
    while left := leftovers(node):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
