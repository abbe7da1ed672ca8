# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of connections that netfilter translates in the stack, by rules like those of kube-proxy.

Adds them to ``CHECKS``. They need nft.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

from tests.support.connection_checks import open_in
from tests.support.pacing_checks import CHECKS, NEEDS_FQ
from tests.support.parsing_checks import ONLY_WEB
from tests.support.pod_nodes import NODES
from tests.support.policy_lab import ALLOWED_WITHIN, TCP, UDP, Check, Lab, address_of

__all__ = ["CHECKS", "NEEDS_FQ", "NEEDS_NFT"]

NEEDS_NFT = " (nft)"  # in the name of checks that need this program
SERVICES = ("10.96.0.0/16", "fd96::/108")
NODE_PORT, ANSWER = 30080, b"x" * 4000  # more than one packet
CASES = [(version, protocol) for version in (4, 6) for protocol in (TCP, UDP)]
# kube-proxy drops what netfilter cannot assign to a connection: it must see both directions
TABLE = """
table inet services {{
    counter untranslated {{ }}
    chain prerouting {{
        type nat hook prerouting priority dstnat
        {translations}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        {masquerade}
    }}
    chain forward {{
        type filter hook forward priority filter
        ct state invalid drop
        ct status dnat accept
        counter name untranslated
    }}
}}
"""


def check_nft(function: Any) -> Any:
    """Add a check for each IP version and protocol."""
    for version, protocol in CASES:
        name = f"{function.__name__} v{version} {'tcp' if protocol == TCP else 'udp'}{NEEDS_NFT}"
        CHECKS[name] = functools.partial(function, version=version, protocol=protocol)
    return function


def translation(target: str, port: int, backend: str, to: int, version: int, protocol: Any) -> str:
    """Return the rule for packets to a port of ``target``."""
    family, form = ("ip", "{}:{}") if version == 4 else ("ip6", "[{}]:{}")
    word = "tcp" if protocol == TCP else "udp"
    goal = form.format(address_of(backend, version), to)
    return f"{family} daddr {address_of(target, version)} {word} dport {port} dnat {family} to {goal}"


@contextlib.contextmanager
def translated(
    lab: Lab, *translations: str, nodes: Sequence[str] = tuple(NODES), masquerade: str = ""
) -> Iterator[None]:
    """Let netfilter translate on nodes."""
    rules = TABLE.format(translations="\n".join(translations), masquerade=masquerade)
    try:
        for node in nodes:
            command = ["nsenter", f"--net=/run/netns/{lab.names[node]}", "nft", "-f", "-"]
            subprocess.run(command, input=rules, text=True, check=True)
        yield
    finally:
        for node in nodes:
            lab.ns.run(lab.names[node], "nft", "flush", "ruleset")


def answers(lab: Lab, source: str, target: str, protocol: Any, port: int, version: int) -> str:
    """Connect, and return the name of the server that answers; empty if none does."""
    check = Check(source, target, protocol, port, version, passes=True)
    with lab.start(check) as client:
        client.settimeout(ALLOWED_WITHIN)
        return "" if check.refusal else client.recv(64).decode()


def untranslated(lab: Lab) -> list[str]:
    """Return how many untranslated packets the upper stack of each node has forwarded."""
    command = ("nft", "list", "counter", "inet", "services", "untranslated")
    return [lab.ns.run(lab.names[node], *command) for node in NODES]


def assert_bypasses(lab: Lab, source: str, target: str, protocol: Any, version: int) -> None:
    """Assert that direct connections bypass the upper stack of both nodes."""
    before = untranslated(lab)
    for dummy in range(3):
        assert answers(lab, source, target, protocol, 80, version) == target
    assert untranslated(lab) == before


@check_nft
def services_of_the_stack_have_local_and_remote_backends(lab: Lab, version: int, protocol: Any) -> None:
    """Direct connections between the same Pods bypass the stack meanwhile."""
    lab.declare(stack_services=SERVICES)
    for source, backend in (("front", "web"), ("front", "remote"), ("remote", "web")):
        with translated(lab, translation("vip", 8080, backend, 80, version, protocol)):
            for dummy in range(3):
                assert answers(lab, source, "vip", protocol, 8080, version) == backend
            assert_bypasses(lab, source, backend, protocol, version)


@check_nft
def backends_of_the_stack_see_the_identity_of_the_pod(lab: Lab, version: int, protocol: Any) -> None:
    """As an ingress policy with a selector requires."""
    lab.declare([ONLY_WEB], stack_services=SERVICES)
    with translated(lab, translation("vip", 8080, "db", 80, version, protocol)):
        assert answers(lab, "web", "vip", protocol, 8080, version) == "db"
        check = Check("front", "vip", protocol, 8080, version, passes=False)
        lab.attempt([check])
        assert not check.answer


@check_nft
def without_networks_no_service_of_the_stack_works(lab: Lab, version: int, protocol: Any) -> None:
    """Shows that the other checks detect an untranslated reply."""
    lab.declare()
    with translated(
        lab,
        translation("vip", 8080, "web", 80, version, protocol),
        translation("node1", NODE_PORT, "web", 80, version, protocol),
        nodes=["node1"],
    ):
        for source, target, port in (("front", "vip", 8080), ("world", "node1", NODE_PORT)):
            check = Check(source, target, protocol, port, version, passes=False)
            lab.attempt([check])
            assert not check.answer


@check_nft
def node_ports_reach_local_pods(lab: Lab, version: int, protocol: Any) -> None:
    """From a host and a Pod of another node, and from a Pod of this one; with and without masquerading."""
    for masquerade in ("", "masquerade"):
        for policies in ([], [{"name": "web", "ingress": [{}], "egress": [{"to": [{"names": ["web"]}]}]}]):
            lab.declare(policies, stack_services=SERVICES)
            with translated(
                lab,
                translation("node1", NODE_PORT, "web", 80, version, protocol),
                nodes=["node1"],
                masquerade=masquerade,
            ):
                sources = ["world"] if policies else ["world", "remote", "front"]
                for source in sources:
                    got = answers(lab, source, "node1", protocol, NODE_PORT, version)
                    assert got == "web", (masquerade, policies, source)


@check_nft
def node_ports_of_the_own_node_reach_remote_pods(lab: Lab, version: int, protocol: Any) -> None:
    lab.declare(stack_services=SERVICES)
    with translated(lab, translation("node1", NODE_PORT, "remote", 80, version, protocol), nodes=["node1"]):
        assert answers(lab, "front", "node1", protocol, NODE_PORT, version) == "remote"


@check_nft
def masqueraded_pods_use_services_of_the_stack(lab: Lab, version: int, protocol: Any) -> None:
    lab.declare(masqueraded=["front", "web"], stack_services=SERVICES)
    with translated(
        lab,
        translation("vip", 8080, "remote", 80, version, protocol),
        translation("vip", 8081, "web", 80, version, protocol),
        translation("node1", NODE_PORT, "web", 80, version, protocol),
        nodes=["node1"],
    ):
        assert answers(lab, "front", "vip", protocol, 8080, version) == "remote"
        assert answers(lab, "front", "vip", protocol, 8081, version) == "web"
        assert answers(lab, "world", "node1", protocol, NODE_PORT, version) == "web"
        assert answers(lab, "front", "world", protocol, 80, version) == "world"


@check_nft
def a_pod_reaches_itself_by_a_service_of_the_stack(lab: Lab, version: int, protocol: Any) -> None:
    """kube-proxy masquerades these connections with an address of the node."""
    lab.declare(stack_services=SERVICES)
    address, family = address_of("web", version), "ip" if version == 4 else "ip6"
    with translated(
        lab,
        translation("vip", 8080, "web", 80, version, protocol),
        masquerade=f"{family} saddr {address} {family} daddr {address} masquerade",
    ):
        assert answers(lab, "web", "vip", protocol, 8080, version) == "web"


def _udp(lab: Lab, version: int, backends: Sequence[str]) -> None:
    lab.declare(stack_services=SERVICES)
    for backend in backends:
        with translated(
            lab,
            translation("vip", 7100, backend, 7101, version, UDP),
            translation("vip", 7200, backend, 7201, version, UDP),
        ):
            with (
                open_in(lab, backend, UDP, version, 7101) as server,
                open_in(lab, "front", UDP, version) as client,
            ):
                server.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT
                client.connect((address_of("vip", version), 7100))
                for dummy in range(2):
                    client.send(b"?")
                    dummy, sender = server.recvfrom(64)
                    assert sender[0] == address_of("front", version)
                    server.sendto(ANSWER, sender)
                    assert client.recv(8000) == ANSWER
            with open_in(lab, "front", UDP, version) as client:
                client.connect((address_of("vip", version), 7200))
                client.send(b"?")
                with contextlib.suppress(ConnectionRefusedError):
                    raise AssertionError(f"received {client.recv(64)!r}")


for one in (4, 6):
    name = f"fragments_and_icmp_errors_of_services_of_the_stack v{one}{NEEDS_NFT}"
    CHECKS[name] = functools.partial(_udp, version=one, backends=("web", "remote"))


@check_nft
def a_port_that_is_used_for_both_passes_to_the_stack_in_both_directions(
    lab: Lab, version: int, protocol: Any
) -> None:
    """Netfilter would drop replies to a connection that it has not seen."""
    lab.declare(stack_services=SERVICES)
    rule = translation("vip", 8080, "web", 80, version, protocol)
    with translated(lab, rule), contextlib.ExitStack() as open_:
        port = 0
        for target, number in (("vip", 8080), ("db", 80), ("remote", 80)):
            with lab.ns.inside(lab.names["front"]):
                client = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, protocol)
            open_.enter_context(client)
            client.settimeout(ALLOWED_WITHIN)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((address_of("front", version), port))
            port = client.getsockname()[1]
            client.connect((address_of(target, version), number))
            if protocol == UDP:
                client.send(b"?")
            assert client.recv(64).decode() == ("web" if target == "vip" else target)
