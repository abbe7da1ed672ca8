# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""bpf_attach and bpf_state on the running kernel: refusals, replacement, ownership and rollback."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._core.plan import Problem
from ansible_collections.podnet.datapath.plugins.module_utils._datapath import verify
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.layout import LAYOUT
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.store import Store
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf, libbpf
from ansible_collections.podnet.datapath.plugins.module_utils._programs import attach
from ansible_collections.podnet.datapath.plugins.module_utils._programs.resolve import Request
from tests.netns.bpf_node import Node


def test_check_mode_predicts_all_changes(node: Node) -> None:
    attachments = ("host_ingress left ingress tcx", "pod_egress vlan.100 from_pod clsact")
    before = node.everything()
    planned = node.attach(*attachments, check=True)
    assert node.everything() == before
    assert not os.path.exists(node.pins)
    done = node.attach(*attachments)
    assert (planned["changed"], planned["changes"]) == (True, done["changes"])
    assert planned["diff"] == done["diff"]
    assert "host_ingress at left ingress (tcx)" in done["diff"][0]["after"]
    assert {p["tag"] for p in planned["programs"]} == {p["tag"] for p in done["programs"]}
    for program in done["programs"]:
        with bpf.closing(bpf.obj_get(program["path"])) as fd:
            assert bpf.program_info(fd).id == program["id"]

    state = node.everything()
    for check in (True, False):
        again = node.attach(*attachments, check=check)
        assert (again["changed"], again["changes"]) == (False, [])
        assert again["diff"] == []
    assert node.everything() == state

    state = node.everything()
    assert node.attach(state="absent", check=True)["changed"]
    assert node.everything() == state


def test_attachments_match_the_list(node: Node) -> None:
    node.attach("host_ingress left ingress tcx", "host_ingress c-d ingress clsact")
    assert node.tcx("left") == ["host_ingress"]
    assert "host_ingress" in node.filters("c-d", "ingress")

    # another program, another type, one removed, one new
    result = node.attach("pod_egress c-d ingress tcx", "pod_ingress right to_pod clsact")
    assert result["changes"] == [
        "replace attachment site/c-d-ingress",
        "remove attachment site/left-ingress",
        "create attachment site/right-to_pod",
    ]
    assert node.tcx("left") == []
    assert node.tcx("c-d") == ["pod_egress"]
    assert node.filters("c-d", "ingress") == ""
    assert "pod_ingress" in node.filters("right", "egress")
    assert (
        node.ns.run(node.name, "tc", "qdisc").count("clsact") == 1
    )  # that of right; the one of c-d is removed


def test_owners_keep_their_attachments(node: Node) -> None:
    node.attach("host_ingress left ingress")
    node.attach("pod_egress right from_pod", owner="pods")
    assert not node.attach("host_ingress left ingress")["changed"]
    assert node.tcx("right") == ["pod_egress"]
    assert "owner 'pods'" in node.refuse("host_ingress left ingress", "host_ingress right ingress")
    assert "'../x'" in node.refuse(owner="../x")
    assert node.attach(owner="pods")["changes"] == ["remove attachment pods/right-from_pod"]
    assert node.tcx("left") == ["host_ingress"]


def test_new_object_replaces_programs_of_all_owners(node: Node, build: Any) -> None:
    attachments = ("host_ingress left ingress tcx", "pod_ingress left to_pod clsact")
    first = node.attach(*attachments)
    node.attach("pod_egress right from_pod", owner="pods")
    node.module("bpf_state", endpoints=[{"device": "left", "addresses": ["10.31.1.11"]}])
    other = build(("metrics.h", r"return TC_ACT_UNSPEC", "return TC_ACT_OK"))

    result = node.attach(*attachments, object=other)
    assert "replace attachment pods/right-from_pod" in result["changes"]
    assert not any("map" in change for change in result["changes"])
    old, new = ({p["name"]: p for p in r["programs"]} for r in (first, result))
    assert old["pod_ingress"]["tag"] != new["pod_ingress"]["tag"]
    assert f"id {new['pod_ingress']['id']} " in node.filters("left", "egress")
    assert node.tcx("right") == ["pod_egress"]
    # map entries are kept
    state = {"endpoints": [{"device": "left", "addresses": ["10.31.1.11"]}]}
    assert not node.module("bpf_state", **state)["changed"]
    assert not node.attach(*attachments, object=other)["changed"]
    assert not node.attach("pod_egress right from_pod", object=other, owner="pods")["changed"]


def test_changed_rodata_replaces_programs(node: Node) -> None:
    """The kernel's program tag does not cover read-only data."""
    before = node.attach("pod_egress left from_pod")
    result = node.attach("pod_egress left from_pod", rodata={"reason_max": "1"})
    assert result["changed"]
    assert [p["tag"] for p in before["programs"]] == [p["tag"] for p in result["programs"]]
    assert not node.attach("pod_egress left from_pod", rodata={"reason_max": True})["changed"]


def test_maps_of_another_layout_are_filled_before_programs_are_replaced(node: Node, build: Any) -> None:
    node.attach("pod_egress left from_pod")
    site = [{"device": "left", "addresses": ["10.31.1.11", "fd31:1::11"]}]
    cni = [{"device": "right", "addresses": ["10.31.1.12"]}]
    node.module("bpf_state", endpoints=site)
    node.module("bpf_state", endpoints=cni, owner="cni")
    smaller = build(("endpoints.h", "ENDPOINTS_MAX 131072", "ENDPOINTS_MAX 2"))
    result = node.attach("pod_egress left from_pod", object=smaller)
    # maps that are computed from declarations are replaced, others stay
    assert {"replace map endpoints4", "replace map endpoints6", "replace map policy"} < set(result["changes"])
    assert not {"replace map metrics", "replace map ct", "replace map flow_cache"} & set(result["changes"])
    assert "131072 entries" in result["diff"][0]["before"]
    assert not node.attach("pod_egress left from_pod", object=smaller)["changed"]
    for owner, endpoints in (("site", site), ("cni", cni)):
        assert not node.module("bpf_state", endpoints=endpoints, owner=owner)["changed"]
    pods = [{"device": "left", "addresses": [f"10.31.1.{n}" for n in range(13, 16)]}]
    message = node.module("bpf_state", endpoints=pods, fails=True)["msg"]
    assert "the map endpoints4 " in message
    assert not node.module("bpf_state", endpoints=site)["changed"]


def test_object_of_another_version_is_rejected(node: Node, build: Any) -> None:
    """Structs of the same size may have another member order, so sizes alone do not show the version."""
    node.attach("pod_egress left from_pod")
    before = node.everything()
    swapped = build(("endpoints.h", r"(\t__u16 slot;.*\n)(\t__u16 flags;.*\n)", r"\2\1"))
    for check in (True, False):
        message = node.attach("pod_egress left from_pod", object=swapped, fails=True, check=check)["msg"]
        assert "map endpoints4: field `slot` is at offset 22 in the object and at 20" in message
        assert "different versions" in message and "recompile the object" in message
    assert node.everything() == before


def test_connections_are_migrated_or_programs_refused(node: Node, build: Any) -> None:
    """Connections survive a new table size; another entry layout needs allow_connection_loss."""

    def connections(name: str) -> dict[bytes, bytes]:
        with bpf.closing(bpf.obj_get(f"{node.pins}/maps/{name}")) as fd:
            return bpf.map_read(fd)

    def serial_number() -> int:
        return int.from_bytes(connections("ct_slots")[bytes(4)][:4], sys.byteorder)

    node.attach("pod_egress left from_pod")
    entries = {}
    for name in ("connections", "ct4", "ct6"):
        with bpf.closing(bpf.obj_get(f"{node.pins}/maps/{name}")) as fd:
            layout = bpf.map_info(fd).layout
            keys = (bytes([n]) * layout.key_size for n in range(100))
            entries[name] = {key: key[:1] * layout.value_size for key in keys}
            bpf.map_update(fd, entries[name])
    serial = serial_number()
    smaller = build(("ct.h", r"CT_MAX \d+", "CT_MAX 8192"))
    changes = node.attach("pod_egress left from_pod", object=smaller)["changes"]
    assert {f"replace map {name}" for name in entries} <= {*changes}
    assert {name: connections(name) for name in entries} == entries
    # records that the former programs allocate meanwhile never match new references
    assert serial_number() > serial + 100000

    other = build(("ct.h", r"\t__u32 backend;", "\t__u32 another, backend;"))
    for check in (True, False):
        message = node.attach("pod_egress left from_pod", object=other, fails=True, check=check)["msg"]
        assert "allow_connection_loss: true" in message
    assert connections("connections") == entries["connections"]
    assert node.attach("pod_egress left from_pod", object=other, allow_connection_loss=True)["changed"]
    assert not connections("connections")


def test_new_endpoints_change_the_generation(node: Node) -> None:
    """Programs cache decisions per flow until the generation changes."""

    def generation() -> bytes:
        with bpf.closing(bpf.obj_get(f"{node.pins}/maps/config")) as fd:
            return bpf.map_lookup(fd, bytes(4), 4)

    node.attach("pod_egress left from_pod")
    before = generation()
    state = {"endpoints": [{"device": "left", "addresses": ["10.31.1.11"]}]}
    node.module("bpf_state", **state)
    after = generation()
    assert after != before
    assert not node.module("bpf_state", **state)["changed"]
    assert generation() == after


def test_missing_pins_are_recreated(node: Node) -> None:
    node.attach("host_ingress left ingress tcx", "pod_ingress left egress clsact")
    os.unlink(f"{node.pins}/progs/pod_egress")
    assert (
        "create program pod_egress"
        in node.attach("host_ingress left ingress tcx", "pod_ingress left egress clsact")["changes"]
    )
    # without the pin of its map a program's counters cannot be read
    os.unlink(f"{node.pins}/maps/metrics")
    result = node.attach("host_ingress left ingress tcx", "pod_ingress left egress clsact")
    assert "create map metrics" in result["changes"]
    assert node.tcx("left") == ["host_ingress"]
    # a recreated device has no program, although the pins exist
    node.ns.ip(node.name, "link del left", "link add left type veth peer name right")
    assert node.tcx("left") == []
    node.attach("host_ingress left ingress tcx", "pod_ingress left egress clsact")
    assert node.tcx("left") == ["host_ingress"]
    assert "pod_ingress" in node.filters("left", "egress")


def test_an_unchanged_object_is_not_loaded_again(node: Node) -> None:
    """Unless a pinned program is another one, or the record of the object is invalid."""

    def loads(*attachments: Request) -> bool:
        with node.ns.inside(node.name), libbpf.BpfObject(node.object) as obj:
            attach.install(attach.Desired(node.pins, attachments), obj)
            return obj.loaded

    request = Request("host_ingress", "left", "ingress", "clsact")
    assert loads() and not loads()
    assert not loads(request) and not loads(request)
    with bpf.closing(bpf.obj_get(f"{node.pins}/progs/host_ingress")) as fd:
        assert f"id {bpf.program_info(fd).id} " in node.filters("left", "ingress")
    with libbpf.BpfObject(node.object) as other:
        other.load()
        os.unlink(f"{node.pins}/progs/pod_egress")
        bpf.obj_pin(other.programs["pod_egress"], f"{node.pins}/progs/pod_egress")
    assert loads(request) and not loads(request)
    Path(Store(node.pins).folder, "object").write_text("{}")
    assert loads(request) and not loads(request)


def test_next_run_repairs_a_killed_run(node: Node, build: Any) -> None:
    """The killed run has attached a program, but not renamed its pin."""
    node.attach("host_ingress left ingress tcx")
    other = build(("datapath.bpf.c", r"REASON_STACK_NO_ENDPOINT\)", "REASON_STACK_LINK_SCOPE)"))
    with libbpf.BpfObject(other) as half:
        half.load()
        bpf.obj_pin(half.programs["host_ingress"], f"{node.pins}/progs/host_ingress~")
        with bpf.closing(bpf.obj_get(f"{node.pins}/links/site/left-ingress")) as link:
            bpf.link_update(link, half.programs["host_ingress"])
    result = node.attach("host_ingress left ingress tcx")
    assert result["changes"] == ["replace attachment site/left-ingress"]
    assert not os.path.exists(f"{node.pins}/progs/host_ingress~")
    assert not node.attach("host_ingress left ingress tcx")["changed"]


def test_foreign_filter_is_kept(node: Node, datapath_object: str) -> None:
    node.ns.run(node.name, "tc", "qdisc", "add", "dev", "left", "clsact")
    foreign = ("tc", "filter", "add", "dev", "left", "ingress", "pref", "100", "handle", "1", "bpf", "da")
    node.ns.run(node.name, *foreign, "obj", datapath_object, "program", "pod_ingress", check=False)
    if "pod_ingress" not in node.filters(
        "left", "ingress"
    ):  # a tc without libbpf selects programs by section
        node.ns.run(node.name, *foreign, "obj", datapath_object, "sec", "tc")
    message = node.refuse("host_ingress left ingress clsact")
    assert "not managed" in message and "clsact priority 100" in message
    assert re.search(r"program '\w+' \(id \d+\)", message)
    # tcx has several programs per hook, so attaching and removing leaves the foreign filter
    node.attach("host_ingress left ingress tcx", "pod_ingress left egress clsact")
    node.attach(state="absent")
    assert "pref 100" in node.filters("left", "ingress")
    assert "clsact" in node.ns.run(node.name, "tc", "qdisc")


@pytest.mark.parametrize(
    ("attachments", "options", "expected"),
    [
        (["host_ingress nosuch ingress"], {}, ["nosuch", "does not exist"]),
        (["nosuch left ingress"], {}, ["no program 'nosuch'", "of host_egress, host_ingress, pod_egress"]),
        (["sock_connect4 left ingress"], {}, ["no program 'sock_connect4': use one of host_egress"]),
        (["sock_stale left ingress"], {}, ["no program 'sock_stale': use one of host_egress"]),
        (["host_ingress left ingress meta"], {}, ["type meta", "veth", "auto"]),
        (["pod_egress left from_pod netkit"], {}, ["type netkit", "veth", "auto"]),
        (
            ["host_ingress left ingress", "pod_egress left from_pod"],
            {},
            ["left, hook from_pod", "host_ingress"],
        ),
        (
            ["host_ingress nosuch ingress", "nosuch left ingress"],
            {},
            ["device 'nosuch'", "program 'nosuch'"],
        ),
        ([], {"object": "/nowhere/datapath.o"}, ["file '/nowhere/datapath.o' does not exist"]),
        ([], {"object": __file__}, [__file__, "libbpf cannot open"]),
        ([], {"rodata": {"nosuch": 1}}, ["'nosuch'", "reason_max"]),
        ([], {"rodata": {"reason_max": 1 << 32}}, ["reason_max=4294967296", "4 bytes"]),
        ([], {"rodata": {"reason_max": "on"}}, ["reason_max='on'", "not an integer"]),
        ([], {"pin_path": "/run/podnet-test"}, ["/run/podnet-test", "mount -t bpf"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_options_are_refused_before_any_change(
    node: Node, attachments: list[str], options: dict[str, Any], expected: list[str]
) -> None:
    message = node.refuse(*attachments, **options)
    assert not [part for part in expected if part not in message], message


def test_verifier_log_is_shown(node: Node, build: Any) -> None:
    node.attach("host_ingress left ingress")
    broken = build(("parse.h", r"\(void \*\)\(ip \+ 1\) > \(void \*\)\(long\)skb->data_end", "0"))
    message = node.refuse("host_ingress left ingress", object=broken)
    assert "verifier rejects program 'pod_egress'" in message
    assert "invalid access to packet" in message
    assert len(message.splitlines()) <= 21


def test_failed_attachment_rolls_back_all_others(node: Node) -> None:
    """The kernel refuses the last attachment, so the earlier ones are rolled back."""
    node.attach("host_ingress left ingress tcx")
    with contextlib.ExitStack() as files, node.ns.inside(node.name):
        program = files.enter_context(bpf.closing(bpf.obj_get(f"{node.pins}/progs/pod_ingress")))
        ifindex = socket.if_nametoindex("vlan.100")
        # a hook accepts each program once
        files.enter_context(bpf.closing(bpf.link_create(program, ifindex, bpf.BPF_TCX_EGRESS)))
        before = node.everything()
        message = node.attach(
            *("pod_egress left ingress tcx", "pod_ingress right egress clsact"),
            *("pod_ingress vlan.100 egress tcx",),
            fails=True,
        )["msg"]
        assert "vlan%2E100-egress" in message and "everything was restored" in message
        assert node.everything() == before
    assert node.tcx("left") == ["host_ingress"]


def test_foreign_command_file_is_refused_before_any_change(node: Node, tmp_path: Path) -> None:
    command = tmp_path / "podnet-datapath"
    command.write_text("a foreign file")
    assert f"'{command}' is not managed" in node.refuse("host_ingress left ingress", command=str(command))
    assert not os.path.exists(node.pins)


def test_mismatch_after_apply_fails_the_change(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The transaction sees the error, so the change cannot be confirmed."""
    seen: list[BaseException] = []

    class Observer:
        @contextlib.contextmanager
        def transaction(self, plan: object) -> Iterator[None]:
            try:
                yield
            except Problem as problem:
                seen.append(problem)
                raise

    monkeypatch.setattr(attach, "execute", lambda *args: None)
    desired = attach.Desired(node.pins, [Request("host_ingress", "left", "ingress")])
    with node.ns.inside(node.name), pytest.raises(Problem, match="reading back shows a different state"):
        attach.present(desired, node.object, {}, recorder=Observer())
    assert len(seen) == 1


def test_devices_without_ethernet_header_are_refused(node: Node) -> None:
    node.ns.ip(node.name, "tuntap add tun0 mode tun")
    for hook in ("ingress", "egress"):
        message = node.refuse("host_ingress left ingress", f"host_ingress tun0 {hook}")
        assert "tun0" in message and "no Ethernet header" in message, message


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (
            "policy add src 10.31.0.0/16 dst 10.32.0.0/16 dir out action block",
            "out 10.31.0.0/16 to 10.32.0.0/16",
        ),
        ("policy add src fd31::/16 dst ::/0 dir fwd tmpl proto esp", "fwd fd31::/16 to ::/0"),
        ("policy setdefault fwd block", "fwd block by default"),
    ],
)
def test_ipsec_policies_for_routed_packets_are_refused(node: Node, command: str, shown: str) -> None:
    node.attach("host_ingress left ingress")
    node.ns.run(node.name, "ip", "xfrm", *command.split())
    message = node.refuse("host_ingress left ingress", "pod_egress right from_pod")
    assert shown in message and "ip xfrm policy" in message
    assert node.attach(state="absent")["changed"]


def test_ipsec_policies_that_cannot_apply_to_pods_are_accepted(node: Node) -> None:
    """Policies for the host itself, and those of xfrm interfaces, which are devices like others."""
    for options in ("dir in tmpl proto esp", "dir out if_id 7 tmpl proto esp"):
        selector = "src 10.31.0.0/16 dst 10.32.0.0/16"
        node.ns.run(node.name, "ip", "xfrm", "policy", "add", *f"{selector} {options}".split())
    assert node.attach("host_ingress left ingress")["changed"]


def test_egress_of_ingress_qdisc_is_refused(node: Node) -> None:
    """The kernel would attach the filter at ingress without an error."""
    node.ns.run(node.name, "tc", "qdisc", "add", "dev", "left", "ingress")
    assert "ingress qdisc" in node.refuse("pod_ingress left egress clsact")
    node.attach("host_ingress left ingress clsact")
    assert "host_ingress" in node.filters("left", "ingress")
    node.attach(state="absent")
    assert "qdisc ingress" in node.ns.run(node.name, "tc", "qdisc")


class TestState:
    """bpf_state."""

    def test_owners_share_the_maps(self, node: Node) -> None:
        node.attach()
        site = [{"device": "left", "addresses": ["10.31.1.11/32", "FD31:1:0::11/128"]}]
        result = node.module("bpf_state", endpoints=site, check=True)
        assert node.module("bpf_state", endpoints=site)["diff"] == result["diff"]
        assert result["updated"] == ["10.31.1.11", "fd31:1::11"]
        assert result["diff"][0]["after"] == "10.31.1.11 at left\nfd31:1::11 at left\n"
        cni = [{"device": "right", "addresses": ["10.31.1.12"]}]
        assert node.module("bpf_state", endpoints=cni, owner="cni")["changed"]
        assert not node.module("bpf_state", endpoints=site)["changed"]

        message = node.module("bpf_state", endpoints=[*site, *cni], fails=True)["msg"]
        assert "10.31.1.12 is assigned to both right of owner 'cni' and right" in message
        result = node.module("bpf_state", endpoints=[{**site[0], "addresses": ["10.31.1.11"]}])
        assert (result["updated"], result["deleted"]) == ([], ["fd31:1::11"])
        assert node.module("bpf_state", endpoints=[])["deleted"] == ["10.31.1.11"]
        assert not node.module("bpf_state", endpoints=cni, owner="cni")["changed"]

    def test_policy_applies_to_pods_of_other_owners(self, node: Node) -> None:
        node.attach()
        cni = [{"device": "right", "addresses": ["10.31.1.12"], "labels": {"app": "web"}}]
        node.module("bpf_state", endpoints=cni, owner="cni")
        policy = {"name": "closed", "pods": {"labels": {"app": "web"}}, "ingress": []}
        result = node.module("bpf_state", endpoints=[], policies=[policy])
        assert result["updated"] == ["10.31.1.12"]
        # removing an owner keeps the others' entries and is not refused for their policies
        assert node.module("bpf_state", endpoints=[], owner="cni")["changed"]
        assert not node.module("bpf_state", endpoints=[], owner="cni")["changed"]

    def test_recreated_device_is_found(self, node: Node) -> None:
        node.attach()
        site = [{"device": "left", "addresses": ["10.31.1.11"]}]
        node.module("bpf_state", endpoints=site)
        node.ns.ip(node.name, "link del left", "link add left type veth peer name right")
        assert node.module("bpf_state", endpoints=site)["updated"] == ["10.31.1.11"]
        assert not node.module("bpf_state", endpoints=site)["changed"]

    def test_drifted_map_entries_are_restored(self, node: Node) -> None:
        node.attach()
        state = {
            "endpoints": [{"device": "left", "addresses": ["10.31.1.11"]}],
            "policies": [{"name": "closed", "egress": [{"to": [{"cidr": "10.0.0.0/8"}]}]}],
            "services": [
                {"name": "s", "address": "10.96.0.1", "port": 80, "backends": [{"address": "10.31.1.11"}]}
            ],
        }
        node.module("bpf_state", **state)
        for name in ("endpoints4", "pods", "policy", "services", "cidrs4"):
            with bpf.closing(bpf.obj_get(f"{node.pins}/maps/{name}")) as fd:
                bpf.map_delete(fd, list(bpf.map_read(fd)))
            assert node.module("bpf_state", **state, check=True)["changed"], name
            assert node.module("bpf_state", **state)["changed"], name
            assert not node.module("bpf_state", **state)["changed"], name

    @pytest.mark.parametrize(
        ("endpoints", "expected"),
        [
            ({"left": ["10.31.1.11"], "nosuch": ["10.31.1.12"], "none": ["10.31.1.13"]}, ["none, nosuch"]),
            (
                {"left": ["10.31.1"], "right": ["fd31::x"]},
                ["(left): addresses: '10.31.1' is not", "(right): addresses: 'fd31::x' is not"],
            ),
            (
                {"left": ["10.31.1.11"], "right": ["10.31.1.11/32"]},
                ["10.31.1.11 is assigned to both left and right"],
            ),
            ({"left": ["fe80::1", "224.0.0.1"]}, ["'fe80::1'", "'224.0.0.1'"]),
        ],
        ids=["devices", "addresses", "twice", "scope"],
    )
    def test_all_errors_are_reported_at_once(
        self, node: Node, endpoints: dict[str, list[str]], expected: list[str]
    ) -> None:
        node.attach()
        given = [{"device": device, "addresses": addresses} for device, addresses in endpoints.items()]
        for check in (True, False):
            message = node.module("bpf_state", endpoints=given, fails=True, check=check)["msg"]
            assert not [part for part in expected if part not in message], message
        assert not node.module("bpf_state", endpoints=[])["changed"]

    def test_rate_needs_qdisc_fq(self, node: Node) -> None:
        node.attach()
        state = {"endpoints": [{"device": "left", "addresses": ["10.31.1.11"], "rate": "10mbit"}]}
        assert "qdisc fq" in node.module("bpf_state", **state, fails=True)["msg"]

    def test_info_reports_policies_and_services(self, node: Node) -> None:
        node.attach()
        node.module(
            "bpf_state",
            endpoints=[
                {"name": "web", "device": "left", "addresses": ["10.31.1.11"], "labels": {"app": "web"}}
            ],
            remote_pods=[
                {"name": "db", "node": "node2", "addresses": ["10.31.2.11"], "labels": {"app": "db"}}
            ],
            policies=[
                {
                    "name": "web",
                    "pods": {"names": ["web"]},
                    "ingress": [
                        {"from": [{"labels": {"app": "db"}}], "ports": [{"protocol": "tcp", "port": 80}]},
                        {"from": [{"cidr": "192.0.2.0/24"}], "ports": [{"protocol": "icmp", "type": 8}]},
                    ],
                }
            ],
            services=[
                {
                    "name": "front",
                    "address": "10.96.0.1",
                    "port": 80,
                    "backends": [
                        {"names": ["web"], "weight": 3},
                        {"names": ["db"], "port": 81},
                        {"names": ["db"], "port": 82, "weight": 0},
                    ],
                }
            ],
        )
        info = node.module("datapath_info")
        (pod,) = info["pods"]
        assert (pod["name"], pod["device"], pod["labels"]) == ("web", "left", {"app": "web"})
        policy = pod["policy"]["10.31.1.11"]["ingress"]
        assert policy["default"] == "deny" and "egress" not in pod["policy"]["10.31.1.11"]
        assert {"peers": ["Pod db at node2"], "action": "deny", "allow": ["tcp 80"]} in policy["rules"]
        assert {"peers": ["192.0.2.0/24"], "action": "deny", "allow": ["icmp type 8"]} in policy["rules"]
        assert {"peers": ["the node"], "action": "allow", "deny": []} in policy["rules"]
        (service,) = info["services"]
        shares = {(b["address"], b["port"]): b["share"] for b in service["backends"]}
        assert shares.keys() == {("10.31.1.11", 80), ("10.31.2.11", 81), ("10.31.2.11", 82)}
        assert shares["10.31.2.11", 82] == 0
        assert 70 < shares["10.31.1.11", 80] < 80 and round(sum(shares.values())) == 100
        assert {program["name"] for program in info["programs"]} >= {"pod_egress", "host_ingress"}
        assert info["generation"] == 1 and info["connections"]["entries"] == 0

    def test_maps_of_another_version_are_reported_with_other_errors(
        self, node: Node, build: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as another_version:
            another_version.setattr(verify, "check", lambda obj: None)
            node.attach(object=build(("config.h", r"#define LAYOUT \d+", "#define LAYOUT 7")))
        given = [{"device": "nosuch", "addresses": ["10.31.1"]}]
        message = node.module("bpf_state", endpoints=given, fails=True)["msg"]
        layouts = f"the maps have layout 7 instead of {LAYOUT}"
        for part in (layouts, "devices that do not exist", "'10.31.1' is not"):
            assert part in message

    def test_state_without_programs_is_refused(self, node: Node) -> None:
        message = node.module("bpf_state", endpoints=[], fails=True)["msg"]
        assert "load the programs first" in message


def test_module_runs_under_ansible(node: Node) -> None:
    """The files that Ansible packs for the node are complete."""
    arguments = f"object={node.object} pin_path={node.pins}"
    done = subprocess.run(
        [
            *("nsenter", f"--net=/run/netns/{node.name}"),
            *("ansible", "localhost", "-m", "podnet.datapath.bpf_attach", "-a", arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "localhost | CHANGED" in done.stdout, done.stdout + done.stderr
    assert os.path.exists(f"{node.pins}/progs/host_ingress")
