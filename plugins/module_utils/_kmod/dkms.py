# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel module from its source, built by DKMS and loaded. Private to this collection.

A build takes place beside DKMS' own tree, and only what was built is put into it, as ``dkms
ldtarball`` does: a build that fails leaves everything as it was. What comes after is undone from a
copy when it fails.
Sources: dkms(8) and its script of 2.8 to 3.2, modules-load.d(5), modprobe(8),
Documentation/ABI/testing/sysfs-module.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._kernel import signing as _signing
from .._node import readiness
from . import loading as _kmod
from .loading import LOG_LINES, Change, Loaded, ModuleError, Plan, remove, tail

SOURCES = "/usr/src"
TREE = "/var/lib/dkms"
DESTINATION = "/updates/dkms"  # below the kernel's modules, on Debian
SIGNING = "/etc/dkms/framework.conf.d/podnet.conf"


@dataclass(frozen=True)
class Signing:
    """The key that DKMS signs with, paths on the node; ``serial`` is the certificate's number."""

    key: str
    certificate: str
    serial: str

    @property
    def text(self) -> str:
        """Return the settings of DKMS, without the newline at their end."""
        return (
            "# Written by podnet.datapath.\n"
            f'mok_signing_key="{self.key}"\nmok_certificate="{self.certificate}"'
        )


@dataclass(frozen=True)
class Desired:
    """One version of a module, from these files, for one kernel release."""

    name: str
    version: str
    kernel: str
    files: Mapping[str, str]
    reload: str = "idle"
    signing: Signing | None = None


@dataclass(frozen=True)
class Entry:
    """One line of ``dkms status``; ``kernel`` is empty where the version is only added."""

    version: str
    kernel: str
    state: str
    intact: bool


@dataclass(frozen=True)
class Current:
    """What the node has.

    ``source`` is the wanted version's, ``versions`` are all that DKMS or /usr/src have, ``broken`` those
    of them that DKMS lost the source of; ``srcversion``, ``filename`` and ``signed_by`` are of the module
    that modprobe would take. ``delivered`` are modules that ``_kmod.delivery`` installed.
    """

    running: str
    source: Mapping[str, str] | None
    versions: tuple[str, ...]
    broken: tuple[str, ...]
    entries: tuple[Entry, ...]
    srcversion: str
    filename: str
    loaded: Loaded | None
    autoload: str
    signed_by: str = ""
    signing: str = ""
    delivered: tuple[str, ...] = ()


def source_folder(name: str, version: str) -> str:
    """Return where DKMS looks for the source."""
    return f"{SOURCES}/{name}-{version}"


def conf_value(conf: str, key: str) -> str:
    """Return a variable of a dkms.conf, empty where it is not set."""
    match = re.search(rf"^\s*{key}=[\"']?([^\"'\s]*)", conf, re.MULTILINE)
    return match.group(1) if match else ""


def mistakes(desired: Desired) -> list[str]:
    """Return what is wrong with the options, before anything is looked at or changed."""
    found = []
    if not re.fullmatch(r"[a-z0-9_]+", desired.name):
        found.append(f"name: {desired.name!r} is no module name (lower case letters, digits and _)")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+~_]*", desired.version):
        found.append(f"version: {desired.version!r} is no version (letters, digits and . + ~ _)")
    for path in desired.files:
        if not path or path.startswith("/") or ".." in path.split("/") or path != os.path.normpath(path):
            found.append(f"files: {path!r} must be a relative path inside the source folder")
    conf = desired.files.get("dkms.conf")
    if conf is None:
        return [*found, "files: there is no dkms.conf among them"]
    for key, wanted in (("PACKAGE_NAME", desired.name), ("PACKAGE_VERSION", desired.version)):
        if conf_value(conf, key) != wanted:
            found.append(f"files: dkms.conf has {key} {conf_value(conf, key)!r}, but {wanted!r} is asked for")
    return found


def parse_status(text: str, name: str) -> tuple[Entry, ...]:
    """Parse ``dkms status``: 2.8 before 2.8.5 prints ``name, version``, later ones ``name/version``."""
    line_format = re.compile(
        rf"^{re.escape(name)}(?:/|, )(?P<version>[^,:/\s]+)"
        r"(?:, (?P<kernel>[^,\s]+), (?P<arch>[^:\s]+))?: (?P<state>[\w-]+)(?P<notes>.*)$"
    )
    found = []
    for line in text.splitlines():
        match = line_format.match(line.strip())
        if match:
            # "(original_module exists)" is no fault; "Diff...", "Missing..." and "...missing..." are.
            intact = not re.search(r"\b(diff|missing)", match["notes"], re.IGNORECASE)
            found.append(Entry(match["version"], match["kernel"] or "", match["state"], intact))
    return tuple(found)


def signing(key: str, certificate: str) -> Signing:
    """Return a key of the node and its certificate; raise ``ModuleError`` where one cannot be used."""
    for option, path in (("signing_key", key), ("signing_certificate", certificate)):
        if not os.path.isfile(path):
            raise ModuleError(f"{option}: {path} is not there: with DKMS it must lie on the node itself")
    try:
        with open(certificate, "rb") as file:
            return Signing(key, certificate, _signing.serial(file.read()))
    except _signing.SigningError as error:
        raise ModuleError(f"signing_certificate: {certificate}: {error}") from error


def signing_words(said: str) -> str:
    """Return what ``dkms build`` said about signing."""
    words = [line for line in said.splitlines() if re.search(r"sign|key|certificate", line, re.IGNORECASE)]
    return "; ".join(words[-3:]) or "nothing"


def differing(source: Mapping[str, str] | None, files: Mapping[str, str]) -> list[str]:
    """Return the paths that are not the same on both sides."""
    have = source or {}
    return sorted(path for path in {*have, *files} if have.get(path) != files.get(path))


def plan(current: Current, desired: Desired) -> Plan:
    """Return the steps from ``current`` to ``desired``; none where the node already has it."""
    changes = []
    paths = differing(current.source, desired.files)
    entry = next(
        (e for e in current.entries if e.version == desired.version and e.kernel == desired.kernel), None
    )
    signing = desired.signing
    if signing and current.signing != signing.text:
        changes.append(Change("sign", f"{SIGNING} does not name the key {signing.key}"))
    if current.source is None:
        changes.append(Change("deploy", f"version {desired.version} is not on this node"))
    elif paths:
        changes.append(Change("deploy", f"the source differs: {', '.join(paths)}"))
    elif entry is None:
        changes.append(Change("deploy", f"not built for kernel {desired.kernel}"))
    elif signing and current.filename and current.signed_by != signing.serial:
        changes.append(Change("deploy", f"not signed for {signing.certificate}"))
    elif entry.state != "installed" or not entry.intact:
        state = entry.state if entry.intact else "not as it was built"
        changes.append(Change("install", f"the module for kernel {desired.kernel} is {state}"))
    changes += [Change("retire", f"{path} was built on another node") for path in current.delivered]
    if current.autoload != _kmod.autoload_text(desired.name):
        state = "differs" if current.autoload else "is missing"
        changes.append(Change("autoload", f"{_kmod.autoload_file(desired.name)} {state}"))
    loading = Plan(())
    if desired.kernel == current.running:
        other = bool(paths) or differs(current.srcversion, current.loaded)
        loading = _kmod.plan_loading(desired.name, current.loaded, other, desired.reload)
    versions = [
        Change("retire", f"version {version} is superseded")
        for version in superseded(current, desired.version)
    ]
    return Plan((*changes, *loading.changes, *versions), loading.kept)


def differs(srcversion: str, loaded: Loaded | None) -> bool:
    """Tell whether the loaded module is not the installed one, as far as one is installed."""
    return bool(srcversion and loaded and srcversion != loaded.srcversion)


def superseded(current: Current, version: str) -> list[str]:
    """Return the other versions of this module."""
    return sorted({*current.versions} - {version})


def plan_absent(current: Current, name: str) -> Plan:
    """Return the steps that take every version of the module away."""
    changes = []
    if current.loaded is not None:
        changes.append(Change("unload", "loaded"))
    changes += [Change("retire", f"version {version} is present") for version in superseded(current, "")]
    changes += [Change("retire", f"{path} is present") for path in current.delivered]
    for path, text in ((_kmod.autoload_file(name), current.autoload), (SIGNING, current.signing)):
        if text:
            changes.append(Change("remove", f"{path} is present"))
    return Plan(tuple(changes))


def state_text(name: str, current: Current) -> str:
    """Return the state in lines, for the diff."""
    lines = [
        f"{name}/{entry.version}{f' for {entry.kernel}' if entry.kernel else ''}: {entry.state}"
        for entry in current.entries
    ]
    lines += [f"{name}/{version}: broken" for version in current.broken]
    if current.loaded:
        lines.append(f"loaded: {current.loaded.srcversion or 'yes'}")
    lines += [f"{path}: present" for path in current.delivered]
    if current.autoload:
        lines.append(f"{_kmod.autoload_file(name)}: present")
    return "".join(f"{line}\n" for line in sorted(lines))


def diff(current: Current, desired: Desired, planned: Plan) -> list[dict[str, str]]:
    """Return Ansible's diff: the state, then every source file that differs."""
    before = state_text(desired.name, current)
    kept = tuple(
        entry
        for entry in current.entries
        if entry.version == desired.version and entry.kernel not in ("", desired.kernel)
    )
    loaded = current.loaded
    if planned.wants("load", "reload"):
        known = "" if planned.wants("deploy") else current.srcversion
        loaded = Loaded(known or "the module as built")
    after = Current(
        running=current.running,
        source=desired.files,
        versions=(desired.version,),
        broken=(),
        entries=(*kept, Entry(desired.version, desired.kernel, "installed", True)),
        srcversion=current.srcversion,
        filename=current.filename,
        loaded=loaded,
        autoload=_kmod.autoload_text(desired.name),
    )
    parts = [
        {
            "before_header": "state",
            "after_header": "state",
            "before": before,
            "after": state_text(desired.name, after),
        }
    ]
    for path in differing(current.source, desired.files):
        header = f"{source_folder(desired.name, desired.version)}/{path}"
        parts.append(
            {
                "before_header": header,
                "after_header": header,
                "before": (current.source or {}).get(path, ""),
                "after": desired.files.get(path, ""),
            }
        )
    return parts


def write_tree(folder: str, files: Mapping[str, str]) -> None:
    """Write files below a new folder; scripts (``#!``) become executable."""
    for path, text in files.items():
        target = os.path.join(folder, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        os.chmod(target, 0o755 if text.startswith("#!") else 0o644)


def read_tree(folder: str) -> dict[str, str] | None:
    """Return the files below a folder by their relative paths, None where there is no folder."""
    if not os.path.isdir(folder):
        return None
    found = {}
    for base, _folders, names in os.walk(folder):
        for name in names:
            path = os.path.join(base, name)
            # What is not text is none of ours: it compares as different, whatever it says.
            with open(path, encoding="utf-8", errors="replace", newline="") as file:
                found[os.path.relpath(path, folder)] = file.read()
    return found


class Driver(_kmod.Kmod):
    """Reads and changes one module of this node, by DKMS."""

    def dkms(self, action: str, version: str, *options: str) -> None:
        """Run a dkms command on a version of the module."""
        status, said = self.run("dkms", action, "-m", self.name, "-v", version, *options)
        if status:
            raise ModuleError(f"dkms {action} of {self.name}/{version} failed: {tail(said, LOG_LINES)}", said)

    def read(self, version: str, kernel: str) -> Current:
        """Return the node's state, as ``plan`` wants it."""
        entries: tuple[Entry, ...] = ()
        if self.node.tool("dkms"):
            dummy, said = self.run("dkms", "status", "-m", self.name)
            entries = parse_status(said, self.name)
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
            autoload=self.node.read(_kmod.autoload_file(self.name)),
            signed_by=_signing.signed_by(installed),
            signing=self.node.read(SIGNING),
            delivered=tuple(
                path for path in _kmod.delivered(self.name) if not version or _kmod.kernel_of(path) == kernel
            ),
        )

    def source_versions(self) -> Iterator[str]:
        """Yield the versions whose source lies where DKMS looks for it."""
        for name in self.node.names(SOURCES):
            conf = self.node.read(f"{SOURCES}/{name}/dkms.conf")
            version = conf_value(conf, "PACKAGE_VERSION")
            if conf_value(conf, "PACKAGE_NAME") == self.name and name == f"{self.name}-{version}":
                yield version

    def tree_versions(self) -> list[str]:
        """Return the versions that DKMS knows; ``dkms status`` is silent when one has lost its source."""
        return [
            v
            for v in self.node.names(f"{TREE}/{self.name}")
            if os.path.lexists(f"{TREE}/{self.name}/{v}/source")
        ]

    def lacks(self, kernel: str, build: bool = True) -> str:
        """Return what DKMS misses, with the remedy; for a build, or to install what is built."""
        tools = ("dkms", "gcc", "make", "modprobe") if build else ("dkms", "modprobe")
        lacking = [tool for tool in tools if not self.node.tool(tool)]
        if build and not self.node.exists(f"/lib/modules/{kernel}/build/Makefile"):
            lacking.insert(0, "headers")
        return readiness.absence(self.node.distribution()["family"], kernel, lacking) if lacking else ""

    def build(self, stage: str, desired: Desired, kernel: str) -> str:
        """Build the staged source for a kernel, inside the stage; return the module's srcversion."""
        tree = f"{stage}/tree"
        status, said = self.run(
            "dkms", "build", "--sourcetree", f"{stage}/src", "--dkmstree", tree,
            "-m", desired.name, "-v", desired.version, "-k", kernel,
        )  # fmt: skip
        work = f"{tree}/{desired.name}/{desired.version}"
        if status:
            log = self.node.read(f"{work}/build/make.log") or said
            raise ModuleError(
                f"the build of {desired.name}/{desired.version} for kernel {kernel} failed, and nothing was "
                f"changed; the last lines of its log:\n{tail(log, LOG_LINES)}",
                log,
            )
        for folder, dummy, names in os.walk(f"{work}/{kernel}"):
            for name in names:
                if _kmod.is_module(name, desired.name):
                    fields = self.info(f"{folder}/{name}", kernel)
                    if desired.signing and _signing.signed_by(fields) != desired.signing.serial:
                        raise ModuleError(
                            f"signing_key: DKMS did not sign {name} with {desired.signing.key}; it said: "
                            f"{signing_words(said)}",
                            said,
                        )
                    if fields.get("srcversion"):
                        return fields["srcversion"]
                    raise ModuleError(
                        f"files: {name} has no srcversion, so the loaded one cannot be told from another: "
                        "add MODULE_VERSION() to the source"
                    )
        raise ModuleError(f"files: the build made no {desired.name}.ko: see BUILT_MODULE_NAME in dkms.conf")

    def mend(self, versions: Sequence[str]) -> None:
        """Give DKMS a dkms.conf where it lost a source: it lists and removes nothing without one."""
        for version in versions:
            conf = (
                f'PACKAGE_NAME="{self.name}"\nPACKAGE_VERSION="{version}"\n'
                f'BUILT_MODULE_NAME[0]="{self.name}"\nDEST_MODULE_LOCATION[0]="{DESTINATION}"\n'
            )
            write_tree(source_folder(self.name, version), {"dkms.conf": conf})

    def forget(self, version: str, *options: str) -> None:
        """Have DKMS remove a version for all kernels, if it knows it."""
        if version in self.tree_versions():
            self.dkms("remove", version, "--all", *options)

    def deploy(self, stage: str, desired: Desired, kernels: Sequence[str]) -> None:
        """Put the staged source and what was built from it where DKMS has it, and install it."""
        self.forget(desired.version, "--no-depmod")  # The installation that follows runs it.
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
        """Take a version out of DKMS, and its source away."""
        self.forget(version)
        remove(source_folder(self.name, version))

    def apply(self, current: Current, desired: Desired, planned: Plan) -> Current:
        """Carry the plan out and return the state then; else raise, with all as it was."""
        lacking = self.lacks(desired.kernel, build=planned.wants("deploy"))
        if lacking:
            raise ModuleError(lacking)
        if planned.wants("deploy", "load", "reload") and desired.kernel == current.running:
            refusal = readiness.signature_refusal(self.node.security(self.certificate))
            if refusal:
                raise ModuleError(refusal)
        # Beside the sources, so that they come in by a rename.
        stage = f"{SOURCES}/.podnet-{desired.name}"
        with self.locked():
            remove(stage)  # A run that was killed may have left it.
            os.mkdir(stage, 0o755)
            try:
                after = self._install(stage, current, desired, planned)
            finally:
                remove(stage)
            for version in superseded(current, desired.version):
                self.retire(version)
        return after

    def _install(self, stage: str, current: Current, desired: Desired, planned: Plan) -> Current:
        # A version of this module may be installed for other kernels, and has to stay so.
        others = sorted(
            {e.kernel for e in current.entries if e.state == "installed" and e.kernel != desired.kernel}
        )
        os.mkdir(f"{stage}/settings")
        settings = _kmod.Snapshot(f"{stage}/settings", [SIGNING])
        if desired.signing and planned.wants("sign"):
            _kmod.write_file(SIGNING, f"{desired.signing.text}\n".encode())
        try:
            built = self._build(stage, desired, others) if planned.wants("deploy") else {}
        except (ModuleError, OSError):
            settings.restore()
            raise
        kernels = [*others, desired.kernel]
        os.mkdir(f"{stage}/saved")
        snapshot = _kmod.Snapshot(
            f"{stage}/saved",
            [
                f"{TREE}/{desired.name}",
                source_folder(desired.name, desired.version),
                _kmod.autoload_file(desired.name),
                *(source_folder(desired.name, version) for version in current.broken),
                *_kmod.module_files(desired.name, kernels),
                *current.delivered,
            ],
        )
        try:
            self.mend(current.broken)
            for path in current.delivered:
                remove(path)
            if planned.wants("deploy"):
                self.deploy(stage, desired, list(built))
            elif planned.wants("install"):
                if Entry(desired.version, desired.kernel, "installed", False) in current.entries:
                    self.dkms("uninstall", desired.version, "-k", desired.kernel, "--no-depmod")
                    # A file that is not as it was built stays, and DKMS 3.1 would keep that as an original.
                    for path in _kmod.module_files(desired.name, [desired.kernel]):
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
        """Build the source inside the stage; return the srcversions by kernel."""
        write_tree(f"{stage}/src/{desired.name}-{desired.version}", desired.files)
        os.mkdir(f"{stage}/tree")
        built = {desired.kernel: self.build(stage, desired, desired.kernel)}
        for kernel in others:
            try:
                if not self.lacks(kernel):
                    built[kernel] = self.build(stage, desired, kernel)
            except ModuleError as error:
                self.warnings.append(f"kernel {kernel} has no {desired.name} any more: {error}")
        return built

    def _activate(self, desired: Desired, built: str) -> Current:
        """Bring the module that is installed now into the kernel, now and at boot; return the state then."""
        current = self.read(desired.version, desired.kernel)
        if built and current.srcversion != built:
            raise ModuleError(
                f"modprobe would take {current.filename or 'no module'} and not the one that was built: "
                "remove that file, or correct DEST_MODULE_LOCATION in dkms.conf"
            )
        remaining = plan(current, desired)
        if remaining.wants("deploy", "install"):
            raise ModuleError(f"DKMS says it is done, but: {'; '.join(map(str, remaining.changes))}")
        if remaining.wants("autoload"):
            self.write_autoload()
        if remaining.wants("load", "reload"):
            current = replace(current, loaded=self.bring_in(remaining, current.srcversion))
        return current

    def _undo(
        self, snapshot: _kmod.Snapshot, former: Current, desired: Desired, kernels: Sequence[str]
    ) -> None:
        """Bring back what was, with the module loaded that was loaded."""
        if os.path.isdir(f"{TREE}/{desired.name}/{desired.version}"):
            self.run("dkms", "remove", "-m", desired.name, "-v", desired.version, "--all", "--no-depmod")
        snapshot.restore()
        for kernel in kernels:
            self.run("depmod", "-a", kernel)
        self.bring_back(former.loaded)

    def apply_absent(self, current: Current, planned: Plan) -> None:
        """Take the module away; nothing is touched while something uses it."""
        if current.loaded is not None and current.loaded.used:
            raise ModuleError(
                f"state: {self.name} is used by {current.loaded.users}, so it cannot be removed: "
                "delete the Pods' devices first"
            )
        if os.path.isdir(f"{TREE}/{self.name}") and not self.node.tool("dkms"):
            raise ModuleError(readiness.absence(self.node.distribution()["family"], self.running, ["dkms"]))
        with self.locked():
            if planned.wants("unload"):
                self.unload()
            self.mend(current.broken)
            for version in superseded(current, ""):
                self.retire(version)
            for path in (*current.delivered, _kmod.autoload_file(self.name), SIGNING):
                remove(path)
            for path in current.delivered:
                self.run("depmod", "-a", _kmod.kernel_of(path))


def present(driver: Driver, desired: Desired, check_mode: bool) -> dict[str, Any]:
    """Bring the module in; return the module's result."""
    wrong = mistakes(desired)
    if wrong:
        raise ModuleError("; ".join(wrong))
    driver.certificate = desired.signing.certificate if desired.signing else None
    current = driver.read(desired.version, desired.kernel)
    planned = plan(current, desired)
    if planned.changes and check_mode:
        lacking = driver.lacks(desired.kernel, build=planned.wants("deploy"))
        if lacking:
            driver.warnings.append(f"a run without check mode would fail as the node is now: {lacking}")
    after = current
    if planned.changes and not check_mode:
        after = driver.apply(current, desired, planned)
        planned = Plan(planned.changes, plan(after, desired).kept)
    if planned.kept:
        driver.warnings.append(planned.kept)
    return {
        "changed": bool(planned.changes),
        "changes": [str(change) for change in planned.changes],
        "version": desired.version,
        "kernel": desired.kernel,
        "srcversion": after.srcversion,
        "built": planned.wants("deploy"),
        "loaded": after.loaded is not None,
        "reload_required": bool(planned.kept),
        "diff": diff(current, desired, planned) if planned.changes else [],
    }


def absent(driver: Driver, kernel: str, check_mode: bool) -> dict[str, Any]:
    """Take the module away; return the module's result."""
    current = driver.read("", kernel)
    planned = plan_absent(current, driver.name)
    if planned.changes and not check_mode:
        driver.apply_absent(current, planned)
        rest = plan_absent(driver.read("", kernel), driver.name)
        if rest.changes:
            raise ModuleError(f"not removed after all steps: {'; '.join(map(str, rest.changes))}")
    return {
        "changed": bool(planned.changes),
        "changes": [str(change) for change in planned.changes],
        "kernel": kernel,
        "built": False,
        "loaded": False if not check_mode else current.loaded is not None,
        "reload_required": False,
        "diff": [{"before": state_text(driver.name, current), "after": ""}] if planned.changes else [],
    }
