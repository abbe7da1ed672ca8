# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build a kernel module from its source with DKMS, install and load it.

A build uses a temporary tree, and only its result is moved into DKMS' own tree, as ``dkms ldtarball``
does: a failed build changes nothing. If a later step fails, a copy restores the former state.
Source: dkms(8) and its script, versions 2.8 to 3.2.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from .._core.plan import Result
from .._kernel import signing as signatures
from .._node import readiness
from .dkms_plan import (
    SIGNING,
    SOURCES,
    Current,
    Desired,
    Entry,
    Signing,
    conf_value,
    diff,
    option_problems,
    parse_status,
    plan,
    plan_absent,
    signing_output,
    source_folder,
    state_text,
    superseded,
)  # fmt: skip
from .files import Snapshot, delivered, is_module, kernel_of, module_files, remove, write_file
from .loading import LOG_LINES, KmodPlan, ModuleError, autoload_file, kmod_plan, tail
from .module import Kmod

TREE = "/var/lib/dkms"
DESTINATION = "/updates/dkms"  # below the kernel's modules, on Debian


def signing(key: str, certificate: str) -> Signing:
    """Return a key of the node and its certificate; raises ``ModuleError`` if one cannot be used."""
    for option, path in (("signing_key", key), ("signing_certificate", certificate)):
        if not os.path.isfile(path):
            raise ModuleError(
                f"{option}: {path} does not exist on the node, where DKMS needs it: copy it there"
            )
    try:
        with open(certificate, "rb") as file:
            return Signing(key, certificate, signatures.serial(file.read()))
    except signatures.SigningError as error:
        raise ModuleError(f"signing_certificate: {certificate}: {error}") from error


def write_tree(folder: str, files: Mapping[str, str]) -> None:
    """Write files below a new directory; scripts (``#!``) become executable."""
    for path, text in files.items():
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(target, 0o755 if text.startswith("#!") else 0o644)


def read_tree(folder: str) -> dict[str, str] | None:
    """Return the files below a directory by relative path, ``None`` if it does not exist."""
    if not os.path.isdir(folder):
        return None
    found = {}
    for base, _folders, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            # A file that is not text is foreign and compares as different.
            with open(path, encoding="utf-8", errors="replace", newline="") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


class DkmsModule(Kmod):
    """One kernel module of this node that DKMS builds."""

    def dkms(self, action: str, version: str, *options: str) -> None:
        """Run a dkms command on a version of the module."""
        status, output = self.run("dkms", action, "-m", self.name, "-v", version, *options)
        if status:
            raise ModuleError(
                f"dkms {action} of {self.name}/{version} failed: {tail(output, LOG_LINES)}", output
            )

    def read(self, version: str, kernel: str) -> Current:
        """Return the node's state for ``plan``."""
        entries: tuple[Entry, ...] = ()
        if self.node.tool("dkms"):
            dummy, output = self.run("dkms", "status", "-m", self.name)
            entries = parse_status(output, self.name)
        installed = self.info(self.name, kernel)
        return Current(
            running=self.running,
            source=read_tree(source_folder(self.name, version)) if version else None,
            versions=tuple(sorted({*self.source_versions(), *self.tree_versions()})),
            broken=tuple(
                v for v in self.tree_versions() if not self.node.exists(source_folder(self.name, v))
            ),
            entries=entries,
            srcversion=installed.get("srcversion", ""),
            filename=installed.get("filename", ""),
            loaded=self.loaded(),
            autoload=self.node.read(autoload_file(self.name)),
            signed_by=signatures.signed_by(installed),
            signing=self.node.read(SIGNING),
            delivered=tuple(
                path for path in delivered(self.name) if not version or kernel_of(path) == kernel
            ),
        )

    def source_versions(self) -> Iterator[str]:
        """Yield the versions whose source is where DKMS expects it."""
        for name in self.node.names(SOURCES):
            conf = self.node.read(f"{SOURCES}/{name}/dkms.conf")
            version = conf_value(conf, "PACKAGE_VERSION")
            if conf_value(conf, "PACKAGE_NAME") == self.name and name == f"{self.name}-{version}":
                yield version

    def tree_versions(self) -> list[str]:
        """Return the versions in DKMS. ``dkms status`` prints nothing if one has lost its source."""
        return [
            v
            for v in self.node.names(f"{TREE}/{self.name}")
            if os.path.lexists(f"{TREE}/{self.name}/{v}/source")
        ]

    def missing_packages(self, kernel: str, build: bool = True) -> str:
        """Return the missing requirements of DKMS to build or, without ``build``, to install a module."""
        tools = ("dkms", "gcc", "make", "modprobe") if build else ("dkms", "modprobe")
        missing = [tool for tool in tools if not self.node.tool(tool)]
        if build and not self.node.exists(f"/lib/modules/{kernel}/build/Makefile"):
            missing.insert(0, "headers")
        return (
            readiness.missing_message(self.node.distribution()["family"], kernel, missing) if missing else ""
        )

    def build(self, stage: str, desired: Desired, kernel: str) -> str:
        """Build the staged source for a kernel inside ``stage``; return the module's srcversion."""
        tree = f"{stage}/tree"
        status, output = self.run(
            "dkms", "build", "--sourcetree", f"{stage}/src", "--dkmstree", tree,
            "-m", desired.name, "-v", desired.version, "-k", kernel,
        )  # fmt: skip
        work = f"{tree}/{desired.name}/{desired.version}"
        if status:
            log = self.node.read(f"{work}/build/make.log") or output
            raise ModuleError(
                f"the build of {desired.name}/{desired.version} for kernel {kernel} failed, and nothing was "
                f"changed; the last lines of its log:\n{tail(log, LOG_LINES)}",
                log,
            )
        for folder, dummy, names in os.walk(f"{work}/{kernel}"):
            for name in names:
                if is_module(name, desired.name):
                    fields = self.info(f"{folder}/{name}", kernel)
                    if desired.signing and signatures.signed_by(fields) != desired.signing.serial:
                        raise ModuleError(
                            f"signing_key: DKMS did not sign {name} with {desired.signing.key}; its output: "
                            f"{signing_output(output)}",
                            output,
                        )
                    if fields.get("srcversion"):
                        return fields["srcversion"]
                    raise ModuleError(
                        f"files: {name} has no srcversion, so a loaded module cannot be identified: "
                        "add MODULE_VERSION() to the source"
                    )
        raise ModuleError(
            f"files: the build created no {desired.name}.ko: check BUILT_MODULE_NAME in dkms.conf"
        )

    def repair(self, versions: Sequence[str]) -> None:
        """Write a dkms.conf for versions without a source, which DKMS needs to list and remove them."""
        for version in versions:
            conf = (
                f'PACKAGE_NAME="{self.name}"\nPACKAGE_VERSION="{version}"\n'
                f'BUILT_MODULE_NAME[0]="{self.name}"\nDEST_MODULE_LOCATION[0]="{DESTINATION}"\n'
            )
            write_tree(source_folder(self.name, version), {"dkms.conf": conf})

    def forget(self, version: str, *options: str) -> None:
        """Remove a version from DKMS for all kernels, if it is there."""
        if version in self.tree_versions():
            self.dkms("remove", version, "--all", *options)

    def deploy(self, stage: str, desired: Desired, kernels: Sequence[str]) -> None:
        """Move the staged source and its builds into DKMS, and install them."""
        self.forget(desired.version, "--no-depmod")  # The installation runs depmod.
        real = source_folder(desired.name, desired.version)
        remove(real)
        os.rename(f"{stage}/src/{desired.name}-{desired.version}", real)
        self.dkms("add", desired.version)
        place = f"{desired.name}/{desired.version}"
        for kernel in kernels:
            shutil.copytree(f"{stage}/tree/{place}/{kernel}", f"{TREE}/{place}/{kernel}")
        for kernel in kernels:
            self.dkms("install", desired.version, "-k", kernel, "--force")

    def retire(self, version: str) -> None:
        """Remove a version from DKMS, and its source."""
        self.forget(version)
        remove(source_folder(self.name, version))

    def apply(self, current: Current, desired: Desired, planned: KmodPlan) -> Current:
        """Execute the plan and return the new state; raises ``ModuleError`` with everything restored."""
        missing = self.missing_packages(desired.kernel, build=planned.wants("deploy"))
        if missing:
            raise ModuleError(missing)
        if planned.wants("deploy", "load", "reload") and desired.kernel == current.running:
            refusal = readiness.signature_refusal(self.node.security(self.certificate))
            if refusal:
                raise ModuleError(refusal)
        # In the same file system as the sources, so that a rename moves them.
        stage = f"{SOURCES}/.podnet-{desired.name}"
        with self.locked():
            remove(stage)  # A killed run may have left it.
            os.mkdir(stage, 0o755)
            try:
                after = self._install(stage, current, desired, planned)
            finally:
                remove(stage)
            for version in superseded(current, desired.version):
                self.retire(version)
        return after

    def _install(self, stage: str, current: Current, desired: Desired, planned: KmodPlan) -> Current:
        # Kernels that have a version of this module installed keep one.
        others = sorted(
            {e.kernel for e in current.entries if e.state == "installed" and e.kernel != desired.kernel}
        )
        os.mkdir(f"{stage}/settings")
        settings = Snapshot(f"{stage}/settings", [SIGNING])
        if desired.signing and planned.wants("sign"):
            write_file(SIGNING, f"{desired.signing.text}\n".encode())
        try:
            built = self._build(stage, desired, others) if planned.wants("deploy") else {}
        except (ModuleError, OSError):
            settings.restore()
            raise
        kernels = [*others, desired.kernel]
        os.mkdir(f"{stage}/saved")
        snapshot = Snapshot(
            f"{stage}/saved",
            [
                f"{TREE}/{desired.name}",
                source_folder(desired.name, desired.version),
                autoload_file(desired.name),
                *(source_folder(desired.name, version) for version in current.broken),
                *module_files(desired.name, kernels),
                *current.delivered,
            ],
        )
        try:
            self.repair(current.broken)
            for path in current.delivered:
                remove(path)
            if planned.wants("deploy"):
                self.deploy(stage, desired, list(built))
            elif planned.wants("install"):
                if Entry(desired.version, desired.kernel, "installed", False) in current.entries:
                    self.dkms("uninstall", desired.version, "-k", desired.kernel, "--no-depmod")
                    # A modified file would stay, and DKMS 3.1 would archive it as an original.
                    for path in module_files(desired.name, [desired.kernel]):
                        if path.startswith(f"/lib/modules/{desired.kernel}{DESTINATION}/"):
                            remove(path)
                self.dkms("install", desired.version, "-k", desired.kernel, "--force")
            elif current.delivered:
                self.run("depmod", "-a", desired.kernel)
            return self._activate(desired, built.get(desired.kernel, ""))
        except (ModuleError, OSError):
            settings.restore()
            self._undo(snapshot, current, desired, kernels)
            raise

    def _build(self, stage: str, desired: Desired, others: Sequence[str]) -> dict[str, str]:
        """Build the source inside ``stage``; return the srcversions by kernel."""
        write_tree(f"{stage}/src/{desired.name}-{desired.version}", desired.files)
        os.mkdir(f"{stage}/tree")
        built = {desired.kernel: self.build(stage, desired, desired.kernel)}
        for kernel in others:
            try:
                if not self.missing_packages(kernel):
                    built[kernel] = self.build(stage, desired, kernel)
            except ModuleError as error:
                self.warnings.append(f"kernel {kernel} no longer has {desired.name}: {error}")
        return built

    def _activate(self, desired: Desired, built: str) -> Current:
        """Load the installed module, now and at boot; return the new state."""
        current = self.read(desired.version, desired.kernel)
        if built and current.srcversion != built:
            raise ModuleError(
                f"modprobe would load {current.filename or 'no module'} instead of the new build: "
                "remove that file, or correct DEST_MODULE_LOCATION in dkms.conf"
            )
        remaining = plan(current, desired)
        if remaining.wants("deploy", "install"):
            raise ModuleError(
                f"DKMS reported success, but these steps remain: {'; '.join(map(str, remaining.steps))}"
            )
        if remaining.wants("autoload"):
            self.write_autoload()
        if remaining.wants("load", "reload"):
            current = replace(current, loaded=self.load_planned(remaining, current.srcversion))
        return current

    def _undo(self, snapshot: Snapshot, former: Current, desired: Desired, kernels: Sequence[str]) -> None:
        """Restore the former files, and load the former module."""
        if os.path.isdir(f"{TREE}/{desired.name}/{desired.version}"):
            self.run("dkms", "remove", "-m", desired.name, "-v", desired.version, "--all", "--no-depmod")
        snapshot.restore()
        for kernel in kernels:
            self.run("depmod", "-a", kernel)
        self.restore(former.loaded)

    def apply_absent(self, current: Current, planned: KmodPlan) -> None:
        """Remove the module; raises ``ModuleError`` before any change if something uses it."""
        if current.loaded is not None and current.loaded.used:
            raise ModuleError(
                f"state: {self.name} is used by {current.loaded.users}, so it cannot be removed: "
                "delete the devices of Pods first"
            )
        if os.path.isdir(f"{TREE}/{self.name}") and not self.node.tool("dkms"):
            raise ModuleError(
                readiness.missing_message(self.node.distribution()["family"], self.running, ["dkms"])
            )
        with self.locked():
            if planned.wants("unload"):
                self.unload()
            self.repair(current.broken)
            for version in superseded(current, ""):
                self.retire(version)
            for path in (*current.delivered, autoload_file(self.name), SIGNING):
                remove(path)
            for path in current.delivered:
                self.run("depmod", "-a", kernel_of(path))


def present(driver: DkmsModule, desired: Desired, check_mode: bool) -> Result:
    """Build, install and load the module; raises ``ModuleError``."""
    wrong = option_problems(desired)
    if wrong:
        raise ModuleError("; ".join(wrong))
    driver.certificate = desired.signing.certificate if desired.signing else None
    current = driver.read(desired.version, desired.kernel)
    planned = plan(current, desired)
    if planned and check_mode:
        missing = driver.missing_packages(desired.kernel, build=planned.wants("deploy"))
        if missing:
            driver.warnings.append(f"without check mode this would fail: {missing}")
    after = current
    if planned and not check_mode:
        after = driver.apply(current, desired, planned)
        planned = kmod_plan(planned.steps, plan(after, desired).pending)
    if planned.pending:
        driver.warnings.append(planned.pending)
    values = {
        "changes": [str(step) for step in planned.steps],
        "version": desired.version,
        "kernel": desired.kernel,
        "srcversion": after.srcversion,
        "built": planned.wants("deploy"),
        "loaded": after.loaded is not None,
        "reload_required": bool(planned.pending),
    }
    return Result(bool(planned), values, driver.warnings, diff(current, desired, planned) if planned else [])


def absent(driver: DkmsModule, kernel: str, check_mode: bool) -> Result:
    """Remove the module; raises ``ModuleError``."""
    current = driver.read("", kernel)
    planned = plan_absent(current, driver.name)
    if planned and not check_mode:
        driver.apply_absent(current, planned)
        remaining = plan_absent(driver.read("", kernel), driver.name)
        if remaining:
            raise ModuleError(
                f"DKMS reported success, but these steps remain: {'; '.join(map(str, remaining.steps))}"
            )
    values = {
        "changes": [str(step) for step in planned.steps],
        "kernel": kernel,
        "built": False,
        "loaded": check_mode and current.loaded is not None,
        "reload_required": False,
    }
    before = {"before": state_text(driver.name, current), "after": ""}
    return Result(bool(planned), values, driver.warnings, [before] if planned else [])
