# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read facts about a node: kernel, distribution, boot, NICs, security. ``readiness`` decides upon them.

Sources: sysfs(5), proc(5), kernel_lockdown(7), os-release(5), Documentation/ABI/testing/sysfs-module.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from .._kernel import messages, netlink, signing, xfrm
from .._kernel.routes import default_interfaces
from .coexistence import cilium
from .host import Host

# netkit features that are newer than its first kernel, 6.7.
NETKIT_ATTRIBUTES = ("SCRUB", "HEADROOM")

ARPHRD_ETHER = 1  # linux/if_arp.h

_CONFIG = (
    "CONFIG_BPF_SYSCALL",
    "CONFIG_DEBUG_INFO_BTF",
    "CONFIG_MODULE_SIG_FORCE",
    "CONFIG_MODULES",
    "CONFIG_NETKIT",
    "CONFIG_VETH",
)


class Upcoming(TypedDict):
    """An installed kernel that is newer than the running one."""

    release: str
    headers: bool


class Kernel(TypedDict):
    """The running kernel."""

    release: str
    version: str
    flavour: str
    architecture: str
    boot_id: str
    cmdline: str
    config: dict[str, str]
    headers: bool
    headers_package: str
    btf: bool
    bpf_helpers_missing: list[str]
    bpf_fs: bool
    netkit: bool
    netkit_attributes: list[str]
    veth: bool
    upcoming: list[Upcoming]


class Distribution(TypedDict):
    """The distribution, as os-release(5) names it; ``family`` is debian, redhat or empty."""

    id: str
    version: str
    name: str
    family: str


class MetaModule(TypedDict):
    """The kernel module of the driver meta, and the devices of its kind in the host's namespace."""

    loaded: bool
    available: bool
    version: str
    srcversion: str
    devices: list[dict[str, Any]]


class Security(TypedDict):
    """What the kernel requires of modules. ``key_enrolled`` is ``None`` if it requires no signature."""

    secure_boot: bool
    lockdown: str
    signature_required: bool
    certificate: str
    key_enrolled: bool | None


class Nic(TypedDict):
    """A network interface; ``speed`` in Mbit/s, -1 where unknown; ``default_route`` None without pyroute2."""

    name: str
    driver: str
    mac: str
    mtu: int
    speed: int
    carrier: bool
    pci: str
    default_route: bool | None
    ethernet: bool
    virtual_functions: int


class Python(TypedDict):
    """The interpreter that runs the modules, and whether it imports what the distribution packages."""

    executable: str
    packaged: bool


class Facts(TypedDict):
    """All facts that preflight needs."""

    root: bool
    kernel: Kernel
    distribution: Distribution
    tools: dict[str, str]
    libraries: dict[str, str]
    python: Python
    meta: MetaModule
    security: Security
    nics: list[Nic]
    vfio: list[str]
    cilium: list[str]
    ipsec_policies: list[str]


def flavour(release: str) -> str:
    """Return the flavour in a kernel release: ``6.1.0-56-cloud-amd64`` is ``cloud-amd64``."""
    match = re.match(r"\d+(?:\.\d+)*(?:\+[^-]*|-\d[^-]*)*(?:-(.+))?$", release)
    return (match.group(1) or "") if match else ""


def age(release: str) -> list[tuple[int, str]]:
    """Return a sort key for kernel releases."""
    return [
        (int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[^\d.-]+", release)
    ]


def family(identifier: str, like: str) -> str:
    """Return the package family of an os-release ID and its ID_LIKE."""
    names = [identifier, *like.split()]
    if any(name in ("debian", "ubuntu") for name in names):
        return "debian"
    if any(name in ("rhel", "fedora", "centos") for name in names):
        return "redhat"
    return ""


def headers_package(distribution_family: str, release: str) -> str:
    """Return the package with the headers of a kernel release, empty if unknown."""
    prefix = {"debian": "linux-headers-", "redhat": "kernel-devel-"}.get(distribution_family)
    return prefix + release if prefix else ""


class Node(Host):
    """Facts of a node; starts a process only if no file has the answer."""

    def config(self, release: str) -> dict[str, str]:
        """Return the kernel options in ``_CONFIG``, ``n`` for those not set; empty if unknown."""
        text = ""
        if self.exists("/proc/config.gz"):
            import gzip

            with gzip.open(self.path("/proc/config.gz"), "rt") as file:
                text = file.read()
        for name in (f"/boot/config-{release}", f"/lib/modules/{release}/config"):
            text = text or self.read(name)
        if not text:
            return {}
        found = {}
        for option in _CONFIG:
            match = re.search(rf"^{option}=(.*)$", text, re.MULTILINE)
            found[option] = match.group(1) if match else "n"
        return found

    def module_file(self, release: str, name: str) -> str:
        """Return the path of the module ``name`` in modules.dep, relative to /lib/modules/RELEASE."""
        known = self.read(f"/lib/modules/{release}/modules.dep")
        match = re.search(rf"^(\S*/)?{name}\.ko(\.\w+)?(?=:)", known, re.MULTILINE)
        return match.group(0) if match else ""

    def distribution(self) -> Distribution:
        """Return the distribution from os-release(5)."""
        values = {}
        for line in (self.read("/etc/os-release") or self.read("/usr/lib/os-release")).splitlines():
            key, dummy, value = line.partition("=")
            values[key.strip()] = value.strip().strip("\"'")
        identifier = values.get("ID", "")
        return {
            "id": identifier,
            "version": values.get("VERSION_ID", ""),
            "name": values.get("PRETTY_NAME", ""),
            "family": family(identifier, values.get("ID_LIKE", "")),
        }

    def kernel(self, distribution_family: str, missing_helpers: Sequence[str] = ()) -> Kernel:
        """Return facts about the running kernel; ``missing_helpers`` are the BPF helpers that it lacks."""
        system = os.uname()
        release = system.release
        config = self.config(release)
        try:
            netkit = netlink.has_link_kind("netkit")
        except PermissionError:
            netkit = False
        mounts = (line.split() for line in self.read("/proc/self/mounts").splitlines())
        return {
            "release": release,
            "version": system.version,
            "flavour": flavour(release),
            "architecture": system.machine,
            "boot_id": self.read("/proc/sys/kernel/random/boot_id"),
            "cmdline": self.read("/proc/cmdline"),
            "config": config,
            "headers": self.exists(f"/lib/modules/{release}/build/Makefile"),
            "headers_package": headers_package(distribution_family, release),
            "btf": self.exists("/sys/kernel/btf/vmlinux"),
            "bpf_helpers_missing": list(missing_helpers),
            "bpf_fs": any(mount[1:3] == ["/sys/fs/bpf", "bpf"] for mount in mounts),
            "netkit": netkit,
            "netkit_attributes": netlink.known_attributes("netkit", NETKIT_ATTRIBUTES) if netkit else [],
            "veth": self.exists("/sys/module/veth")
            or config.get("CONFIG_VETH") == "y"
            or bool(self.module_file(release, "veth")),
            "upcoming": self.upcoming(release),
        }

    def upcoming(self, running: str) -> list[Upcoming]:
        """Return the installed kernels newer than the running one that have no module meta."""
        return [
            {"release": release, "headers": self.exists(f"/lib/modules/{release}/build/Makefile")}
            for release in sorted(self.names("/lib/modules"), key=age)
            if age(release) > age(running)
            and self.exists(f"/boot/vmlinuz-{release}")
            and not self.module_file(release, "meta")
        ]

    def libraries(self) -> dict[str, str]:
        """Return the versions of the libraries that this collection's modules load, empty if missing."""
        return {"pyroute2": pyroute2_version(), "libbpf": libbpf_version()}

    def meta(self, release: str) -> MetaModule:
        """Return the state of the kernel module meta, of the loaded one or else of the installed one."""
        loaded = self.exists("/sys/module/meta/initstate")
        available = bool(self.module_file(release, "meta"))
        state: MetaModule = {
            "loaded": loaded,
            "available": available,
            "version": self.read("/sys/module/meta/version"),
            "srcversion": self.read("/sys/module/meta/srcversion"),
            "devices": [
                {"name": link.name, "alias": link.alias, **link.settings}
                for link in (netlink.links_of_kind("meta") if loaded and pyroute2_version() else ())
            ],
        }
        if available and not loaded:
            fields = module_info(self.tool("modinfo"), "meta", release)
            state["version"] = fields.get("version", "")
            state["srcversion"] = fields.get("srcversion", "")
        return state

    def security(self, certificate: str | None = None) -> Security:
        """Return what the kernel requires of a module to load it.

        ``certificate`` is the one that modules are signed for, a path or PEM. The default is that of DKMS.
        """
        try:
            with open(
                self.path("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"), "rb"
            ) as file:
                secure_boot = file.read()[-1:] == b"\1"  # Four bytes of attributes, then the value.
        except OSError:
            secure_boot = False
        chosen = re.search(r"\[(\w+)\]", self.read("/sys/kernel/security/lockdown"))
        lockdown = chosen.group(1) if chosen else "none"
        required = lockdown != "none" or self.read("/sys/module/module/parameters/sig_enforce") == "Y"
        enrolled = None
        if required:
            certificate = self.certificate() if certificate is None else certificate
            enrolled = bool(certificate) and key_enrolled(self.tool("mokutil"), self.bytes_of(certificate))
            if certificate and not certificate.startswith("/"):
                certificate = "CERTIFICATE (meta_driver_signing_certificate, as DER)"
        return {
            "secure_boot": secure_boot,
            "lockdown": lockdown,
            "signature_required": required,
            "certificate": certificate if required and certificate else "",
            "key_enrolled": enrolled,
        }

    def bytes_of(self, certificate: str) -> bytes:
        """Return a certificate from a path or from PEM text."""
        if not certificate.startswith("/"):
            return certificate.encode()
        try:
            with open(self.path(certificate), "rb") as file:
                return file.read()
        except OSError:
            return b""

    def certificate(self) -> str:
        """Return the certificate that DKMS signs with, empty if there is none yet."""
        folder = "/etc/dkms/framework.conf.d"
        files = ["/etc/dkms/framework.conf", *(f"{folder}/{name}" for name in self.names(folder))]
        candidates = ["/var/lib/dkms/mok.pub", "/var/lib/shim-signed/mok/MOK.der"]
        for name in files:
            for match in re.finditer(r"^\s*mok_certificate=[\"']?([^\"'\n]+)", self.read(name), re.MULTILINE):
                candidates.append(match.group(1))
        return next((name for name in reversed(candidates) if self.exists(name)), "")

    def nics(self, uplinks: Iterable[str]) -> list[Nic]:
        """Return the interfaces that have a device, are uplinks, or carry a default route."""
        carrying = default_interfaces() if pyroute2_version() else None
        found: list[Nic] = []
        for name in self.names("/sys/class/net"):
            folder = f"/sys/class/net/{name}"
            if not (self.exists(f"{folder}/device") or name in (carrying or ()) or name in uplinks):
                continue
            device = os.path.realpath(self.path(f"{folder}/device"))
            # A virtio NIC's device is virtioN, its parent the PCI function.
            functions = re.findall(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]", device)
            found.append(
                {
                    "name": name,
                    "driver": self.target(f"{folder}/device/driver"),
                    "mac": self.read(f"{folder}/address"),
                    "mtu": self.number(f"{folder}/mtu", 0),
                    "speed": self.number(f"{folder}/speed", -1),
                    "carrier": self.read(f"{folder}/carrier") == "1",
                    "pci": functions[-1] if functions else "",
                    "default_route": None if carrying is None else name in carrying,
                    "ethernet": self.number(f"{folder}/type", ARPHRD_ETHER) == ARPHRD_ETHER,
                    "virtual_functions": self.number(f"{folder}/device/sriov_numvfs", 0),
                }
            )
        return found

    def ipsec_policies(self) -> list[str]:
        """Return the IPsec policies that apply to routed packets; empty if this process cannot read them."""
        try:
            return xfrm.policies()
        except (OSError, messages.MissingLibrary):
            return []

    def facts(
        self,
        uplinks: Sequence[str] = (),
        certificate: str | None = None,
        missing_helpers: Sequence[str] = (),
    ) -> Facts:
        """Return all facts.

        ``certificate`` is the one that modules are signed for, if not that of DKMS. ``missing_helpers`` are
        the BPF helpers that the kernel lacks; ``bpf_helpers`` finds them.
        """
        distribution = self.distribution()
        kernel = self.kernel(distribution["family"], missing_helpers)
        return {
            "root": os.geteuid() == 0,
            "kernel": kernel,
            "distribution": distribution,
            "tools": {name: self.tool(name) for name in ("dkms", "gcc", "make", "modprobe")},
            "libraries": self.libraries(),
            "python": python(),
            "meta": self.meta(kernel["release"]),
            "security": self.security(certificate),
            "nics": self.nics(uplinks),
            "vfio": [name for name in self.names("/sys/bus/pci/drivers/vfio-pci") if ":" in name],
            "cilium": cilium(self),
            "ipsec_policies": self.ipsec_policies(),
        }


def python() -> Python:
    """Return the running interpreter; a virtual environment or second version lacks packaged libraries."""
    return {"executable": sys.executable, "packaged": messages.python_is_packaged()}


def pyroute2_version() -> str:
    """Return the version of pyroute2 that this Python would import, without importing it."""
    spec = importlib.util.find_spec("pyroute2")
    for folder in spec.submodule_search_locations or () if spec else ():
        for name in os.listdir(os.path.dirname(folder)):
            match = re.match(r"pyroute2-([^-]+)\.(?:dist|egg)-info$", name)
            if match:
                return match.group(1)
        return "unknown"
    return ""


def libbpf_version() -> str:
    """Return the version of libbpf.so.1, empty if it cannot be loaded."""
    try:
        library = ctypes.CDLL("libbpf.so.1")
    except OSError:
        return ""
    library.libbpf_version_string.restype = ctypes.c_char_p
    version: bytes = library.libbpf_version_string()
    return version.decode().lstrip("v")


def _output(command: Sequence[str]) -> str:
    """Return a command's output, regardless of its exit status."""
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    ).stdout


def module_info(modinfo: str, name: str, release: str) -> dict[str, str]:
    """Return modinfo(8)'s fields of an installed module or a module file; empty if there is none."""
    if not modinfo:
        return {}
    fields: dict[str, str] = {}
    for line in _output([modinfo, "-k", release, name]).splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key, value.strip())
    return fields


def key_enrolled(mokutil: str, certificate: bytes) -> bool:
    """Return whether the firmware or shim has a certificate; False if mokutil(1) cannot determine it."""
    if not mokutil:
        return False
    with tempfile.NamedTemporaryFile() as file:
        file.write(signing.der(certificate))
        file.flush()
        said = _output([mokutil, "--test-key", file.name])
        return said.rstrip().endswith(("is already enrolled", "is already in db"))
