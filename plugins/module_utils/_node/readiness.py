# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a node needs, what stands in the way, which driver follows: pure functions of its facts. Private.

The facts are gathered by ``_node.facts.Node``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from .facts import Facts, Security, Upcoming, headers_package

DRIVERS = ("netkit", "meta", "veth")

# What the BPF object is compiled for and the modules were written for: 64 bit, little endian.
ARCHITECTURES = ("x86_64", "aarch64")

# The modules of this collection need these on every node, and a driver built on the node needs those.
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
    """Whether a module for the running kernel can be built here, and what is missing for it."""

    possible: bool
    missing: list[str]
    packages: list[str]


@dataclass(frozen=True)
class Requirements:
    """What the caller needs: the named interfaces, and whether it may install packages itself.

    ``delivered``: the module meta is built on one node for all with its kernel.
    ``beside_cilium``: a node whose datapath Cilium owns gets no second one, and that is no problem.
    """

    uplinks: tuple[str, ...] = ()
    allow_package_install: bool = False
    delivered: bool = False
    beside_cilium: bool = False


def packages(distribution_family: str, release: str, components: Iterable[str]) -> list[str]:
    """Return the names of the packages that bring the components, as far as known."""
    headers = headers_package(distribution_family, release)
    known = {**_PACKAGES.get(distribution_family, {}), "headers": headers}
    return [known[component] for component in components if known.get(component)]


def absence(distribution_family: str, release: str, components: Sequence[str]) -> str:
    """Return the sentence that says which components are missing, and the remedy."""
    names = {"headers": f"the headers of kernel {release}", "libbpf": "libbpf.so.1"}
    listed = ", ".join(names.get(component, component) for component in components)
    found = packages(distribution_family, release, components)
    command = _INSTALL.get(distribution_family)
    if command and len(found) == len(components):
        return f"missing: {listed}: run {command} {' '.join(found)}"
    return f"missing: {listed}: install them with the node's package manager"


def _absence(facts: Facts, components: Sequence[str]) -> str:
    return absence(facts["distribution"]["family"], facts["kernel"]["release"], components)


def _installable(facts: Facts, components: Sequence[str]) -> bool:
    """Tell whether a package is known for each of the components."""
    found = packages(facts["distribution"]["family"], facts["kernel"]["release"], components)
    return len(found) == len(components)


def missing(facts: Facts, components: Iterable[str]) -> list[str]:
    """Return those components that the node has not."""
    have: Mapping[str, object] = {
        **facts["tools"],
        **facts["libraries"],
        "headers": facts["kernel"]["headers"],
    }
    return [component for component in components if not have[component]]


def signature_refusal(security: Security, delivered: bool = False) -> str:
    """Return why the kernel would refuse a module, and the remedy; empty if it would not.

    DKMS makes a key of its own; ``delivered`` modules are signed only with one that is given.
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
    why = f"the kernel takes signed modules only ({', '.join(reasons)})"
    off = "or switch Secure Boot off" if security["secure_boot"] else "or boot without that"
    if delivered and not security["certificate"]:
        return (
            f"{why} and none is given to sign with: set meta_driver_signing_key and "
            f"meta_driver_signing_certificate, and enrol the certificate with mokutil --import, {off}"
        )
    certificate = security["certificate"] or "/var/lib/dkms/mok.pub (DKMS makes it with the first build)"
    return (
        f"{why} and the key that signs is not enrolled: "
        f"run mokutil --import {certificate} and confirm it at the next boot, {off}"
    )


def builder(facts: Facts) -> Builder:
    """Return whether this node can build a module for its kernel, at least once packages are installed."""
    lacking = missing(facts, COMPILER)
    family, release = facts["distribution"]["family"], facts["kernel"]["release"]
    return {
        "possible": _installable(facts, lacking),
        "missing": lacking,
        "packages": packages(family, release, lacking),
    }


def upcoming_warnings(facts: Facts, delivered: bool) -> list[str]:
    """Return a sentence for each kernel that the node may boot next and that has no module meta."""
    family = facts["distribution"]["family"]

    def remedy(kernel: Upcoming) -> str:
        if delivered:
            return "run the play again once the node has booted it"
        if not kernel["headers"]:
            return f"{absence(family, kernel['release'], ['headers'])}, and DKMS builds it"
        return f"run dkms autoinstall -k {kernel['release']}"

    return [
        f"kernel {kernel['release']} is installed without the driver meta, so Pods lack it after a reboot: "
        f"{remedy(kernel)}"
        for kernel in facts["kernel"]["upcoming"]
    ]


def _needed(facts: Facts, delivered: bool) -> Sequence[str]:
    """Return the components that the driver meta needs on this node."""
    return ["modprobe"] if delivered or facts["meta"]["available"] else BUILD_TOOLS


def meta_obstacles(facts: Facts, allow_package_install: bool, delivered: bool = False) -> list[str]:
    """Return what keeps this node from running the driver meta, each with its remedy."""
    if facts["meta"]["loaded"]:
        return []
    obstacles = []
    if facts["kernel"]["config"].get("CONFIG_MODULES") == "n":
        return ["the kernel takes no modules (CONFIG_MODULES is not set): boot a kernel that does"]
    refusal = signature_refusal(facts["security"], delivered)
    if refusal:
        obstacles.append(refusal)
    lacking = missing(facts, _needed(facts, delivered))
    if lacking and not (allow_package_install and _installable(facts, lacking)):
        obstacles.append(_absence(facts, lacking))
    return obstacles


def choose_driver(
    facts: Facts, wanted: str, allow_package_install: bool = False, delivered: bool = False
) -> tuple[str, str]:
    """Return the driver for this node's Pods and why; ``wanted`` is auto, meta, netkit or veth.

    A driver asked for by name is never replaced by another: what stands in its way is a problem.
    """
    if wanted != "auto":
        return wanted, "asked for by name"
    if facts["kernel"]["netkit"]:
        return "netkit", "the kernel has netkit"
    config = facts["kernel"]["config"].get("CONFIG_NETKIT")
    absent = "the kernel has no netkit" + (f" (CONFIG_NETKIT={config})" if config else "")
    obstacles = meta_obstacles(facts, allow_package_install, delivered)
    if obstacles:
        return "veth", f"fallback: {absent}, and meta cannot be had: {'; '.join(obstacles)}"
    if facts["meta"]["loaded"]:
        how = "is loaded"
    elif facts["meta"]["available"]:
        how = "is installed"
    else:
        how = "is built once for its kernel" if delivered else "is built on the node"
    return "meta", f"{absent}; meta, this collection's own driver, {how}"


def missing_packages(facts: Facts, wanted: str, delivered: bool = False) -> tuple[list[str], list[str]]:
    """Return the packages that bring what the node has not, for the best driver that they make possible.

    The second list has those of them without which there is a problem: a driver that auto wants can be
    done without.
    """
    required = missing(facts, LIBRARIES)
    lacking = list(required)
    if choose_driver(facts, wanted, True, delivered)[0] == "meta" and not facts["meta"]["loaded"]:
        lacking += missing(facts, _needed(facts, delivered))
    if wanted == "meta":
        required = lacking
    family, release = facts["distribution"]["family"], facts["kernel"]["release"]
    return packages(family, release, lacking), packages(family, release, required)


def packages_of_libraries(facts: Facts) -> list[str]:
    """Return the packages that a node lacks for being tuned, whatever its driver."""
    family, release = facts["distribution"]["family"], facts["kernel"]["release"]
    return packages(family, release, missing(facts, LIBRARIES))


def problems(facts: Facts, wanted: str, requirements: Requirements) -> list[str]:
    """Return everything that stands in the way on this node, each with its remedy; empty: go."""
    found = []
    kernel = facts["kernel"]
    if not facts["root"]:
        found.append("node_info does not run as root and cannot see everything: set become: true")
    if kernel["architecture"] not in ARCHITECTURES:
        found.append(
            f"architecture {kernel['architecture']} is not supported ({', '.join(ARCHITECTURES)} are): "
            "take the node out of the play"
        )
    if facts["cilium"] and not requirements.beside_cilium:
        found.append(
            f"Cilium owns the datapath of this node ({', '.join(facts['cilium'])}), and a second must not be "
            "installed: set preflight_cilium to tune, to have the node tuned and get Helm values that fit, "
            "take the node out of the play, or remove Cilium and what it left behind"
        )
    names = [nic["name"] for nic in facts["nics"]]
    for uplink in requirements.uplinks:
        if uplink not in names:
            found.append(
                f"uplinks: this node has no interface {uplink!r} (it has {', '.join(names) or 'none'}): "
                "correct the name in the node's variables"
            )
    lacking = missing(facts, LIBRARIES)
    if lacking and not (requirements.allow_package_install and _installable(facts, lacking)):
        found.append(_absence(facts, lacking))
    if facts["cilium"] and requirements.beside_cilium:
        return found  # No driver is wanted here.
    if kernel["bpf_helpers_missing"]:
        found.append(
            f"kernel {kernel['release']} does not know {', '.join(kernel['bpf_helpers_missing'])}, "
            "which the programs call: boot a newer one (5.18 has them all), or take the node out of the play"
        )
    driver, dummy = choose_driver(facts, wanted, requirements.allow_package_install, requirements.delivered)
    if wanted == "netkit" and not kernel["netkit"]:
        found.append(
            f"driver: netkit is asked for, but kernel {kernel['release']} does not have it "
            f"(CONFIG_NETKIT={kernel['config'].get('CONFIG_NETKIT', 'unknown')}): "
            "boot a kernel from 6.7 on that has it, or choose driver auto or meta"
        )
    if wanted == "meta":
        obstacles = meta_obstacles(facts, requirements.allow_package_install, requirements.delivered)
        found += [f"driver: meta cannot be had: {obstacle}" for obstacle in obstacles]
    if driver == "veth" and not kernel["veth"]:
        found.append(
            f"driver: veth is {'asked for' if wanted == 'veth' else 'the fallback'}, but kernel "
            f"{kernel['release']} does not have it: install the kernel's full set of modules"
        )
    return found
