# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel module built on one node for all nodes with the same kernel.

``build`` leaves nothing on the node that builds. ``deliver`` installs a module that was built elsewhere,
instead of one in DKMS.
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

from .._core.plan import Result
from .._kernel import signing
from .._node import readiness
from . import dkms
from .dkms_plan import differs, source_folder
from .files import Snapshot, delivered_file, module_files, write_file
from .loading import (
    LOG_LINES,
    KmodPlan,
    Loaded,
    ModuleError,
    Step,
    autoload_file,
    kmod_plan,
    plan_autoload,
    plan_loading,
    tail,
)  # fmt: skip
from .module import Kmod

# Selection of builders


def builders(nodes: Mapping[str, Mapping[str, Any]], batch: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return which nodes can build for which others, for each kernel that a node of ``batch`` runs.

    ``nodes`` has the facts of node_info for all known nodes; ``batch`` are the nodes that get the module now.
    Each entry has the ``kernel``, its ``nodes`` of the batch, the ``candidates`` to build, and the
    ``agreement``. The best candidates are first: nodes with compiler and headers before nodes that need to
    install them, nodes of the batch before others. ``agreement`` is the number of nodes that must build the
    same module: two if other nodes than the builder load it, so that one node cannot give its code to others.
    """
    now = [name for name in batch if name in nodes]
    plans: dict[str, dict[str, Any]] = {}
    for name in now:
        plan = plans.setdefault(
            kernel_key(nodes[name]),
            {"kernel": nodes[name]["kernel"]["release"], "nodes": [], "candidates": [], "agreement": 0},
        )
        plan["nodes"].append(name)
    for name in [*now, *(name for name in nodes if name not in now)]:
        key = kernel_key(nodes[name])
        if key not in plans:
            continue
        plans[key]["agreement"] = min(plans[key]["agreement"] + 1, 2)
        if nodes[name]["builder"]["possible"]:
            plans[key]["candidates"].append(name)
    for plan in plans.values():  # The sort is stable and keeps the order of the inventory.
        plan["candidates"].sort(key=lambda name: len(nodes[name]["builder"]["missing"]))
    return plans


def kernel_key(facts: Mapping[str, Any]) -> str:
    """Return a key that is equal for kernels that accept the same module.

    The release names the ABI, the version the build: two builds may share a release.
    """
    kernel = facts["kernel"]
    return f"{kernel['release']} {kernel['architecture']} {kernel['version']}"


# Building


def build(node: Kmod, kernel: str, files: Mapping[str, str]) -> bytes:
    """Build a module from its source with the headers of a kernel; return the module.

    The same source, headers and compiler give the same bytes, in any directory.
    """
    tools = [tool for tool in ("gcc", "make") if not node.node.tool(tool)]
    folder = f"/lib/modules/{kernel}/build"
    missing = tools if node.node.exists(f"{folder}/Makefile") else ["headers", *tools]
    if missing:
        raise ModuleError(readiness.missing_message(node.node.distribution()["family"], kernel, missing))
    with tempfile.TemporaryDirectory(prefix="podnet-build-") as stage:
        dkms.write_tree(stage, files)
        jobs = f"-j{os.cpu_count() or 1}"
        flags = f"KCFLAGS=-ffile-prefix-map={stage}=."
        status, output = node.run("env", flags, "make", jobs, "-C", stage, f"KDIR={folder}")
        module = f"{stage}/{node.name}.ko"
        if status == 0 and os.path.exists(module):
            status, output = node.run(
                "strip", "--strip-debug", module
            )  # as DKMS does; the result has a tenth of the size
        if status:
            raise ModuleError(
                f"the build of {node.name} for kernel {kernel} failed; the last lines of its log:\n"
                f"{tail(output, LOG_LINES)}",
                output,
            )
        if not os.path.exists(module):
            raise ModuleError(f"files: the build created no {node.name}.ko: check the Makefile")
        if not node.info(module, kernel).get("srcversion"):
            raise ModuleError(
                f"files: {node.name}.ko has no srcversion, so a loaded module cannot be identified: "
                "add MODULE_VERSION() to the source"
            )
        with open(module, "rb") as file:
            return file.read()


# Installation


@dataclass(frozen=True)
class Desired:
    """A module built for a kernel; ``serial`` is that of the certificate that it is signed for."""

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
    """The state of the node; ``digest`` is that of the installed file, ``versions`` are those in DKMS."""

    running: str
    digest: str
    srcversion: str
    filename: str
    versions: tuple[str, ...]
    loaded: Loaded | None
    autoload: str


def plan(current: Current, desired: Desired, srcversion: str) -> KmodPlan:
    """Return the plan from ``current`` to ``desired``, a module with ``srcversion``."""
    steps = []
    if current.digest != desired.digest:
        state = "differs" if current.digest else "is missing"
        steps.append(Step("install", f"{delivered_file(desired.name, desired.kernel)} {state}"))
    steps += [Step("retire", f"version {version} of DKMS is superseded") for version in current.versions]
    steps += plan_autoload(desired.name, current.autoload)
    loading = kmod_plan(())
    if desired.kernel == current.running:
        other = differs(srcversion, current.loaded)
        loading = plan_loading(desired.name, current.loaded, other, desired.reload)
    return kmod_plan([*steps, *loading.steps], loading.pending)


def mismatch(desired: Desired, fields: Mapping[str, str], vermagic: str) -> str:
    """Return why a module does not fit, or nothing; ``vermagic`` is that of the kernel's modules."""
    magic = fields.get("vermagic", "").strip()
    if fields.get("name", desired.name) != desired.name:
        return f"src: the file is the module {fields['name']}, not {desired.name}"
    if magic.split(" ")[0] != desired.kernel or (vermagic and magic != vermagic):
        return (
            f"src: the module was built for another kernel: its vermagic is {magic!r}, this node needs "
            f"{vermagic or desired.kernel!r}"
        )
    if desired.serial and signing.signed_by(fields) != desired.serial:
        return (
            f"src: the module is signed for certificate {signing.signed_by(fields) or '(none)'}, not for "
            f"{desired.serial}"
        )
    return ""


class Installer(dkms.DkmsModule):
    """Installs a module that was built elsewhere."""

    def current(self, kernel: str) -> Current:
        """Return the node's state for ``plan``."""
        path = delivered_file(self.name, kernel)
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
            autoload=self.node.read(autoload_file(self.name)),
        )

    def vermagic(self, kernel: str) -> str:
        """Return the vermagic of a module of the kernel package, empty if it has none."""
        known = self.node.read(f"/lib/modules/{kernel}/modules.dep")
        found = re.search(r"^(kernel/\S+?):", known, re.MULTILINE)
        if not found:
            return ""
        return self.info(f"/lib/modules/{kernel}/{found[1]}", kernel).get("vermagic", "").strip()

    def fields(self, desired: Desired) -> dict[str, str]:
        """Return modinfo's fields of the module; raises ``ModuleError`` if it does not fit this node."""
        if not self.node.tool("modprobe"):
            raise ModuleError(
                readiness.missing_message(self.node.distribution()["family"], desired.kernel, ["modprobe"])
            )
        with tempfile.TemporaryDirectory(prefix="podnet-module-") as folder:
            path = f"{folder}/{desired.name}.ko"
            with open(path, "wb") as file:
                file.write(desired.content)
            fields = self.info(path, desired.kernel)
        wrong = mismatch(desired, fields, self.vermagic(desired.kernel))
        if wrong:
            raise ModuleError(wrong)
        return fields

    def install(self, desired: Desired, current: Current, planned: KmodPlan, srcversion: str) -> Current:
        """Execute the plan and return the new state; raises ``ModuleError`` with everything restored."""
        path = delivered_file(desired.name, desired.kernel)
        with self.locked(), tempfile.TemporaryDirectory(prefix="podnet-module-") as saved:
            kernels = [desired.kernel]
            snapshot = Snapshot(
                saved,
                [
                    f"{dkms.TREE}/{desired.name}",
                    *(source_folder(desired.name, version) for version in current.versions),
                    autoload_file(desired.name),
                    path,
                    *(file for file in module_files(desired.name, kernels) if file != path),
                ],
            )
            try:
                for version in current.versions:
                    self.retire(version)
                if planned.wants("install"):
                    write_file(path, desired.content)
                if planned.wants("install", "retire"):
                    self.run("depmod", "-a", desired.kernel)
                if planned.wants("autoload"):
                    self.write_autoload()
                now = self.current(desired.kernel)
                if os.path.realpath(now.filename) != os.path.realpath(path):
                    raise ModuleError(
                        f"modprobe would load {now.filename or 'no module'} instead of {path}: remove that "
                        "file, or the override in /etc/depmod.d"
                    )
                remaining = plan(now, desired, srcversion)
                if remaining.wants("load", "reload"):
                    now = replace(now, loaded=self.load_planned(remaining, srcversion))
                return now
            except (ModuleError, OSError):
                snapshot.restore()
                self.run("depmod", "-a", desired.kernel)
                self.restore(current.loaded)
                raise


def deliver(node: Installer, desired: Desired, check_mode: bool) -> Result:
    """Install and load the module; raises ``ModuleError``."""
    fields = node.fields(desired)
    srcversion = fields.get("srcversion", "")
    current = after = node.current(desired.kernel)
    planned = plan(current, desired, srcversion)
    node.certificate = "the controller's" if desired.serial else ""
    refusal = ""
    if planned.wants("load", "reload"):
        # Only loading a signed module shows whether the kernel trusts its key.
        refusal = (
            "" if desired.serial else readiness.signature_refusal(node.node.security(""), delivered=True)
        )
    if refusal and not check_mode:
        raise ModuleError(refusal)
    if planned and not check_mode:
        after = node.install(desired, current, planned, srcversion)
        planned = kmod_plan(planned.steps, plan(after, desired, srcversion).pending)
    if planned.pending:
        node.warnings.append(planned.pending)
    path = delivered_file(desired.name, desired.kernel)

    def state(digest: str, loaded: str, versions: Iterable[str]) -> str:
        lines = [f"{path}: {digest or 'absent'}", f"loaded: {loaded or 'no'}"]
        return "".join(f"{line}\n" for line in [*lines, *(f"DKMS: {version}" for version in versions)])

    before = current.loaded.srcversion if current.loaded else ""
    expected = srcversion if planned.wants("load", "reload") else before
    values = {
        "changes": [str(step) for step in planned.steps],
        "version": fields.get("version", ""),
        "kernel": desired.kernel,
        "srcversion": srcversion,
        "signer": fields.get("signer", ""),
        "loaded": after.loaded is not None,
        "reload_required": bool(planned.pending),
    }
    diff = {
        "before": state(current.digest, before, current.versions),
        "after": state(desired.digest, expected, ()),
    }
    return Result(bool(planned), values, node.warnings, [diff] if planned else [])
