# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attachment of the programs of sockets to a cgroup."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._agent.config import Config
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf, libbpf, mounts
from ansible_collections.podnet.datapath.plugins.module_utils._programs import boot
from ansible_collections.podnet.datapath.plugins.module_utils._programs.hooks import SOCKET_HOOKS
from ansible_collections.podnet.datapath.plugins.module_utils._programs.plan import pin_name
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal
from tests.netns.bpf_node import Node
from tests.support.cgroup import cgroup

BPF_PROG_ATTACH, BPF_PROG_DETACH = 8, 9


def programs(group: str) -> Counter[str]:
    """Return the names of the programs of a cgroup's sockets."""
    found: Counter[str] = Counter()
    with bpf.closing(os.open(group, os.O_RDONLY)) as fd:
        for attach_type in SOCKET_HOOKS.values():
            for number in bpf.cgroup_programs(fd, attach_type)[0]:
                with bpf.closing(bpf.prog_get_fd_by_id(number)) as program:
                    found[bpf.program_info(program).name] += 1
    return found


@contextlib.contextmanager
def another_program(group: str, flags: int = bpf.BPF_F_ALLOW_MULTI) -> Iterator[None]:
    """Attach a program that allows everything to connect4, as others do."""
    code = struct.pack("=BBhi", bpf.BPF_MOV, 0, 0, 1) + struct.pack("=BBhi", bpf.BPF_EXIT, 0, 0, 0)
    buffer, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    where = (ctypes.addressof(buffer), ctypes.addressof(licence))
    hook = bpf.BPF_CGROUP_INET4_CONNECT
    load = struct.pack("=IIQQ44xI", bpf.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, 2, *where, hook)
    with (
        bpf.closing(bpf.bpf(bpf.BPF_PROG_LOAD, load)) as program,
        bpf.closing(os.open(group, os.O_RDONLY)) as fd,
    ):
        bpf.bpf(BPF_PROG_ATTACH, struct.pack("=IIIII", fd, program, hook, flags, 0))
        try:
            yield
        finally:
            bpf.bpf(BPF_PROG_DETACH, struct.pack("=IIIII", fd, program, hook, 0, 0))


def test_attachments_are_created_replaced_and_removed(group: str, node: Node) -> None:
    hooks = ("connect4", "connect6", "getpeer4", "getpeer6", "recvmsg4", "recvmsg6", "sendmsg4", "sendmsg6")
    pins = {f"create attachment site/{quote(group, safe='')}-{hook}" for hook in hooks}
    wanted = {"socket_lb": "auto", "cgroup_path": group}
    planned = node.attach(**wanted, check=True)
    assert pins <= {*planned["changes"]} and not os.path.exists(f"{node.pins}/links")
    result = node.attach(**wanted)
    assert result["changes"] == planned["changes"]
    assert result["socket_lb"] == {"cgroup": group, "reason": ""}
    assert programs(group) == {f"sock_{hook}": 1 for hook in hooks}
    assert not node.attach(**wanted)["changed"]
    assert node.module("datapath_info")["socket_lb"] == group

    # another program, as systemd attaches, and a new object
    with another_program(group):
        changes = node.attach(**wanted, rodata={"reason_max": 2})["changes"]
        assert {change.replace("create", "replace") for change in pins} <= {*changes}
        assert programs(group) == {**{f"sock_{hook}": 1 for hook in hooks}, "": 1}
        assert f"remove attachment site/{quote(group, safe='')}-connect4" in node.attach()["changes"]
        assert programs(group) == {"": 1}
        node.attach(**wanted)
        node.attach(state="absent")
        assert programs(group) == {"": 1}
    assert not os.path.exists(node.pins)


def test_what_cannot_be_attached_is_refused(group: str, node: Node) -> None:
    for path in ("/sys/fs/cgroup/none", "/tmp", "/etc/passwd"):
        message = node.refuse(socket_lb="auto", cgroup_path=path)
        assert message == f"cgroup_path: '{path}' is not a cgroup of version 2; see mount -t cgroup2"
    with another_program(group, flags=0):
        message = node.refuse(socket_lb="required", cgroup_path=group)
    assert re.search(
        rf"socket_lb: program '' \(id \d+\) is attached to {group}, hook connect4, and excludes other",
        message,
    )


@pytest.mark.parametrize("missing", ["kernel", "hierarchy"])
def test_nodes_without_support(node: Node, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """The programs of devices are loaded; services are translated per packet, which the module reports."""
    if missing == "kernel":
        monkeypatch.setattr(bpf, "has_socket_programs", lambda: False)
        monkeypatch.setattr(libbpf, "has_socket_programs", lambda: False)
        reason = "the kernel has no programs of sockets: they need Linux 6.1 and CONFIG_CGROUP_BPF"
    else:
        monkeypatch.setattr(mounts, "cgroup2_mount", lambda: "")
        reason = "no cgroup v2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup/unified)"
    assert node.refuse(socket_lb="required") == f"socket_lb: {reason}; or set socket_lb: auto"
    for check in (True, False):
        result = node.attach(socket_lb="auto", check=check)
        assert result["socket_lb"] == {"cgroup": "", "reason": reason}
        assert f"services are translated per packet: {reason}" in str(result["warnings"])
    assert len(result["programs"]) == (4 if missing == "kernel" else 13)
    assert not node.attach(socket_lb="auto")["changed"]
    assert node.module("datapath_info")["socket_lb"] == ""


def test_a_failure_restores_the_former_programs(group: str, node: Node, build: Any) -> None:
    """The verifier rejects the last program."""
    node.attach(socket_lb="required", cgroup_path=group)
    before = node.everything()
    broken = build(("socket_lb.h", "return SOCKET_ALLOW;\n}\n\n#endif", "return 5;\n}\n\n#endif"))
    assert "verifier rejects program 'sock_getpeer6'" in node.refuse(
        object=broken, socket_lb="required", cgroup_path=group
    )
    assert node.everything() == before


def test_a_cgroup_that_was_created_again(node: Node) -> None:
    with cgroup("again") as group:
        node.attach(socket_lb="required", cgroup_path=group)
    with cgroup("again") as group:
        assert programs(group) == {}
        changes = node.attach(socket_lb="required", cgroup_path=group)["changes"]
        assert f"replace attachment site/{quote(group, safe='')}-connect4" in changes
        assert len(programs(group)) == 8
        assert not node.attach(socket_lb="required", cgroup_path=group)["changed"]
    assert node.attach(state="absent")["changed"]


def test_the_agent_attaches_them_after_a_boot(
    group: str, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path))
    config = Config("node", node.object, pin_path=node.pins, socket_lb="auto", cgroup_path=group)
    with node.ns.inside(node.name):

        def restore() -> bool:
            return boot.restore(node.pins, node.object, config.programs(), config.requests())

        assert restore() and len(programs(group)) == 8
        assert not restore()
        os.unlink(f"{node.pins}/links/site/{pin_name(group, 'sendmsg4')}")
        assert programs(group)["sock_sendmsg4"] == 0
        assert restore() and len(programs(group)) == 8
