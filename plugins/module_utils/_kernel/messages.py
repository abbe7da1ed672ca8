# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Netlink messages: the classes of pyroute2 that this package uses, and what pyroute2 does not have.

pyroute2 0.7.2 (Debian 12) to 0.9 lack the following. Subclasses of its classes add them here, and pyroute2
encodes and decodes them:

- links: attributes newer than its table, and the kinds meta and netkit (``link_kinds``)
- routes: RTA_NH_ID; the table for reading next hops is short, because decoding takes time
- nexthop objects, IPsec (xfrm) policies, the options of the qdisc fq and of BPF filters
- ethtool: all groups of settings; pyroute2 has only header and bitset, in a file that imports asyncio
- TCP connections: INET_DIAG_INFO is binary data, because pyroute2 confuses its two window scales

Encoded or decoded by hand, in ``netlink``:

- ``has_link_kind`` and ``known_attributes`` send attributes that are too short, also from nodes that do not
  have pyroute2 yet
- ``links`` decodes the attributes of all links: pyroute2 takes 100 us a link, this 15 us
- all that changes Pods (``_pods/execute.py``): pyroute2 took a third of the time of a new Pod
- ``netns_id`` and ``Rtnl.index_of`` read one number of a reply
- headers and acknowledgements, which the request loop reads before it knows the class of a message

Importing all of pyroute2 takes 230 ms. So each function imports its submodules when it is called.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import shutil
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.plan import Problem
from . import link_kinds

LIBRARY = "pyroute2"
PACKAGE = "python3-pyroute2"  # on Debian, Ubuntu and Fedora
_INSTALL = ("apt-get", "dnf")


class MissingLibrary(Problem):
    """The running interpreter cannot import pyroute2."""


def python_is_packaged() -> bool:
    """Return whether this interpreter imports the distribution's packages; a virtual environment does not."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    same_version = os.path.basename(os.path.realpath("/usr/bin/python3")) == version
    folders = [path for path in sys.path if re.match(r"/usr/lib(64)?/python3.*-packages$", path)]
    return same_version and (sys.prefix == "/usr" or bool(folders))


def missing_message(executable: str, packaged: bool, install: str) -> str:
    """Return the error for an interpreter without pyroute2; ``install`` is ``apt-get install`` or similar."""
    package = f"{install} {PACKAGE}" if install else f"install the package {PACKAGE}"
    if packaged:
        remedy = f"run {package}" if install else package
    else:
        remedy = (
            f"run {executable} -m pip install {LIBRARY}, or set ansible_python_interpreter: /usr/bin/python3"
            f" ({package})"
        )
    return f"missing: {LIBRARY} for {executable}: {remedy}"


def require_pyroute2() -> None:
    """Raise ``MissingLibrary`` if this interpreter has no pyroute2; does not import it."""
    if LIBRARY not in sys.modules and importlib.util.find_spec(LIBRARY) is None:
        tool = next((name for name in _INSTALL if shutil.which(name)), "")
        install = f"{tool} install" if tool else ""
        raise MissingLibrary(missing_message(sys.executable, python_is_packaged(), install))


@contextlib.contextmanager
def _submodules() -> Iterator[None]:
    """Run a block that imports submodules of pyroute2 without running the ``__init__`` of pyroute2 itself.

    That one imports 130 modules, which takes five seconds on an emulated node; the messages take a quarter of
    that. Importing pyroute2 after the block runs its ``__init__`` as usual.
    """
    require_pyroute2()
    spec = importlib.util.find_spec(LIBRARY) if LIBRARY not in sys.modules else None
    if spec is None or not spec.submodule_search_locations:
        yield
        return
    bare = types.ModuleType(LIBRARY)
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules[LIBRARY] = bare
    try:
        yield
    finally:
        del sys.modules[LIBRARY]


def _own_table(cls: type[Any]) -> type[Any]:
    """Make a subclass use its own table of attributes.

    pyroute2 compiles the table of a class with the first object and marks the class; a subclass would inherit
    table and mark if its parent was used before.
    """
    cls._nlmsg_base__compiled_nla = False
    return cls


@dataclass(frozen=True)
class MessageTypes:
    """The rtnetlink messages of links, addresses, routes and neighbours."""

    link: Any
    address: Any
    route: Any
    neighbour: Any


@functools.cache
def message_types() -> MessageTypes:
    """Return the messages for Pods' devices, with the link kinds meta and netkit."""
    with _submodules():
        from pyroute2.netlink import nla
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg, ifinfveth
        from pyroute2.netlink.rtnl.ndmsg import ndmsg
        from pyroute2.netlink.rtnl.rtmsg import rtmsg

    link_kinds.register(ifinfmsg, nla, ifinfveth)

    @_own_table
    class link(ifinfmsg):  # type: ignore[misc]
        nla_map = (
            (1, "IFLA_ADDRESS", "l2addr"),
            (3, "IFLA_IFNAME", "asciiz"),
            (4, "IFLA_MTU", "uint32"),
            (5, "IFLA_LINK", "uint32"),
            (18, "IFLA_LINKINFO", "ifinfo"),
            (20, "IFLA_IFALIAS", "asciiz"),
            (27, "IFLA_GROUP", "uint32"),
            (29, "IFLA_EXT_MASK", "uint32"),
            (37, "IFLA_LINK_NETNSID", "int32"),
            (41, "IFLA_GSO_MAX_SIZE", "uint32"),
            (43, "IFLA_XDP", "xdp"),
            (50, "IFLA_MIN_MTU", "uint32"),
            (51, "IFLA_MAX_MTU", "uint32"),
            (53, "IFLA_ALT_IFNAME", "asciiz"),
            (58, "IFLA_GRO_MAX_SIZE", "uint32"),
            (59, "IFLA_TSO_MAX_SIZE", "uint32"),
            (63, "IFLA_GSO_IPV4_MAX_SIZE", "uint32"),
            (64, "IFLA_GRO_IPV4_MAX_SIZE", "uint32"),
        )

        class xdp(nla):  # type: ignore[misc]
            nla_map = ((2, "IFLA_XDP_ATTACHED", "uint8"),)

    return MessageTypes(link, ifaddrmsg, rtmsg, ndmsg)


@dataclass(frozen=True)
class NextHopTypes:
    """The messages of routes and nexthop objects, with the attributes that name interfaces."""

    route: Any
    nexthop: Any


@functools.cache
def next_hop_types() -> NextHopTypes:
    """Return the messages for reading next hops."""
    with _submodules():
        from pyroute2.netlink import nlmsg
        from pyroute2.netlink.rtnl.rtmsg import rtmsg

    @_own_table
    class route(rtmsg):  # type: ignore[misc]
        nla_map = (
            (4, "RTA_OIF", "uint32"),
            (9, "RTA_MULTIPATH", "*get_nh"),
            (15, "RTA_TABLE", "uint32"),
            (30, "RTA_NH_ID", "uint32"),
        )

    class nexthop(nlmsg):  # type: ignore[misc]
        fields = (("family", "B"), ("scope", "B"), ("protocol", "B"), ("reserved", "B"), ("flags", "I"))
        nla_map = ((1, "NHA_ID", "uint32"), (2, "NHA_GROUP", "cdata"), (5, "NHA_OIF", "uint32"))

    return NextHopTypes(route, nexthop)


@functools.cache
def traffic_control_type() -> Any:
    """Return the message of qdiscs and filters."""
    with _submodules():
        from pyroute2.netlink import nla
        from pyroute2.netlink.rtnl.tcmsg import tcmsg

    @_own_table
    class traffic_control(tcmsg):  # type: ignore[misc]
        nla_map = ((1, "TCA_KIND", "asciiz"), (2, "TCA_OPTIONS", "options"))

        @staticmethod
        def options(message: Any, *_args: Any, **_kwargs: Any) -> Any:
            kinds = {"fq": message.fq, "bpf": message.bpf}
            return kinds.get(message.get_attr("TCA_KIND"), message.cdata)

        class fq(nla):  # type: ignore[misc]
            nla_map = ((1, "TCA_FQ_PLIMIT", "uint32"),)

        class bpf(nla):  # type: ignore[misc]
            nla_map = ((7, "TCA_BPF_NAME", "asciiz"), (11, "TCA_BPF_ID", "uint32"))

    return traffic_control


@functools.cache
def namespace_type() -> Any:
    """Return the message of a network namespace's ID."""
    with _submodules():
        from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

    return nsidmsg


@dataclass(frozen=True)
class ConnectionTypes:
    """The messages of sock_diag for TCP: request and reply."""

    request: Any
    reply: Any


@functools.cache
def connection_types() -> ConnectionTypes:
    """Return the messages of sock_diag."""
    with _submodules():
        from pyroute2.netlink.diag import inet_diag_msg, inet_diag_req

    @_own_table
    class reply(inet_diag_msg):  # type: ignore[misc]
        nla_map = ((2, "INET_DIAG_INFO", "cdata"),)

    return ConnectionTypes(inet_diag_req, reply)


@dataclass(frozen=True)
class PolicyTypes:
    """The messages of IPsec policies: selection, policy, and the default policies."""

    selection: Any
    policy: Any
    default: Any


@functools.cache
def policy_types() -> PolicyTypes:
    """Return the messages of IPsec policies."""
    with _submodules():
        from pyroute2.netlink import nlmsg

    class selection(nlmsg):  # type: ignore[misc]
        fields = (("policy_id", "64s"),)

    class policy(nlmsg):  # type: ignore[misc]
        fields = (
            ("daddr", "16s"),
            ("saddr", "16s"),
            ("ports", "8s"),
            ("family", "H"),
            ("prefixlen_d", "B"),
            ("prefixlen_s", "B"),
            ("lifetime", "116s"),  # and the selector's protocol, interface and user, priority, index
            ("dir", "B"),
            ("action", "7s"),  # and flags, share
        )
        nla_map = ((31, "XFRMA_IF_ID", "uint32"),)

    class default(nlmsg):  # type: ignore[misc]
        fields = (("in", "B"), ("fwd", "B"), ("out", "B"))

    return PolicyTypes(selection, policy, default)


@functools.cache
def control_type() -> Any:
    """Return the message that looks up a generic netlink family."""
    with _submodules():
        from pyroute2.netlink import ctrlmsg

    return ctrlmsg


@functools.cache
def _ethtool_base() -> Any:
    with _submodules():
        from pyroute2.netlink import NLA_F_NESTED, genlmsg, nla

    class header(nla):  # type: ignore[misc]
        nla_flags = NLA_F_NESTED
        nla_map = ((1, "DEV_INDEX", "uint32"),)

    class bit(nla):  # type: ignore[misc]
        nla_flags = NLA_F_NESTED
        nla_map = ((2, "NAME", "asciiz"), (3, "VALUE", "flag"))

    class bits(nla):  # type: ignore[misc]
        nla_flags = NLA_F_NESTED
        nla_map = ((1, "BIT", "bit"),)

    class bitset(nla):  # type: ignore[misc]
        nla_flags = NLA_F_NESTED
        nla_map = ((1, "NOMASK", "flag"), (3, "BITS", "bits"))

    bits.bit, bitset.bits = bit, bits
    return type("ethtool", (genlmsg,), {"header_of_device": header, "bitset": bitset})


def ethtool_type(attributes: Mapping[int, tuple[str, str]]) -> Any:
    """Return an ethtool message with ``attributes``: name and pyroute2's data type by number.

    Its attribute HEADER has the attribute DEV_INDEX, the type ``bitset`` those of ETHTOOL_A_BITSET.
    """
    table = [(number, name, coding) for number, (name, coding) in sorted(attributes.items())]
    return type("group", (_ethtool_base(),), {"nla_map": ((1, "HEADER", "header_of_device"), *table)})
