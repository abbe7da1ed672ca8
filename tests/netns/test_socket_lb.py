# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services at socket level, with real sockets: the programs are attached to a cgroup of this test only."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import socket
import struct
import threading
import time
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
V4, V6, MAPPED = "v4", "v6", "mapped"
FLAVOURS = pytest.mark.parametrize("flavour", [V4, V6, MAPPED])
FAMILIES = pytest.mark.parametrize("flavour", [V4, V6])
SERVICE, EMPTY = {4: "10.96.0.1", 6: "fd96::1"}, {4: "10.96.0.2", 6: "fd96::2"}
BACKENDS = {4: ("10.31.1.11", "10.31.1.12", "10.31.1.13"), 6: ("fd31:1::11", "fd31:1::12", "fd31:1::13")}
PORT, TARGET = 80, 8080


class Cluster:
    """A node without Pods: backends are addresses of its loopback device, and its processes the clients."""

    def __init__(self, node: Node, group: str) -> None:
        self.node, self.group = node, group
        node.ns.ip(
            node.name,
            *(f"addr add {address}/32 dev lo" for address in BACKENDS[4]),
            *(f"addr add {address}/128 dev lo nodad" for address in BACKENDS[6]),
        )
        self.attach()

    def attach(self, **options: Any) -> Any:
        return self.node.attach(socket_lb="required", cgroup_path=self.group, **options)

    def declare(self, *services: dict[str, Any]) -> None:
        self.node.module("bpf_state", endpoints=[], services=list(services))

    def services(self, count: int = 3, **options: Any) -> None:
        """Declare services with ``count`` backends, and one without, for both families and protocols."""
        self.declare(
            *(
                {
                    "name": f"{name}{version}{protocol}",
                    "address": address,
                    "port": PORT,
                    "protocol": protocol,
                    "backends": [{"address": one, "port": TARGET} for one in backends],
                    **options,
                }
                for version in (4, 6)
                for protocol in ("tcp", "udp")
                for name, address, backends in (
                    ("web", SERVICE[version], BACKENDS[version][:count]),
                    ("empty", EMPTY[version], ()),
                )
            )
        )

    def open(self, flavour: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
        with self.node.ns.inside(self.node.name):
            made = socket.socket(socket.AF_INET if flavour == V4 else socket.AF_INET6, kind)
        made.settimeout(3)
        return made

    def connect(self, flavour: str, to: str, port: int = PORT, kind: int = socket.SOCK_STREAM) -> str:
        """Connect to an address and return that of the other end, as the server has it."""
        with self.open(flavour, kind) as client:
            client.connect((to, port))
            assert client.getpeername()[:2] == (to, port)
            client.send(b"?")
            return client.recv(64).decode()


def address(flavour: str, by_version: dict[int, str]) -> str:
    """Return an address as sockets of a flavour write it."""
    return {V4: by_version[4], V6: by_version[6], MAPPED: f"::ffff:{by_version[4]}"}[flavour]


@contextlib.contextmanager
def servers(node: Node) -> Iterator[None]:
    """Answer all TCP connections and datagrams at the backends with the address that they arrived at."""
    stop = threading.Event()
    threads = []
    with contextlib.ExitStack() as files:
        for one in (*BACKENDS[4], *BACKENDS[6]):
            family = socket.AF_INET6 if ":" in one else socket.AF_INET
            with node.ns.inside(node.name):
                listener = files.enter_context(socket.create_server((one, TARGET), family=family))
                datagrams = files.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                datagrams.bind((one, TARGET))
            for target, made in ((_accept, listener), (_answer, datagrams)):
                made.settimeout(0.2)
                threads.append(threading.Thread(target=target, args=(made, one, stop)))
                threads[-1].start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def _accept(listener: socket.socket, name: str, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(OSError):
            connection, _peer = listener.accept()
            with connection:
                connection.settimeout(2)
                connection.recv(64)
                connection.send(name.encode())


def _answer(datagrams: socket.socket, name: str, stop: threading.Event) -> None:
    while not stop.is_set():
        with contextlib.suppress(OSError):
            _data, peer = datagrams.recvfrom(64)
            datagrams.sendto(name.encode(), peer)


@pytest.fixture
def group() -> Iterator[str]:
    with cgroup("sockets") as path:
        yield path


@pytest.fixture
def cluster(group: str, node: Node) -> Iterator[Cluster]:
    made = Cluster(node, group)
    made.services()
    with servers(node):
        yield made


def backends_of(flavour: str) -> tuple[str, ...]:
    return BACKENDS[6 if flavour == V6 else 4]


@FLAVOURS
def test_tcp_connects_to_each_backend_and_sees_the_service(cluster: Cluster, flavour: str) -> None:
    found = Counter(cluster.connect(flavour, address(flavour, SERVICE)) for dummy in range(60))
    assert found.keys() == {*backends_of(flavour)}
    assert min(found.values()) > 5


@FLAVOURS
def test_connected_udp(cluster: Cluster, flavour: str) -> None:
    service = (address(flavour, SERVICE), PORT)
    found = set()
    for dummy in range(40):
        with cluster.open(flavour, socket.SOCK_DGRAM) as client:
            client.connect(service)
            assert client.getpeername()[:2] == service
            answers = set()
            for dummy in range(3):
                client.send(b"?")
                answer, sender = client.recvfrom(64)
                assert sender[:2] == service
                answers.add(answer.decode())
            assert len(answers) == 1
            found |= answers
    assert found == {*backends_of(flavour)}


@FLAVOURS
def test_unconnected_udp(cluster: Cluster, flavour: str) -> None:
    service = (address(flavour, SERVICE), PORT)
    found = set()
    for dummy in range(40):
        with cluster.open(flavour, socket.SOCK_DGRAM) as client:
            answers = set()
            for dummy in range(3):
                client.sendto(b"?", service)
                answer, sender = client.recvfrom(64)
                assert sender[:2] == service
                answers.add(answer.decode())
            assert len(answers) == 1
            found |= answers
    assert found == {*backends_of(flavour)}


@FLAVOURS
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_service_without_backends_refuses(cluster: Cluster, flavour: str, kind: int) -> None:
    empty = (address(flavour, EMPTY), PORT)
    with cluster.open(flavour, kind) as client, pytest.raises(ConnectionRefusedError):
        client.connect(empty)
    with cluster.open(flavour, socket.SOCK_DGRAM) as client, pytest.raises(ConnectionRefusedError):
        client.sendto(b"?", empty)


@FLAVOURS
def test_other_addresses_and_ports_are_not_translated(cluster: Cluster, flavour: str) -> None:
    """Also of a socket that was connected to a service before."""
    direct = (address(flavour, {v: BACKENDS[v][0] for v in (4, 6)}), TARGET)
    assert cluster.connect(flavour, *direct) == backends_of(flavour)[0]
    with cluster.open(flavour, socket.SOCK_DGRAM) as client:
        client.connect((address(flavour, SERVICE), PORT))
        while client.getpeername()[1] != TARGET:
            client.connect(direct)
        assert client.getpeername()[:2] == direct
        client.send(b"?")
        assert client.recvfrom(64)[1][:2] == direct
    with cluster.open(flavour, socket.SOCK_DGRAM) as client:
        client.sendto(b"?", (address(flavour, SERVICE), PORT))
        answer, _sender = client.recvfrom(64)
        used = address(flavour, {4: answer.decode(), 6: answer.decode()})
        client.sendto(b"?", (used, TARGET))
        assert client.recvfrom(64)[1][:2] == (used, TARGET)
    for port in (0, PORT + 1, TARGET):
        with cluster.open(flavour, socket.SOCK_DGRAM) as client:
            with contextlib.suppress(OSError):
                client.sendto(b"?", (address(flavour, SERVICE), port))
            client.settimeout(0.1)
            with pytest.raises(TimeoutError):
                client.recv(64)


@FLAVOURS
def test_a_client_with_affinity_keeps_its_backend(cluster: Cluster, flavour: str) -> None:
    service = address(flavour, SERVICE)
    cluster.services(affinity=1)
    (first,) = {cluster.connect(flavour, service) for dummy in range(20)}
    # it expires one to two seconds after the last connection
    ends = time.monotonic() + 30
    while cluster.connect(flavour, service) == first:
        assert time.monotonic() < ends
        time.sleep(2.1)
    # and ends with its backend
    cluster.services(affinity=1000)
    first = cluster.connect(flavour, service)
    kept = [one for one in backends_of(flavour) if one != first]
    cluster.declare(
        {
            "name": f"web{4 if flavour != V6 else 6}tcp",
            "address": SERVICE[6 if flavour == V6 else 4],
            "port": PORT,
            "affinity": 1000,
            "backends": [{"address": one, "port": TARGET} for one in kept],
        }
    )
    (second,) = {cluster.connect(flavour, service) for dummy in range(20)}
    assert second in kept


@FLAVOURS
def test_a_backend_is_removed(cluster: Cluster, flavour: str) -> None:
    """TCP connections remain; a socket with unconnected UDP uses another backend from then on."""
    service = (address(flavour, SERVICE), PORT)
    with (
        cluster.open(flavour) as stream,
        cluster.open(flavour, socket.SOCK_DGRAM) as datagrams,
    ):
        while True:
            datagrams.sendto(b"?", service)
            if datagrams.recv(64).decode() != backends_of(flavour)[0]:
                break
            datagrams.close()
            datagrams = cluster.open(flavour, socket.SOCK_DGRAM)
        stream.connect(service)
        cluster.services(count=1)
        stream.send(b"?")
        assert stream.recv(64).decode() in backends_of(flavour)
        assert stream.getpeername()[:2] == service
        datagrams.sendto(b"?", service)
        answer, sender = datagrams.recvfrom(64)
        assert (answer.decode(), sender[:2]) == (backends_of(flavour)[0], service)


@FAMILIES
def test_node_ports(cluster: Cluster, flavour: str) -> None:
    """All addresses of the node, and no other ones."""
    version = 6 if flavour == V6 else 4
    cluster.declare(
        *(
            {
                "name": f"port-{protocol}",
                "address": {4: "0.0.0.0", 6: "::"}[version],
                "port": 30080,
                "protocol": protocol,
                "backends": [{"address": BACKENDS[version][0], "port": TARGET}],
            }
            for protocol in ("tcp", "udp")
        )
    )
    for node in BACKENDS[version]:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            assert cluster.connect(flavour, node, 30080, kind) == BACKENDS[version][0]
    with cluster.open(flavour) as client, pytest.raises(OSError) as error:
        client.connect((SERVICE[version], 30080))
    assert error.value.errno == errno.ENETUNREACH
    # an address that the node gets later
    later = {4: "10.31.1.99", 6: "fd31:1::99"}[version]
    cluster.node.ns.ip(cluster.node.name, f"addr add {later}/{32 if version == 4 else 128} dev lo")
    cluster.node.module("bpf_state", endpoints=[], services=[])
    cluster.declare(
        {
            "name": "port",
            "address": {4: "0.0.0.0", 6: "::"}[version],
            "port": 30080,
            "backends": [{"address": BACKENDS[version][1], "port": TARGET}],
        }
    )
    assert cluster.connect(flavour, later, 30080) == BACKENDS[version][1]


def test_a_socket_with_many_services_does_not_affect_others(cluster: Cluster) -> None:
    """A process fills what its socket remembers; others, and its own last services, are not affected."""
    cluster.declare(
        *(
            {
                "name": f"s{number}",
                "address": f"10.97.0.{number}",
                "port": PORT,
                "protocol": "udp",
                "backends": [{"address": BACKENDS[4][number % 3], "port": TARGET}],
            }
            for number in range(1, 201)
        )
    )
    with cluster.open(V4, socket.SOCK_DGRAM) as quiet, cluster.open(V4, socket.SOCK_DGRAM) as hostile:
        quiet.sendto(b"?", ("10.97.0.1", PORT))
        for dummy in range(20):
            for number in range(1, 201):
                hostile.sendto(b"?", (f"10.97.0.{number}", PORT))
                assert hostile.recvfrom(64)[1] == (f"10.97.0.{number}", PORT)
        assert quiet.recvfrom(64)[1] == ("10.97.0.1", PORT)


def test_invalid_calls_get_the_errors_of_the_kernel(cluster: Cluster) -> None:
    """Short, huge and foreign addresses; the programs neither crash nor change the result."""
    libc = ctypes.CDLL(None, use_errno=True)
    with cluster.open(V4, socket.SOCK_DGRAM) as v4, cluster.open(V6, socket.SOCK_DGRAM) as v6:
        for made in (v4, v6):
            for length in (0, 1, 2, 7, 8, 15, 16, 24, 27, 28, 127, 128, 129, 1 << 20):
                for family in (0, 1, 2, 10, 40):
                    raw = family.to_bytes(2, "little") + bytes(range(126))
                    libc.connect(made.fileno(), raw, length)
                    libc.sendto(made.fileno(), b"?", 1, 0, raw, length)
        v4.connect((SERVICE[4], PORT))
        assert v4.getpeername() == (SERVICE[4], PORT)


def test_concurrent_use_of_one_socket(cluster: Cluster) -> None:
    """Threads use one unconnected socket for two services; each reply has the address of a service."""
    names = [("10.97.0.1", PORT), ("10.97.0.2", PORT)]
    cluster.declare(
        *(
            {
                "name": to,
                "address": to,
                "port": port,
                "protocol": "udp",
                "backends": [{"address": BACKENDS[4][number], "port": TARGET}],
            }
            for number, (to, port) in enumerate(names)
        )
    )
    with cluster.open(V4, socket.SOCK_DGRAM) as client:

        def send(to: tuple[str, int]) -> None:
            for dummy in range(300):
                client.sendto(b"?", to)

        threads = [threading.Thread(target=send, args=(to,)) for to in names * 2]
        for thread in threads:
            thread.start()
        found: Counter[tuple[str, tuple[str, int]]] = Counter()
        client.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                answer, sender = client.recvfrom(64)
                found[answer.decode(), sender] += 1
        for thread in threads:
            thread.join()
    assert found.keys() == {(BACKENDS[4][number], to) for number, to in enumerate(names)}


# ---------------------------------------------------------------- attachment


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
    assert len(result["programs"]) == (3 if missing == "kernel" else 11)
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
