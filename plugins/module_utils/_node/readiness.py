# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decide which driver a node can run, what is missing, and what prevents it. Pure functions of its facts.

``facts.Node`` reads the facts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from .._kernel.messages import missing_message as missing_pyroute2
from .facts import Facts, Security, Upcoming, headers_package

DRIVERS = ("netkit", "meta", "veth")

# The BPF object and the modules need a 64-bit, little-endian architecture.
ARCHITECTURES = ("x86_64", "aarch64")

# Every node needs LIBRARIES; a node that builds the driver needs COMPILER or BUILD_TOOLS.
LIBRARIES = ("pyroute2", "libbpf")
COMPILER = ("headers", "gcc", "make")
BUILD_TOOLS = ("headers", "dkms", "gcc", "make", "modprobe")

_PACKAGES = {
    "debian": {
        "pyroute2": "python3-pyroute2",
        "libbpf": "libbpf1",
        "dkms": "dkms",
        "gcc": "gcc",
        "make": "make",
        "modprobe": "kmod",
    },
    "redhat": {
        "pyroute2": "python3-pyroute2",
        "libbpf": "libbpf",
        "dkms": "dkms",
        "gcc": "gcc",
        "make": "make",
        "modprobe": "kmod",
    },
}
_INSTALL = {"debian": "apt-get install", "redhat": "dnf install"}


class Builder(TypedDict):
    """Whether the node can build a module for its kernel, and the missing components and packages."""

    possible: bool
    missing: list[str]
    packages: list[str]


@dataclass(frozen=True)
class Requirements:
    """Requirements of the caller: interfaces that must exist, and whether packages may be installed.

    ``check``: nothing is installed, but the modules need the libraries to plan their changes.
    ``delivered``: the module meta is built on another node with the same kernel. ``beside_cilium``: accept a
    node with Cilium, and install no second datapath on it. ``trusted_pods``: containers with CAP_NET_ADMIN
    are trusted with the node's devices, see ``pod_isolation``.
    """

    uplinks: tuple[str, ...] = ()
    allow_package_install: bool = False
    delivered: bool = False
    beside_cilium: bool = False
    trusted_pods: bool = True
    check: bool = False


def packages(distribution_family: str, release: str, components: Iterable[str]) -> list[str]:
    """Return the names of the packages that contain the components, as far as they are known."""
    headers = headers_package(distribution_family, release)
    known = {**_PACKAGES.get(distribution_family, {}), "headers": headers}
    return [known[component] for component in components if known.get(component)]


def missing_message(distribution_family: str, release: str, components: Sequence[str]) -> str:
    """Return a message that names missing components and the command that installs them."""
    names = {"headers": f"the headers of kernel {release}", "libbpf": "libbpf.so.1"}
    listed = ", ".join(names.get(component, component) for component in components)
    found = packages(distribution_family, release, components)
    command = _INSTALL.get(distribution_family)
    if command and len(found) == len(components):
        return f"missing: {listed}: run {command} {' '.join(found)}"
    return f"missing: {listed}: install them with the node's package manager"


def _missing_message(facts: Facts, components: Sequence[str]) -> str:
    family, release = facts["distribution"]["family"], facts["kernel"]["release"]
    others = [component for component in components if component != "pyroute2"]
    messages = [missing_message(family, release, others)] if others else []
    if "pyroute2" in components:
        python = facts["python"]
        messages.append(missing_pyroute2(python["executable"], python["packaged"], _INSTALL.get(family, "")))
    return "; ".join(messages)


def _unpackaged(facts: Facts, components: Iterable[str]) -> list[str]:
    """Return the Python libraries among the components that the interpreter cannot import from a package."""
    return [one for one in components if one == "pyroute2" and not facts["python"]["packaged"]]


def _packages(facts: Facts, components: Iterable[str]) -> list[str]:
    """Return the packages that provide the components to this node, as far as they are known."""
    components = list(components)
    unpackaged = _unpackaged(facts, components)
    useful = [component for component in components if component not in unpackaged]
    return packages(facts["distribution"]["family"], facts["kernel"]["release"], useful)


def _installable(facts: Facts, components: Sequence[str]) -> bool:
    """Return whether packages provide all components."""
    return len(_packages(facts, components)) == len(components)


def missing(facts: Facts, components: Iterable[str]) -> list[str]:
    """Return the components that the node does not have."""
    have: Mapping[str, object] = {
        **facts["tools"],
        **facts["libraries"],
        "headers": facts["kernel"]["headers"],
    }
    return [component for component in components if not have[component]]


def signature_refusal(security: Security, delivered: bool = False) -> str:
    """Return why the kernel would reject a module, and the remedy; empty if it would not.

    DKMS creates a signing key; ``delivered`` modules are signed only with a configured key.
    """
    if not security["signature_required"] or security["key_enrolled"]:
        return ""
    reasons = [
        text
        for text, holds in (
            ("Secure Boot is on", security["secure_boot"]),
            (f"lockdown is {security['lockdown']}", security["lockdown"] != "none"),
        )
        if holds
    ] or ["signatures are enforced"]
    cause = f"the kernel accepts only signed modules ({', '.join(reasons)})"
    off = "or disable Secure Boot" if security["secure_boot"] else "or boot without that restriction"
    if delivered and not security["certificate"]:
        return (
            f"{cause}, and no signing key is configured: set meta_driver_signing_key and "
            f"meta_driver_signing_certificate, and enrol the certificate with mokutil --import, {off}"
        )
    certificate = security["certificate"] or "/var/lib/dkms/mok.pub (DKMS creates it with the first build)"
    return (
        f"{cause}, and the signing key is not enrolled: "
        f"run mokutil --import {certificate} and confirm it at the next boot, {off}"
    )


def builder(facts: Facts) -> Builder:
    """Return whether this node can build a module for its kernel, if packages may be installed."""
    absent_components = missing(facts, COMPILER)
    family, release = facts["distribution"]["family"], facts["kernel"]["release"]
    return {
        "possible": _installable(facts, absent_components),
        "missing": absent_components,
        "packages": packages(family, release, absent_components),
    }


def upcoming_warnings(facts: Facts, delivered: bool) -> list[str]:
    """Return a warning for each kernel that the node may boot next and that has no module meta."""
    family = facts["distribution"]["family"]

    def remedy(kernel: Upcoming) -> str:
        if delivered:
            return "run the play again once the node has booted it"
        if not kernel["headers"]:
            return f"{missing_message(family, kernel['release'], ['headers'])}, and DKMS builds it"
        return f"run dkms autoinstall -k {kernel['release']}"

    return [
        f"kernel {kernel['release']} is installed without the driver meta, so Pods cannot use it after a"
        f" reboot: "
        f"{remedy(kernel)}"
        for kernel in facts["kernel"]["upcoming"]
    ]


def _needed(facts: Facts, delivered: bool) -> Sequence[str]:
    """Return the components that the driver meta needs on this node."""
    return ["modprobe"] if delivered or facts["meta"]["available"] else BUILD_TOOLS


def meta_obstacles(facts: Facts, allow_package_install: bool, delivered: bool = False) -> list[str]:
    """Return what prevents this node from running the driver meta, each with its remedy."""
    if facts["meta"]["loaded"]:
        return []
    obstacles = []
    if facts["kernel"]["config"].get("CONFIG_MODULES") == "n":
        return ["the kernel does not support modules (CONFIG_MODULES is not set): boot a kernel that does"]
    refusal = signature_refusal(facts["security"], delivered)
    if refusal:
        obstacles.append(refusal)
    absent_components = missing(facts, _needed(facts, delivered))
    if absent_components and not (allow_package_install and _installable(facts, absent_components)):
        obstacles.append(_missing_message(facts, absent_components))
    return obstacles


def pod_isolation(driver: str) -> str:
    """Return whether a Pod can reach the node's devices over rtnetlink, and who can; empty without driver.

    The kernel gives the Pod's namespace an ID of the host's namespace, where the other end of a veth or
    netkit pair is. Requests with this ID (IFLA_TARGET_NETNSID) require CAP_NET_ADMIN in the user namespace of
    the host's network namespace.
    """
    if driver == "meta":
        return "no container can address the node's devices"
    if driver not in DRIVERS:
        return ""
    return (
        "a container with CAP_NET_ADMIN in the host's user namespace can change and delete the node's"
        f" network devices ({driver}, IFLA_TARGET_NETNSID): grant it to trusted containers only, run the"
        " Pod in a user namespace (hostUsers: false), or use the driver meta"
    )


def choose_driver(
    facts: Facts,
    wanted: str,
    allow_package_install: bool = False,
    delivered: bool = False,
    trusted_pods: bool = True,
) -> tuple[str, str]:
    """Return the driver for this node's Pods and the reason; ``wanted`` is auto, meta, netkit or veth.

    Only auto falls back: an explicit driver that the node cannot run is a problem. If Pods are not trusted,
    auto prefers meta to netkit.
    """
    if wanted != "auto":
        return wanted, "requested explicitly"
    netkit = facts["kernel"]["netkit"]
    if netkit and trusted_pods:
        return "netkit", "the kernel has netkit"
    config = facts["kernel"]["config"].get("CONFIG_NETKIT")
    absent = "the kernel has no netkit" + (f" (CONFIG_NETKIT={config})" if config else "")
    obstacles = meta_obstacles(facts, allow_package_install, delivered)
    if netkit:
        absent = "Pods are not trusted"
        if obstacles:
            return "netkit", f"{absent}, but the meta driver is unavailable: {'; '.join(obstacles)}"
    elif obstacles:
        return "veth", f"fallback: {absent}, and the meta driver is unavailable: {'; '.join(obstacles)}"
    if facts["meta"]["loaded"]:
        how = "is loaded"
    elif facts["meta"]["available"]:
        how = "is installed"
    else:
        how = "is built once for its kernel" if delivered else "is built on the node"
    return "meta", f"{absent}; the meta driver {how}"


def missing_packages(
    facts: Facts, wanted: str, delivered: bool = False, trusted_pods: bool = True
) -> tuple[list[str], list[str]]:
    """Return the packages to install for the best driver that they make possible, and the required ones.

    The second list has the packages that every driver needs, or an explicit meta driver.
    """
    required = missing(facts, LIBRARIES)
    absent_components = list(required)
    driver, dummy = choose_driver(facts, wanted, True, delivered, trusted_pods)
    if driver == "meta" and not facts["meta"]["loaded"]:
        absent_components += missing(facts, _needed(facts, delivered))
    if wanted == "meta":
        required = absent_components
    return _packages(facts, absent_components), _packages(facts, required)


def packages_of_libraries(facts: Facts) -> list[str]:
    """Return the missing packages that tuning needs with any driver."""
    return _packages(facts, missing(facts, LIBRARIES))


def problems(facts: Facts, wanted: str, requirements: Requirements) -> list[str]:
    """Return all problems of this node, each with its remedy."""
    found = []
    kernel = facts["kernel"]
    if not facts["root"]:
        found.append("node_info does not run as root and cannot read everything: set become: true")
    if kernel["architecture"] not in ARCHITECTURES:
        found.append(
            f"architecture {kernel['architecture']} is not supported ({', '.join(ARCHITECTURES)} are): "
            "remove the node from the play"
        )
    if facts["cilium"] and not requirements.beside_cilium:
        found.append(
            f"Cilium owns the datapath of this node ({', '.join(facts['cilium'])}), and a node can have"
            f" only one: "
            "set preflight_cilium: tune to tune the node without a second datapath, remove the node from"
            " the play, "
            "or remove Cilium completely"
        )
    names = [nic["name"] for nic in facts["nics"]]
    for uplink in requirements.uplinks:
        if uplink not in names:
            found.append(
                f"uplinks: interface {uplink!r} does not exist (this node has {', '.join(names) or 'none'}): "
                "correct the name in the node's variables"
            )
    for nic in facts["nics"]:
        if nic["name"] in requirements.uplinks and not nic["ethernet"]:
            found.append(
                f"uplinks: {nic['name']} has no Ethernet header, which the programs require (tun, WireGuard"
                " and IP tunnels): name an Ethernet device; Pods reach destinations behind the others by"
                " their routes, through the host's stack"
            )
    absent_components = missing(facts, LIBRARIES)
    if absent_components:
        installable = requirements.allow_package_install and _installable(facts, absent_components)
        if not installable:
            found.append(_missing_message(facts, absent_components))
        elif requirements.check:
            found.append(f"{_missing_message(facts, absent_components)} (check mode does not install it)")
    if facts["cilium"] and requirements.beside_cilium:
        return found  # This node gets no driver.
    if not kernel["btf"]:
        found.append(
            f"kernel {kernel['release']} provides no BTF (/sys/kernel/btf/vmlinux), which the BPF programs"
            " require: boot a kernel with CONFIG_DEBUG_INFO_BTF, or remove the node from the play"
        )
    if kernel["bpf_helpers_missing"]:
        found.append(
            f"kernel {kernel['release']} has no {', '.join(kernel['bpf_helpers_missing'])}, "
            "which the BPF programs call: boot kernel 5.18 or later, or remove the node from the play"
        )
    if facts["ipsec_policies"]:
        found.append(
            f"IPsec policies apply to routed packets ({', '.join(facts['ipsec_policies'])}), and the"
            " programs would forward Pods' packets unencrypted: remove the policies (see ip xfrm policy), or"
            " remove the node from the play"
        )
    driver, dummy = choose_driver(
        facts, wanted, requirements.allow_package_install, requirements.delivered, requirements.trusted_pods
    )
    if wanted == "netkit" and not kernel["netkit"]:
        found.append(
            f"driver: netkit is requested, but kernel {kernel['release']} does not have it "
            f"(CONFIG_NETKIT={kernel['config'].get('CONFIG_NETKIT', 'unknown')}): "
            "boot kernel 6.7 or later with CONFIG_NETKIT, or set driver to auto or meta"
        )
    if wanted == "meta":
        obstacles = meta_obstacles(facts, requirements.allow_package_install, requirements.delivered)
        found += [f"driver: meta is unavailable: {obstacle}" for obstacle in obstacles]
    if driver == "veth" and not kernel["veth"]:
        found.append(
            f"driver: veth is {'requested' if wanted == 'veth' else 'the fallback'}, but kernel "
            f"{kernel['release']} does not have it: install the kernel's full set of modules"
        )
    return found
