# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent attaches Pods for a CNI plugin, with Debian's host-local for their addresses."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._agent import (
    commands,
    install,
    protocol,
    worker,
)
from ansible_collections.podnet.datapath.plugins.module_utils._agent.attachments import Attachments, name_of
from ansible_collections.podnet.datapath.plugins.module_utils._agent.config import Config
from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import info, status
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.maps import Maps
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Record, Store
from ansible_collections.podnet.datapath.plugins.module_utils._pods import api
from ansible_collections.podnet.datapath.plugins.module_utils._pods.model import Route
from ansible_collections.podnet.datapath.plugins.module_utils._pods.parse import host_interface_of
from ansible_collections.podnet.datapath.plugins.module_utils._pods.single import SinglePods
from ansible_collections.podnet.datapath.plugins.module_utils._programs import backup
from ansible_collections.podnet.datapath.plugins.module_utils._rollback import journal
from tests.netns.bpf_node import Node
from tests.netns.pod_bench import command as no_command
from tests.netns.pod_bench import pings
from tests.support.agent import PLUGINS, Agent, Reply

SEED = int(os.environ.get("PODNET_SEED") or random.randrange(1 << 32))
ROUNDS = int(os.environ.get("PODNET_COUNT") or 5)  # kills of the agent
CONTAINERS = int(os.environ.get("PODNET_PODS") or 8)  # while the agent is killed
RANGES = [[{"subnet": "10.78.0.0/24"}], [{"subnet": "fd78::/64"}]]
ROUTER = "10.78.255.1"


class Cni:
    """A node with programs and a running agent, and its containers."""

    def __init__(self, node: Node, folder: Path, **config: Any) -> None:
        self.node, self.folder = node, folder
        node.ns.sysctl(node.name, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        node.ns.ip(node.name, f"address add {ROUTER}/32 dev lo")
        self.attach()
        self.config = {
            "cniVersion": "1.0.0",
            "name": "test",
            "type": "podnet",
            "ipam": {"type": "host-local", "dataDir": str(folder / "ipam"), "ranges": RANGES},
        }
        settings = {"node": "n", "driver": "veth", "object": node.object, "pin_path": node.pins, **config}
        self.agent = Agent(node.name, folder, settings)
        self.agent.start()
        self.containers: dict[str, str] = {}

    def attach(self) -> None:
        """Load the programs before the agent starts."""
        self.node.attach()

    def container(self, name: str) -> str:
        """Return the container's network namespace, by its path."""
        if name not in self.containers:
            self.containers[name] = self.node.ns(name)
        return f"/run/netns/{self.containers[name]}"

    def call(self, command: str, name: str, config: Any = None, **variables: str) -> Reply:
        given = {"CONTAINERID": name, "NETNS": self.container(name), "IFNAME": "eth0"}
        return self.agent.call(command, self.config if config is None else config, **{**given, **variables})

    def add(self, name: str, config: Any = None, **variables: str) -> dict[str, Any]:
        reply = self.call("ADD", name, config, **variables)
        assert reply.status == 0, reply.body
        return reply.body

    def delete(self, name: str, **variables: str) -> None:
        reply = self.call("DEL", name, **variables)
        assert reply == Reply(0, {})

    def pings(self, name: str, to: str) -> bool:
        return pings(self.node.ns, self.containers[name], to)

    def try_call(self, command: str, name: str) -> Reply | None:
        """Send a request to an agent that may be killed."""
        try:
            return self.call(command, name)
        except (OSError, ValueError):
            return None

    def device(self, name: str) -> str:
        """Return the host end of a container's device."""
        return host_interface_of(name_of(name, "eth0"))

    def result(self, name: str) -> list[str]:
        """Return the addresses of a container, according to its record."""
        record = self.folder / "attachments" / f"{name_of(name, 'eth0')}.json"
        return [one.partition("/")[0] for one in json.loads(record.read_text())["addresses"]]

    def endpoints(self) -> list[str]:
        """Return the IPv4 addresses in the maps."""
        with contextlib.ExitStack() as files:
            keys = Maps.pinned(self.node.pins, files).read().hashes["endpoints4"]
        return [str(ipaddress.ip_address(key)) for key in keys]

    def filters(self, name: str) -> int:
        """Return the number of programs at a container's device."""
        words = ("bpftool", "net", "show", "dev", self.device(name))
        # The agent may be replacing the device.
        return self.node.ns.run(self.node.name, *words, check=False).count("pod_")

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition is met, for at most a minute."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.agent.log()
            time.sleep(0.1)

    def leftovers(self) -> list[Any]:
        """Return what the agent has created: devices, routes, pins, entries, records, addresses."""
        links = json.loads(self.node.ns.run(self.node.name, "ip", "-json", "link"))
        routes = json.loads(self.node.ns.run(self.node.name, "ip", "-json", "route"))
        reserved = self.folder / "ipam" / "test"
        return [
            *(link["ifname"] for link in links if link["ifname"].startswith("pn")),
            *((route["dst"], route["dev"]) for route in routes if route["dev"].startswith("pn")),
            *map(str, Path(self.node.pins).glob("links/pods_cni/*")),
            *(record for record in Store(self.node.pins).read() if record == "cni"),
            *self.agent.records(),
            *(path.name for path in reserved.glob("*") if path.name[0].isdigit() or path.name[0] == "f"),
        ]


@pytest.fixture
def cni(node: Node, tmp_path: Path) -> Iterator[Cni]:
    made = Cni(node, tmp_path)
    yield made
    for name in made.containers:
        made.call("DEL", name)
    made.agent.stop()


def test_containers_are_attached_and_detached(cni: Cni) -> None:
    first = cni.add("one", ARGS="K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;IgnoreUnknown=1")
    second = cni.add("two")
    addresses = [entry["address"] for entry in second["ips"]]
    assert addresses == ["10.78.0.3/32", "fd78::3/128"]
    assert first["interfaces"][1]["sandbox"] == cni.container("one")
    for address in (*(one.partition("/")[0] for one in addresses), ROUTER):
        assert cni.pings("one", address), address
    assert cni.call("CHECK", "one", {**cni.config, "prevResult": first}) == Reply(0, {})
    cni.delete("one")
    cni.delete("one", NETNS="")
    cni.delete("two", NETNS="")
    assert cni.leftovers() == []


def test_a_restarted_agent_knows_its_containers(cni: Cni) -> None:
    result = cni.add("one")
    for number in (signal.SIGTERM, signal.SIGKILL):
        cni.agent.stop(number)
        assert cni.pings("one", ROUTER)
        cni.agent.start()
        assert cni.call("CHECK", "one", {**cni.config, "prevResult": result}) == Reply(0, {})
    cni.delete("one")
    assert cni.leftovers() == []


def test_a_second_agent_does_not_start(cni: Cni) -> None:
    second = Agent(cni.node.name, cni.folder, json.loads((cni.folder / "agent.json").read_text()))
    second.socket = cni.folder / "second.sock"
    with pytest.raises(AssertionError, match="another agent uses the records"):
        second.start()
    assert not second.socket.exists()
    cni.add("one")


def test_sysctls_that_are_global_stay_as_they_are(cni: Cni) -> None:
    """Which ones are depends on the kernel: net.core.optmem_max is global up to 6.8."""
    file = cni.folder / "agent.json"
    swappiness = Path("/proc/sys/vm/swappiness")
    before = swappiness.read_text().strip()
    sysctls = {"vm.swappiness": str(int(before) ^ 1), "net.ipv4.tcp_fin_timeout": "31"}
    cni.agent.stop()
    file.write_text(json.dumps({**json.loads(file.read_text()), "sysctls": sysctls}))
    cni.agent.start()
    cni.add("one")
    assert cni.node.ns.run(cni.containers["one"], "sysctl", "-n", "net.ipv4.tcp_fin_timeout") == "31\n"
    assert swappiness.read_text().strip() == before
    assert f"vm.swappiness is global in this kernel, so Pods use the node's value {before}" in cni.agent.log()


def fails(cni: Cni, name: str, code: int, part: str, config: Any = None, **variables: str) -> None:
    """Assert that ADD fails with a code and a message, and leaves nothing."""
    before = cni.leftovers()
    reply = cni.call("ADD", name, config, **variables)
    assert (reply.status, reply.body.get("code")) == (1, code) and part in reply.body["msg"], reply
    assert cni.leftovers() == before


def test_failed_requests_leave_nothing(cni: Cni) -> None:
    cni.add("one")
    fails(cni, "one", protocol.INVALID_ENVIRONMENT, "already has eth0")
    fails(cni, "two", protocol.UNKNOWN_CONTAINER, "/run/netns/missing", NETNS="/run/netns/missing")
    fails(cni, "two", protocol.UNKNOWN_CONTAINER, "not a network namespace", NETNS="/etc/passwd")
    fails(cni, "two", protocol.INVALID_CONFIG, "first plugin", {**cni.config, "prevResult": {}})
    without = {key: value for key, value in cni.config.items() if key != "ipam"}
    fails(cni, "two", protocol.INVALID_CONFIG, "ipam: missing", without)
    fails(cni, "two", protocol.INVALID_CONFIG, "no plugin 'absent'", {**without, "ipam": {"type": "absent"}})
    fails(
        cni, "two", protocol.INVALID_CONFIG, "no address range", {**without, "ipam": {"type": "host-local"}}
    )
    full = {**cni.config["ipam"], "ranges": [[{"subnet": "10.79.0.0/30"}]]}
    cni.add("three", {**without, "ipam": full})
    fails(cni, "two", 999, "no IP addresses available", {**without, "ipam": full})
    limited = {**cni.config, "runtimeConfig": {"bandwidth": {"egressRate": 10_000_000}}}
    fails(cni, "two", protocol.FAILED, "qdisc", limited)
    cni.node.ns.ip(cni.containers["two"], "link add eth0 type veth peer name other")
    fails(cni, "two", protocol.FAILED, "exists")
    cni.delete("one")
    cni.delete("three")
    assert cni.leftovers() == []


def test_a_second_interface_is_rejected(cni: Cni) -> None:
    """Each interface gets a default route, of which a container has one."""
    cni.add("one")
    fails(cni, "one", protocol.FAILED, "exists", IFNAME="net1")
    assert cni.pings("one", ROUTER)
    cni.delete("one")
    assert cni.leftovers() == []


def test_what_a_container_does_to_its_interface_does_not_matter(cni: Cni) -> None:
    changes = {
        "renamed": ["link set eth0 down", "link set eth0 name other"],
        "deleted": ["link delete eth0"],
        "flushed": ["route flush table main", "address flush dev eth0"],
    }
    for name, lines in changes.items():
        result = cni.add(name)
        cni.node.ns.ip(cni.containers[name], *lines)
        reply = cni.call("CHECK", name, {**cni.config, "prevResult": result})
        assert reply.status == 1 and reply.body["code"] == protocol.DIFFERS, reply
        cni.delete(name)
    moved = cni.node.ns("moved-to")
    cni.add("moved")
    cni.node.ns.ip(cni.containers["moved"], f"link set eth0 netns {moved}")
    cni.delete("moved")
    assert cni.leftovers() == []


def test_reconciliation_removes_what_no_container_has(cni: Cni) -> None:
    for name in ("stays", "gone", "deleted", "lost"):
        cni.add(name)
    device = {name: cni.device(name) for name in cni.containers}
    cni.agent.stop()
    cni.node.ns.run(cni.node.name, "ip", "netns", "delete", cni.containers["gone"])
    cni.node.ns.ip(cni.node.name, f"link delete {device['deleted']}")
    (cni.folder / "attachments" / f"{name_of('lost', 'eth0')}.json").unlink()
    cni.agent.start()
    cni.wait(lambda: len(cni.agent.records()) == 2 and cni.pings("deleted", ROUTER))
    assert cni.pings("stays", ROUTER)
    for name in ("stays", "deleted"):
        cni.delete(name)
    cni.delete("lost")  # Without a record, only host-local knows its addresses.
    del cni.containers["gone"]
    assert cni.leftovers() == []


def test_reconciliation_repairs_what_was_killed_or_detached(cni: Cni) -> None:
    for name in ("stays", "down", "detached", "killed"):
        cni.add(name)
    device = {name: cni.device(name) for name in cni.containers}
    (killed,) = (one for one in cni.result("killed") if ":" not in one)
    cni.agent.stop()
    cni.node.ns.ip(cni.node.name, f"link set {device['down']} down")
    cni.node.ns.run(cni.node.name, "tc", "qdisc", "delete", "dev", device["detached"], "clsact")
    # DEL was killed after it stored the declarations, before it removed the map entries.
    store, name = Store(cni.node.pins), name_of("killed", "eth0")
    record = store.read()["cni"]
    endpoints = [one for one in record.options["endpoints"] if one["name"] != name]
    store.write("cni", Record({**record.options, "endpoints": endpoints}, record.slots))
    cni.node.ns.ip(cni.node.name, f"link delete {device['killed']}")
    (cni.folder / "attachments" / f"{name}.json").unlink()
    assert killed in cni.endpoints()
    cni.agent.start()
    cni.wait(lambda: killed not in cni.endpoints())
    for name in ("stays", "down", "detached"):
        cni.wait(partial(cni.pings, name, ROUTER))
    cni.wait(lambda: cni.filters("detached") == cni.filters("stays"))
    assert cni.filters("stays")


def test_containers_are_detached_without_programs_and_repaired_with_them(cni: Cni) -> None:
    """DEL succeeds without maps; an agent that starts loads the programs, and repairs the containers."""
    cni.add("stays")
    cni.add("gone")
    cni.node.attach(state="absent")
    assert not cni.pings("stays", ROUTER)
    cni.delete("gone")
    cni.agent.stop()
    cni.agent.start()  # loads the programs
    cni.wait(partial(cni.pings, "stays", ROUTER))
    cni.delete("stays")
    assert cni.leftovers() == []


def test_programs_are_replaced_while_containers_start(cni: Cni, build: Callable[..., str]) -> None:
    other = build(("endpoints.h", "ENDPOINTS_MAX 131072", "ENDPOINTS_MAX 8192"))
    chance = random.Random(SEED)
    names = [f"c{number}" for number in range(8)]
    for name in names:
        cni.container(name)

    def add(name: str, delay: float) -> None:
        time.sleep(delay)
        cni.add(name)

    for number in range(ROUNDS):
        with ThreadPoolExecutor(len(names)) as pool:
            added = [pool.submit(add, name, chance.uniform(0, 1.5)) for name in names]
            changes = cni.node.attach(object=(other, cni.node.object)[number % 2])["changes"]
            assert "replace map endpoints4" in changes
            for one in added:
                one.result()
        for name in names:
            assert cni.pings(name, ROUTER), f"seed {SEED}: {name}"
            cni.delete(name)
    assert cni.leftovers() == []


class Local:
    """The agent's commands in this process, so that a test can replace the journal."""

    def __init__(self, cni: Cni) -> None:
        cni.agent.stop()
        self._cni = cni
        config = Config("n", cni.node.object, driver="veth", pin_path=cni.node.pins)
        self._worker = worker.Worker(SinglePods(config.node_spec(), no_command), {})
        attachments = Attachments(str(cni.folder / "attachments"))
        self._commands = commands.Commands(config, self._worker, attachments, None)

    def __enter__(self) -> Local:
        with self._cni.node.ns.inside(self._cni.node.name):
            self._worker.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._worker.stop()
        self._cni.agent.start()

    def call(self, command: str, name: str) -> int:
        """Return the code of the error, 0 if there is none."""
        given = {
            "COMMAND": command,
            "CONTAINERID": name,
            "NETNS": self._cni.container(name),
            "IFNAME": "eth0",
        }
        variables = {f"CNI_{key}": value for key, value in {**given, "PATH": PLUGINS}.items()}
        request = protocol.Request(
            command, "1.0.0", "test", self._cni.config, variables, name, "eth0", given["NETNS"]
        )
        try:
            self._commands.execute(request)
        except protocol.CniError as error:
            return error.code
        return 0


def test_containers_wait_for_the_confirmation_of_replaced_programs(
    cni: Cni, build: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the runtime tries again, for what the maps would lose by a rollback."""
    monkeypatch.setattr(journal, "FOLDER", str(tmp_path / "journal"))
    cni.add("one")
    before = cni.leftovers()
    with cni.node.ns.inside(cni.node.name):
        backup.back_up(cni.node.pins)
    cni.node.attach(object=build(("endpoints.h", "ENDPOINTS_MAX 131072", "ENDPOINTS_MAX 8192")))
    journal.append({"checkpoint": "1", "checkpoint_state": "armed"})
    with Local(cni) as local:
        assert local.call("ADD", "two") == protocol.TRY_AGAIN
        assert local.call("DEL", "two") == 0
        assert cni.leftovers() == before
        assert local.call("DEL", "one") == protocol.TRY_AGAIN
        journal.append({"checkpoint": "1", "checkpoint_state": "confirmed"})
        assert local.call("ADD", "two") == 0
        assert local.call("DEL", "one") == 0
    cni.delete("two")
    assert cni.leftovers() == []


def test_gc_removes_only_invalid_containers_of_its_network(cni: Cni) -> None:
    inventory = f"/run/netns/{cni.node.ns('inventory')}"
    site = api.NodeSpec(driver="veth", object=cni.node.object, pin_path=cni.node.pins)
    with cni.node.ns.inside(cni.node.name):
        api.ensure(site, [api.PodSpec("inventory", ["10.78.1.9/32"], inventory)], True, no_command)
    other = {
        **cni.config,
        "name": "other",
        "ipam": {**cni.config["ipam"], "ranges": [[{"subnet": "10.79.0.0/24"}]]},
    }
    for name in ("valid", "invalid", "gone"):
        cni.add(name)
    cni.add("other", other)
    cni.node.ns.run(cni.node.name, "ip", "netns", "delete", cni.containers["gone"])
    valid = [{"containerID": name, "ifname": "eth0"} for name in ("valid", "unknown")]
    valid.append({"containerID": "invalid", "ifname": "net1"})
    config = {**cni.config, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    for _time in range(2):
        assert cni.agent.call("GC", config) == Reply(0, {})
        assert cni.agent.records() == sorted(f"{name_of(name, 'eth0')}.json" for name in ("valid", "other"))
        for address in (ROUTER, "10.78.1.9", *cni.result("other")):
            assert cni.pings("valid", address), address
    reserved = {path.name for path in (cni.folder / "ipam/test").iterdir()}
    assert {one.replace(":", "_") for one in cni.result("valid")} <= {
        one.replace(":", "_") for one in reserved
    }
    assert not reserved & {"10.78.0.3", "10.78.0.4"}
    del cni.containers["gone"]
    cni.delete("valid")
    assert cni.call("DEL", "other", other) == Reply(0, {})
    with cni.node.ns.inside(cni.node.name):
        api.ensure(site, [], True, no_command)
    assert cni.leftovers() == []


def test_changed_options_apply_when_the_agent_starts(cni: Cni) -> None:
    cni.add("one")
    cni.agent.stop()
    file, services = cni.folder / "agent.json", ["10.96.0.0/16"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "stack_services": services}))
    cni.agent.start()
    cni.wait(lambda: Store(cni.node.pins).read()["cni"].options.get("stack_services") == services)
    assert cni.pings("one", ROUTER)


def test_removal_deletes_routes_and_pods(cni: Cni, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config("n", cni.node.object, driver="veth", pin_path=cni.node.pins)
    cni.add("one")
    cni.agent.stop()
    cni.node.ns.ip(cni.node.name, "link set left up")
    monkeypatch.setattr(install._config, "read", lambda: config)
    with cni.node.ns.inside(cni.node.name):
        pods = SinglePods(config.node_spec(), no_command)
        pods.set_routes(frozenset([Route("10.99.0.0/24", "", "left")]))
        assert "10.99.0.0/24" in cni.node.ns.run(cni.node.name, "ip", "route")
        assert install._remove_pods(no_command) == ""
    assert "10.99.0.0/24" not in cni.node.ns.run(cni.node.name, "ip", "route")
    cni.agent.start()
    cni.delete("one")
    assert cni.leftovers() == []


def test_a_foreign_route_does_not_affect_routes_to_other_nodes(cni: Cni) -> None:
    cni.node.ns.ip(cni.node.name, "link set left up", "link set right up", "route add 10.99.1.0/24 dev right")
    pods = SinglePods(Config("n", cni.node.object, pin_path=cni.node.pins).node_spec(), no_command)
    wanted = [Route(f"10.99.{number}.0/24", "", "left") for number in range(3)]
    with cni.node.ns.inside(cni.node.name):
        with pytest.raises(Problem, match=r"10\.99\.1\.0/24.*exists"):
            pods.set_routes(frozenset(wanted))
        routes = cni.node.ns.run(cni.node.name, "ip", "route")
        assert all(f"10.99.{number}.0/24 dev left" in routes for number in (0, 2)), routes
        pods.set_routes(frozenset())
        assert "dev left" not in cni.node.ns.run(cni.node.name, "ip", "route")
    assert "10.99.1.0/24 dev right" in cni.node.ns.run(cni.node.name, "ip", "route")


def test_pods_of_the_inventory_stay_and_share_the_datapath(cni: Cni) -> None:
    command = partial(api.ensure, api.NodeSpec(driver="veth", object=cni.node.object, pin_path=cni.node.pins))
    netns = cni.node.ns("inventory")
    pod = api.PodSpec("inventory", ["10.78.1.9/32"], netns=f"/run/netns/{netns}")
    with cni.node.ns.inside(cni.node.name):
        command([pod], True, no_command)
    cni.add("one")
    assert cni.pings("one", "10.78.1.9")
    with cni.node.ns.inside(cni.node.name):
        assert not command([pod], True, no_command).changed
        taken = {**cni.config["ipam"], "ranges": [[{"subnet": "10.78.1.0/24", "rangeStart": "10.78.1.9"}]]}
        fails(cni, "two", protocol.FAILED, "inventory of owner site", {**cni.config, "ipam": taken})
        command([], True, no_command)
    assert cni.pings("one", ROUTER)
    cni.delete("one")
    assert cni.leftovers() == []


def test_a_killed_agent_leaves_nothing(cni: Cni) -> None:
    chance = random.Random(SEED)
    names = [f"c{number}" for number in range(CONTAINERS)]
    for name in names:
        cni.container(name)
    for _round in range(ROUNDS):
        with ThreadPoolExecutor(16) as pool:
            requests = [pool.submit(cni.try_call, chance.choice(("ADD", "DEL")), name) for name in names]
            time.sleep(chance.uniform(0, 0.025 * CONTAINERS))
            cni.agent.stop(signal.SIGKILL)
            for request in requests:
                request.result()
        cni.agent.start()
        attached = {name: cni.agent.has_record(name) for name in names}
        for name in [name for name, complete in attached.items() if complete]:
            # A DEL that was killed may have removed its device, which reconciliation creates again.
            cni.wait(partial(cni.pings, name, ROUTER))
    for name in names:
        cni.delete(name)
    assert cni.leftovers() == [], f"seed {SEED}"


def test_the_status_names_pods_and_drops(cni: Cni) -> None:
    cni.add("one", ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0")
    cni.node.ns.ip(cni.containers["one"], "address add 10.78.0.99/32 dev eth0")
    cni.node.ns.run(cni.containers["one"], "ping", "-c1", "-W1", "-I", "10.78.0.99", ROUTER, check=False)
    with cni.node.ns.inside(cni.node.name):
        lines = status.status(cni.node.pins).splitlines()
        pods = info.gather(cni.node.pins)["pods"]
    shown = {name.strip(): text.strip() for name, _colon, text in (line.partition(":") for line in lines)}
    assert shown["Pods"] == "1 of 1023: 1 cni" and shown["devices"] == "1 veth"
    # The kernel of the container may have sent IPv6 messages that are dropped, too.
    assert "invalid source ip 1" in shown["drops"].split(", ") and len(lines) < 24
    assert [pod["name"] for pod in pods] == ["shop/web-0"]
