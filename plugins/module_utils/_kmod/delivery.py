# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel module built on one node, for all nodes with its kernel. Private to this collection.

``build`` leaves nothing on the node that builds. ``deliver`` puts a module that was built elsewhere where
modprobe takes it, in the place of one that DKMS has.
Sources: Documentation/kbuild/modules.rst, depmod.d(5), modinfo(8).
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .._kernel import signing
from .._node import readiness
from . import dkms
from . import loading as _kmod
from .loading import LOG_LINES, Change, Loaded, ModuleError, Plan, tail

# Who builds


def builders(nodes: Mapping[str, Mapping[str, Any]], batch: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return who builds for whom: a plan for each kernel that a node of ``batch`` runs.

    ``nodes`` are the facts of node_info of all nodes known so far; ``batch`` are those that get the module
    now. A plan has the ``kernel``, its ``nodes`` of the batch, and the ``candidates`` that could build, best
    first: who has compiler and headers before who would have to get them, the batch before earlier ones.
    """
    now = [name for name in batch if name in nodes]
    plans: dict[str, dict[str, Any]] = {}
    for name in now:
        plan = plans.setdefault(
            kernel_key(nodes[name]),
            {"kernel": nodes[name]["kernel"]["release"], "nodes": [], "candidates": []},
        )
        plan["nodes"].append(name)
    for name in [*now, *(name for name in nodes if name not in now)]:
        key = kernel_key(nodes[name])
        if key in plans and nodes[name]["builder"]["possible"]:
            plans[key]["candidates"].append(name)
    for plan in plans.values():  # The sort is stable: otherwise in the order of the inventory.
        plan["candidates"].sort(key=lambda name: len(nodes[name]["builder"]["missing"]))
    return plans


def kernel_key(facts: Mapping[str, Any]) -> str:
    """Return what tells one kernel from another: a module fits where it is the same.

    The release names the ABI, the version the very build: two builds may share a release.
    """
    kernel = facts["kernel"]
    return f"{kernel['release']} {kernel['architecture']} {kernel['version']}"


# Building


def build(node: _kmod.Kmod, kernel: str, files: Mapping[str, str]) -> bytes:
    """Build a module from its source with the headers of a kernel, and return it."""
    tools = [tool for tool in ("gcc", "make") if not node.node.tool(tool)]
    folder = f"/lib/modules/{kernel}/build"
    lacking = tools if node.node.exists(f"{folder}/Makefile") else ["headers", *tools]
    if lacking:
        raise ModuleError(readiness.absence(node.node.distribution()["family"], kernel, lacking))
    with tempfile.TemporaryDirectory(prefix="podnet-build-") as stage:
        dkms.write_tree(stage, files)
        jobs = f"-j{os.cpu_count() or 1}"
        status, said = node.run("make", jobs, "-C", stage, f"KDIR={folder}")
        module = f"{stage}/{node.name}.ko"
        if status == 0 and os.path.exists(module):
            status, said = node.run("strip", "--strip-debug", module)  # as DKMS does: a tenth of its size
        if status:
            raise ModuleError(
                f"the build of {node.name} for kernel {kernel} failed; the last lines of its log:\n"
                f"{tail(said, LOG_LINES)}",
                said,
            )
        if not os.path.exists(module):
            raise ModuleError(f"files: the build made no {node.name}.ko")
        if not node.info(module, kernel).get("srcversion"):
            raise ModuleError(
                f"files: {node.name}.ko has no srcversion, so the loaded one cannot be told from another: "
                "add MODULE_VERSION() to the source"
            )
        with open(module, "rb") as file:
            return file.read()


# Installing


@dataclass(frozen=True)
class Desired:
    """A module that was built for a kernel; ``serial`` is of the certificate that it is signed for."""

    name: str
    kernel: str
    content: bytes
    reload: str = "idle"
    serial: str = ""

    @property
    def digest(self) -> str:
        """Return the content's SHA-256."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Current:
    """What the node has; ``digest`` is of the installed file, ``versions`` are those that DKMS has."""

    running: str
    digest: str
    srcversion: str
    filename: str
    versions: tuple[str, ...]
    loaded: Loaded | None
    autoload: str


def plan(current: Current, desired: Desired, srcversion: str) -> Plan:
    """Return the steps from ``current`` to ``desired``, which has ``srcversion``."""
    changes = []
    if current.digest != desired.digest:
        why = "is another one" if current.digest else "is missing"
        changes.append(Change("install", f"{_kmod.delivered_file(desired.name, desired.kernel)} {why}"))
    changes += [Change("retire", f"version {version} of DKMS is superseded") for version in current.versions]
    if current.autoload != _kmod.autoload_text(desired.name):
        state = "differs" if current.autoload else "is missing"
        changes.append(Change("autoload", f"{_kmod.autoload_file(desired.name)} {state}"))
    loading = Plan(())
    if desired.kernel == current.running:
        other = dkms.differs(srcversion, current.loaded)
        loading = _kmod.plan_loading(desired.name, current.loaded, other, desired.reload)
    return Plan((*changes, *loading.changes), loading.kept)


def unfit(desired: Desired, fields: Mapping[str, str], vermagic: str) -> str:
    """Return why a module is not for this node, or nothing; ``vermagic`` is of the kernel's own modules."""
    magic = fields.get("vermagic", "").strip()
    if fields.get("name", desired.name) != desired.name:
        return f"src: it is the module {fields['name']}, not {desired.name}"
    if magic.split(" ")[0] != desired.kernel or (vermagic and magic != vermagic):
        return (
            f"src: the module was built for another kernel: its vermagic is {magic!r}, that of this "
            f"node's modules is {vermagic or desired.kernel!r}"
        )
    if desired.serial and signing.signed_by(fields) != desired.serial:
        return (
            f"src: the module is signed for {signing.signed_by(fields) or 'nobody'}, not for "
            f"certificate {desired.serial}"
        )
    return ""


class Installer(dkms.Driver):
    """Installs a module that was built elsewhere."""

    def current(self, kernel: str) -> Current:
        """Return the node's state, as ``plan`` wants it."""
        path = _kmod.delivered_file(self.name, kernel)
        digest = ""
        if os.path.exists(path):
            with open(path, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
        installed = self.info(self.name, kernel)
        return Current(
            running=self.running,
            digest=digest,
            srcversion=installed.get("srcversion", ""),
            filename=installed.get("filename", ""),
            versions=tuple(sorted({*self.source_versions(), *self.tree_versions()})),
            loaded=self.loaded(),
            autoload=self.node.read(_kmod.autoload_file(self.name)),
        )

    def vermagic(self, kernel: str) -> str:
        """Return the vermagic of a module that came with the kernel, empty where it has none."""
        known = self.node.read(f"/lib/modules/{kernel}/modules.dep")
        found = re.search(r"^(kernel/\S+?):", known, re.MULTILINE)
        if not found:
            return ""
        return self.info(f"/lib/modules/{kernel}/{found[1]}", kernel).get("vermagic", "").strip()

    def fields(self, desired: Desired) -> dict[str, str]:
        """Return what modinfo says of the wanted module; refuse one that is not this node's."""
        if not self.node.tool("modprobe"):
            raise ModuleError(
                readiness.absence(self.node.distribution()["family"], desired.kernel, ["modprobe"])
            )
        with tempfile.TemporaryDirectory(prefix="podnet-module-") as folder:
            path = f"{folder}/{desired.name}.ko"
            with open(path, "wb") as file:
                file.write(desired.content)
            fields = self.info(path, desired.kernel)
        wrong = unfit(desired, fields, self.vermagic(desired.kernel))
        if wrong:
            raise ModuleError(wrong)
        return fields

    def install(self, desired: Desired, current: Current, planned: Plan, srcversion: str) -> Current:
        """Carry the plan out and return the state then; else raise, with all as it was."""
        path = _kmod.delivered_file(desired.name, desired.kernel)
        with self.locked(), tempfile.TemporaryDirectory(prefix="podnet-module-") as saved:
            kernels = [desired.kernel]
            snapshot = _kmod.Snapshot(
                saved,
                [
                    f"{dkms.TREE}/{desired.name}",
                    *(dkms.source_folder(desired.name, version) for version in current.versions),
                    _kmod.autoload_file(desired.name),
                    path,
                    *(file for file in _kmod.module_files(desired.name, kernels) if file != path),
                ],
            )
            try:
                for version in current.versions:
                    self.retire(version)
                if planned.wants("install"):
                    _kmod.write_file(path, desired.content)
                if planned.wants("install", "retire"):
                    self.run("depmod", "-a", desired.kernel)
                if planned.wants("autoload"):
                    self.write_autoload()
                now = self.current(desired.kernel)
                if os.path.realpath(now.filename) != os.path.realpath(path):
                    raise ModuleError(
                        f"modprobe would take {now.filename or 'no module'} and not {path}: remove that "
                        "file, or the override in /etc/depmod.d"
                    )
                remaining = plan(now, desired, srcversion)
                if remaining.wants("load", "reload"):
                    now = replace(now, loaded=self.bring_in(remaining, srcversion))
                return now
            except (ModuleError, OSError):
                snapshot.restore()
                self.run("depmod", "-a", desired.kernel)
                self.bring_back(current.loaded)
                raise


def deliver(node: Installer, desired: Desired, check_mode: bool) -> dict[str, Any]:
    """Bring the module in; return the module's result."""
    fields = node.fields(desired)
    srcversion = fields.get("srcversion", "")
    current = after = node.current(desired.kernel)
    planned = plan(current, desired, srcversion)
    node.certificate = "the controller's" if desired.serial else ""
    refusal = ""
    if planned.wants("load", "reload"):
        # Whether the kernel knows the key of a signed one is seen when it is loaded.
        refusal = (
            "" if desired.serial else readiness.signature_refusal(node.node.security(""), delivered=True)
        )
    if refusal and not check_mode:
        raise ModuleError(refusal)
    if planned.changes and not check_mode:
        after = node.install(desired, current, planned, srcversion)
        planned = Plan(planned.changes, plan(after, desired, srcversion).kept)
    if planned.kept:
        node.warnings.append(planned.kept)
    path = _kmod.delivered_file(desired.name, desired.kernel)

    def state(digest: str, loaded: str, versions: Iterable[str]) -> str:
        lines = [f"{path}: {digest or 'absent'}", f"loaded: {loaded or 'no'}"]
        return "".join(f"{line}\n" for line in [*lines, *(f"DKMS: {version}" for version in versions)])

    was = current.loaded.srcversion if current.loaded else ""
    becomes = srcversion if planned.wants("load", "reload") else was
    return {
        "changed": bool(planned.changes),
        "changes": [str(change) for change in planned.changes],
        "version": fields.get("version", ""),
        "kernel": desired.kernel,
        "srcversion": srcversion,
        "signer": fields.get("signer", ""),
        "loaded": after.loaded is not None,
        "reload_required": bool(planned.kept),
        "diff": [
            {
                "before": state(current.digest, was, current.versions),
                "after": state(desired.digest, becomes, ()),
            }
        ]
        if planned.changes
        else [],
    }
