# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests of all netlink families to the running kernel: errors, timeouts, and dumps that changes interrupt.

``make test-netns`` runs this with the pyroute2 of Debian 12 too.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import (
    ethtool,
    messages,
    netlink,
    netns,
    qdisc,
    routes,
    rtnl,
    sock_diag,
    xfrm,
)
from ansible_collections.podnet.datapath.plugins.module_utils._kernel.rtnl import Rtnl, nested
from tests.support.namespaces import Namespaces

NOOP = 1  # NLMSG_NOOP, to which the kernel does not reply
FAMILIES = (netlink.NETLINK_ROUTE, netlink.NETLINK_SOCK_DIAG, netlink.NETLINK_XFRM, netlink.NETLINK_GENERIC)


@pytest.fixture
def inside(namespaces: Namespaces) -> Iterator[str]:
    """Move this thread to a new network namespace; yield its path."""
    name = namespaces("netlink")
    with namespaces.inside(name):
        yield netns.path_of(name)


def add_veths(first: int, count: int) -> None:
    requests = []
    for number in range(first, first + count):
        message = messages.message_types().link()
        peer = nested(("IFLA_IFNAME", f"b{number}"))
        info = nested(("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", nested(("VETH_INFO_PEER", peer))))
        message["attrs"] = [("IFLA_IFNAME", f"a{number}"), ("IFLA_LINKINFO", info)]
        requests.append((message, rtnl.RTM_NEWLINK, rtnl.CREATE | rtnl.EXCL))
    with Rtnl() as host:
        assert not any(host.send(requests))


# Errors


def new_link() -> None:
    message = messages.message_types().link()
    message["attrs"] = [("IFLA_LINKINFO", nested(("IFLA_INFO_KIND", "nosuchkind")))]
    with Rtnl() as host:
        host.request(message, rtnl.RTM_NEWLINK, rtnl.CREATE)


def dump_links() -> None:
    message = messages.message_types().link()
    message["index"] = 1
    with Rtnl() as host:
        host.dump(message, rtnl.RTM_GETLINK)


def get_policy() -> None:
    with netlink.Socket(netlink.NETLINK_XFRM) as sock:
        sock.get(bytes(4), 0x15)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (new_link, "Unknown device type (Operation not supported)"),
        (dump_links, "Filter by device index not supported for link dumps (Invalid argument)"),
        (lambda: qdisc.write(1, "nosuchkind"), "Specified qdisc kind is unknown (No such file or directory)"),
        (
            lambda: ethtool.Ethtool().write(1, "features", {"nosuchfeature": True}),
            "bit name not found (Operation not supported)",
        ),
        (get_policy, "Invalid header length (Invalid argument)"),
    ],
)
def test_errors_have_the_message_of_the_kernel(inside: str, request_: Callable[[], None], text: str) -> None:
    with pytest.raises(netlink.KernelRefusal) as refusal:
        request_()
    assert refusal.value.strerror == text


def test_a_batch_continues_after_an_error(inside: str) -> None:
    add_veths(0, 1)
    types = messages.message_types()
    with Rtnl() as host:
        index = host.index_of("a0")

        def mtu(value: int) -> tuple[Any, int, int]:
            message = types.link()
            message["index"], message["attrs"] = index, [("IFLA_MTU", value)]
            return message, rtnl.RTM_SETLINK, 0

        results = host.send([mtu(2000 + number % 2 * 1000000) for number in range(130)] + [mtu(3000)])
        assert [bool(refused) for refused in results] == [number % 2 == 1 for number in range(130)] + [False]
        assert "mtu greater than device maximum" in str(results[1])
        assert host.link(index=index).get_attr("IFLA_MTU") == 3000


def test_a_missing_routing_table_is_an_empty_dump_but_a_missing_sock_diag_family_is_an_error(
    inside: str,
) -> None:
    message = messages.message_types().route()
    message["family"], message["table"] = socket.AF_INET, 77
    with Rtnl() as host:
        assert host.dump(message, rtnl.RTM_GETROUTE) == []
    with netlink.Socket(netlink.NETLINK_SOCK_DIAG) as sock:
        with pytest.raises(netlink.KernelRefusal) as refusal:
            sock.dump_bytes(bytes([250, 6]) + bytes(54), 20)
        assert refusal.value.errno in (errno.ENOENT, errno.EINVAL)


# Timeouts


@pytest.mark.parametrize("family", FAMILIES)
def test_a_request_without_a_reply_times_out(inside: str, family: int) -> None:
    with netlink.Socket(family, timeout=1) as sock:
        with pytest.raises(TimeoutError, match="did not reply to netlink request 1 within 1 s") as error:
            sock.get(b"", NOOP)
        assert error.value.errno == errno.ETIMEDOUT
        with pytest.raises(TimeoutError):
            sock.dump_bytes(b"", NOOP)


def test_a_late_reply_belongs_to_no_later_request(inside: str) -> None:
    """The reply to a request that timed out stays in the socket."""
    with Rtnl() as host:
        for flags in (0, netlink.NLM_F_ACK, netlink.NLM_F_DUMP):
            message = messages.message_types().link()
            message["index"] = 0 if flags == netlink.NLM_F_DUMP else 1
            host._socket.send(host._encode(message, rtnl.RTM_GETLINK, flags))
        add_veths(0, 1)
        assert host.link(name="b0").get_attr("IFLA_IFNAME") == "b0"
        with pytest.raises(netlink.KernelRefusal):
            host.link(index=77)
        new_link = messages.message_types().link()
        new_link["index"], new_link["attrs"] = host.index_of("b0"), [("IFLA_IFALIAS", "late")]
        assert host.send([(new_link, rtnl.RTM_SETLINK, 0)]) == [None]


# Interrupted dumps


class Interrupted(Rtnl):
    """Changes the links after the first message of each of the first ``times`` dumps."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._times, self.dumps, self._timeout = times, 0, 0

    def _answers(self, first: int, kind: int) -> Iterator[tuple[int, int, int, bytes]]:
        self.dumps += 1
        for number, answer in enumerate(super()._answers(first, kind)):
            yield answer
            if number == 0 and self.dumps <= self._times:
                add_veths(1000 + self.dumps, 1)


def test_an_interrupted_dump_is_repeated(inside: str) -> None:
    add_veths(0, 200)
    message = messages.message_types().link()
    host = Interrupted(3)
    with host:
        found = host.dump(message, rtnl.RTM_GETLINK)
        assert host.dumps == 4
    names = [link.get_attr("IFLA_IFNAME") for link in found]
    expected = {f"{end}{number}" for end in "ab" for number in (*range(200), 1001, 1002, 1003)}
    assert len(names) == len(expected) + 1 and {*names} == expected | {"lo"}


def test_a_dump_that_is_always_interrupted_fails(inside: str) -> None:
    add_veths(0, 200)
    with Interrupted(1000) as host:
        with pytest.raises(TimeoutError, match="changes interrupted 10 dumps"):
            host.dump(messages.message_types().link(), rtnl.RTM_GETLINK)
        # The socket remains usable.
        assert host.link(index=1).get_attr("IFLA_IFNAME") == "lo"


def test_a_limit_stops_a_dump(inside: str) -> None:
    add_veths(0, 20)
    with Rtnl(inside) as host, pytest.raises(netlink.TooManyObjects):
        host.dump(messages.message_types().link(), rtnl.RTM_GETLINK, limit=40)
    with Rtnl(inside) as host:
        assert len(host.dump(messages.message_types().link(), rtnl.RTM_GETLINK, limit=41)) == 41


# Replies


def test_links_are_decoded_as_pyroute2_decodes_them(inside: str, namespaces: Namespaces) -> None:
    name = inside.rpartition("/")[2]
    namespaces.ip(
        name,
        "link add br0 type bridge",
        "link add a0 mtu 2000 type veth peer name b0",
        "link set a0 master br0 up alias podnet:site/pod1",
        "link set b0 arp off",
    )
    found = {link.name: link for link in netlink.links()}
    with Rtnl() as host:
        for link in host.dump(messages.message_types().link(), rtnl.RTM_GETLINK):
            one = found.pop(link.get_attr("IFLA_IFNAME"))
            info = link.get_attr("IFLA_LINKINFO")
            assert (one.index, one.hardware, one.flags, one.mtu, one.mac.hex(":"), one.alias) == (
                *(link["index"], link["ifi_type"], link["flags"], link.get_attr("IFLA_MTU")),
                *(link.get_attr("IFLA_ADDRESS"), link.get_attr("IFLA_IFALIAS") or ""),
            )
            assert one.kind == (info.get_attr("IFLA_INFO_KIND") if info else "")
            assert one.link == (link.get_attr("IFLA_LINK") or 0) and not one.link_netns
    assert not found
    again = {link.name: link for link in netlink.links()}
    assert again["a0"].master == again["br0"].index and again["a0"].link == again["b0"].index
    assert [link.name for link in netlink.links_of_kind("bridge")] == ["br0"]
    netlink.delete_link(again["a0"].index)
    assert [link.name for link in netlink.links()] == ["lo", "br0"]


def test_namespace_ids(inside: str, namespaces: Namespaces) -> None:
    other = namespaces("other")
    assert netlink.netns_id(netns.path_of(other)) == -1
    namespaces.ip(inside.rpartition("/")[2], f"link add a0 type veth peer name b0 netns {other}")
    (pair,) = netlink.links_of_kind("veth")
    assert pair.link_netns and netlink.netns_id(netns.path_of(other)) >= 0
    with pytest.raises(FileNotFoundError):
        netlink.netns_id("/run/netns/nosuchnamespace")


def test_connections_of_both_families(inside: str) -> None:
    pairs = []
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((address, 0), family=family) as server:
            client = socket.create_connection(server.getsockname()[:2])
            pairs.append((client, server.accept()[0]))
    ends = {end for client, server in pairs for end in (client.getsockname(), server.getsockname())}
    shown = {f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, *_rest in ends}
    found = sock_diag.connections()
    assert {one.local for one in found} == {one.remote for one in found} == shown and len(found) == 4
    assert all(one.scale is not None for one in found)
    for client, server in pairs:
        client.close()
        server.close()


def test_ipsec_policies(inside: str, namespaces: Namespaces) -> None:
    name = inside.rpartition("/")[2]
    assert xfrm.policies() == []
    namespaces.ip(
        name,
        "xfrm policy add src 10.0.0.0/8 dst 10.1.0.0/16 dir out",
        "xfrm policy add src fd00::/8 dst ::/0 dir fwd",
        "xfrm policy add src 10.0.0.0/8 dst 10.2.0.0/16 dir in",
        "xfrm policy add src 10.0.0.0/8 dst 10.3.0.0/16 dir out if_id 7",
        "xfrm policy setdefault in accept fwd block out accept",
    )
    assert xfrm.policies() == [
        *("fwd fd00::/8 to ::/0", "out 10.0.0.0/8 to 10.1.0.0/16", "fwd block by default")
    ]


def test_qdiscs(inside: str, namespaces: Namespaces) -> None:
    add_veths(0, 1)
    index = socket.if_nametoindex("a0")
    assert qdisc.read(index) == "" and qdisc.ingress_kind(index) == ""
    namespaces.ip(inside.rpartition("/")[2], "link set a0 up")
    assert qdisc.read(index) == "noqueue"
    qdisc.write(index, "pfifo")
    assert qdisc.read(index) == "pfifo" and qdisc.queues(index) == [qdisc.Queue("pfifo")]
    namespaces.run(inside.rpartition("/")[2], "tc", "qdisc", "add", "dev", "a0", "clsact")
    assert qdisc.ingress_kind(index) == "clsact" and qdisc.queues(index) == [qdisc.Queue("pfifo")]


def test_settings_of_a_nic(inside: str, namespaces: Namespaces) -> None:
    add_veths(0, 1)
    nic = ethtool.Ethtool()
    before = nic.read("a0")
    assert before.driver == "veth" and before.values["mtu"] == 1500 and not before.xdp
    assert before.minimum["mtu"] == 68 and before.maximum["mtu"] == 65535
    assert before.values["features.tx-tcp-segmentation"] is True and "features.highdma" in before.values
    nic.write(before.index, "features", {"tx-tcp-segmentation": False, "rx-gro": True})
    nic.write(before.index, "link", {"mtu": 9000, "gso_max_size": 32768})
    nic.write(before.index, "channels", {"rx": 1, "tx": 1})
    after = nic.read("a0")
    changed = {name: value for name, value in after.values.items() if before.values[name] != value}
    expected = {"mtu": 9000, "gso_max_size": 32768, "features.tx-tcp-segmentation": False}
    assert {name: changed[name] for name in expected} == expected
    assert after.values["features.rx-gro"] is True
    nic.close()


def test_next_hops_of_default_routes(inside: str, namespaces: Namespaces) -> None:
    add_veths(0, 4)
    name = inside.rpartition("/")[2]
    namespaces.ip(
        name,
        *(f"link set {end}{number} up" for number in range(4) for end in "ab"),
        *(f"address add 10.{number}.0.1/24 dev a{number}" for number in range(4)),
        "route add default nexthop via 10.0.0.2 nexthop via 10.1.0.2",
        "nexthop add id 1 via 10.2.0.2 dev a2",
        "nexthop add id 2 via 10.3.0.2 dev a3",
        "nexthop add id 9 group 1/2",
        "route add default nhid 9 metric 7",
    )
    found = routes.default_routes()
    assert [{*route.interfaces} for route in found] == [{"a0", "a1"}, {"a2", "a3"}]
    assert routes.default_interfaces() == {"a0", "a1", "a2", "a3"}
