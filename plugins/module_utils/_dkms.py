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

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils import _netlink, _node

SOURCES = "/usr/src"
TREE = "/var/lib/dkms"
AUTOLOAD = "/etc/modules-load.d"
LOCKS = "/run"
LOG_LINES = 20


class DkmsError(Exception):
    """What went wrong and its remedy; ``log`` has what the failed command said, where the message cuts it."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log if len(log.splitlines()) > LOG_LINES else ""


@dataclass(frozen=True)
class Desired:
    """One version of a module, from these files, for one kernel release."""

    name: str
    version: str
    kernel: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Entry:
    """One line of ``dkms status``; ``kernel`` is empty where the version is only added."""

    version: str
    kernel: str
    state: str
    intact: bool


@dataclass(frozen=True)
class Loaded:
    """The module in the running kernel: references to it, and the links of its kind."""

    srcversion: str
    references: int
    links: tuple[str, ...]

    @property
    def used(self) -> bool:
        """Tell whether unloading would fail or, worse, take links away: links hold no reference."""
        return self.references > 0 or bool(self.links)


@dataclass(frozen=True)
class Current:
    """What the node has.

    ``source`` is the wanted version's, ``versions`` are all that DKMS or /usr/src have, ``broken`` those
    of them that DKMS lost the source of; ``srcversion`` and ``filename`` are of the module that modprobe
    would take.
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


@dataclass(frozen=True)
class Change:
    """One step, and why it is taken."""

    action: str
    why: str

    def __str__(self) -> str:
        return f"{self.action}: {self.why}"


@dataclass(frozen=True)
class Plan:
    """The steps to the desired state; ``reload_required`` where users keep an older module loaded."""

    changes: tuple[Change, ...]
    reload_required: bool = False

    def wants(self, *actions: str) -> bool:
        """Tell whether one of the actions is among the changes."""
        return any(change.action in actions for change in self.changes)


def source_folder(name: str, version: str) -> str:
    """Return where DKMS looks for the source."""
    return f"{SOURCES}/{name}-{version}"


def autoload_file(name: str) -> str:
    """Return the file that has the module loaded at boot."""
    return f"{AUTOLOAD}/podnet-{name}.conf"


def autoload_text(name: str) -> str:
    """Return that file's content, without the newline at its end."""
    return f"# Written by podnet.datapath.dkms_driver.\n{name}"


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
    if current.source is None:
        changes.append(Change("deploy", f"version {desired.version} is not on this node"))
    elif paths:
        changes.append(Change("deploy", f"the source differs: {', '.join(paths)}"))
    elif entry is None:
        changes.append(Change("deploy", f"not built for kernel {desired.kernel}"))
    elif entry.state != "installed" or not entry.intact:
        state = entry.state if entry.intact else "not as it was built"
        changes.append(Change("install", f"the module for kernel {desired.kernel} is {state}"))
    if current.autoload != autoload_text(desired.name):
        state = "differs" if current.autoload else "is missing"
        changes.append(Change("autoload", f"{autoload_file(desired.name)} {state}"))
    reload_required = False
    if desired.kernel == current.running:
        if current.loaded is None:
            changes.append(Change("load", "not loaded"))
        elif paths or (current.srcversion and current.srcversion != current.loaded.srcversion):
            if current.loaded.used:
                reload_required = True
            else:
                changes.append(Change("reload", "the loaded one is of another source, and nothing uses it"))
    for version in superseded(current, desired.version):
        changes.append(Change("retire", f"version {version} is superseded"))
    return Plan(tuple(changes), reload_required)


def superseded(current: Current, version: str) -> list[str]:
    """Return the other versions of this module."""
    return sorted({*current.versions} - {version})


def plan_absent(current: Current, name: str) -> Plan:
    """Return the steps that take every version of the module away."""
    changes = []
    if current.loaded is not None:
        changes.append(Change("unload", "loaded"))
    changes += [Change("retire", f"version {version} is present") for version in superseded(current, "")]
    if current.autoload:
        changes.append(Change("autoload", f"{autoload_file(name)} is present"))
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
    if current.autoload:
        lines.append(f"{autoload_file(name)}: present")
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
        loaded = Loaded(known or "the module as built", 0, ())
    after = Current(
        running=current.running,
        source=desired.files,
        versions=(desired.version,),
        broken=(),
        entries=(*kept, Entry(desired.version, desired.kernel, "installed", True)),
        srcversion=current.srcversion,
        filename=current.filename,
        loaded=loaded,
        autoload=autoload_text(desired.name),
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


def explain_refusal(name: str, said: str, security: _node.Security) -> str:
    """Return why modprobe(8) could not load a module, with the remedy where one is known."""
    refusal = _node.signature_refusal(security)
    # EKEYREJECTED, ENOKEY; lockdown answers EPERM.
    if re.search(r"Key was rejected|Required key not available", said) or (
        "Operation not permitted" in said and refusal
    ):
        return refusal or (
            f"the kernel refuses the signature of {name}: have DKMS sign with a key that the kernel trusts "
            "(mok_signing_key in /etc/dkms/framework.conf), or switch Secure Boot off"
        )
    if re.search(r"Exec format error|Invalid module format|Unknown symbol", said):
        return (
            f"the module does not fit the running kernel ({said.strip()}): it was built with the headers of "
            "another build of it; install those of the running one, or boot the newest installed kernel"
        )
    return f"modprobe {name} failed: {said.strip() or 'it said nothing'}; the kernel's log may say more"


class Snapshot:
    """A copy of files and folders that can be put back."""

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        self._saved = {path: os.path.join(folder, str(number)) for number, path in enumerate(paths)}
        for path, copy in self._saved.items():
            if os.path.isdir(path):
                shutil.copytree(path, copy, symlinks=True)
            elif os.path.exists(path):
                shutil.copy2(path, copy)

    def restore(self) -> None:
        """Put everything back as it was, and take away what was not there."""
        for path, copy in self._saved.items():
            remove(path)
            if os.path.exists(copy):
                os.makedirs(os.path.dirname(path), exist_ok=True)
                shutil.move(copy, path)


def remove(path: str) -> None:
    """Remove a file or folder, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def module_files(name: str, kernels: Sequence[str]) -> list[str]:
    """Return the files of the module that are installed for the kernels, where DKMS installs them."""
    return [
        f"{base}/{file}"
        for kernel in kernels
        for folder in ("updates", "extra")
        for base, _folders, files in os.walk(f"/lib/modules/{kernel}/{folder}")
        for file in files
        if is_module(file, name)
    ]


def is_module(file: str, name: str) -> bool:
    """Tell whether a file is called as the module ``name`` is, compressed or not."""
    return re.fullmatch(rf"{re.escape(name)}\.ko(\.(gz|xz|zst))?", file) is not None


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


def write_file(path: str, text: str) -> None:
    """Replace a file at once."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(name, 0o644)
    os.rename(name, path)


class Driver:
    """Reads and changes one module of this node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.node = _node.Node()
        self.running = os.uname().release
        self.warnings: list[str] = []

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command in the C locale; return its exit status and everything it said."""
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C", "PATH": ":".join(_node.SEARCH_PATH)},
            text=True,
            errors="replace",
            check=False,
        )
        return answer.returncode, answer.stdout

    def dkms(self, action: str, version: str, *options: str) -> None:
        """Run a dkms command on a version of the module."""
        status, said = self.run("dkms", action, "-m", self.name, "-v", version, *options)
        if status:
            raise DkmsError(f"dkms {action} of {self.name}/{version} failed: {tail(said, LOG_LINES)}", said)

    def loaded(self) -> Loaded | None:
        """Return the loaded module, None where there is none."""
        folder = f"/sys/module/{self.name}"
        if not self.node.exists(f"{folder}/initstate"):  # Built-in code has a folder, too.
            return None
        return Loaded(
            self.node.read(f"{folder}/srcversion"),
            self.node.number(f"{folder}/refcnt", 0),
            tuple(_netlink.links_of_kind(self.name)),
        )

    def read(self, version: str, kernel: str) -> Current:
        """Return the node's state, as ``plan`` wants it."""
        entries: tuple[Entry, ...] = ()
        if self.node.tool("dkms"):
            dummy, said = self.run("dkms", "status", "-m", self.name)
            entries = parse_status(said, self.name)
        installed = _node.module_info(self.node.tool("modinfo"), self.name, kernel)
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
        return _node.absence(self.node.distribution()["family"], kernel, lacking) if lacking else ""

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
            raise DkmsError(
                f"the build of {desired.name}/{desired.version} for kernel {kernel} failed, and nothing was "
                f"changed; the last lines of its log:\n{tail(log, LOG_LINES)}",
                log,
            )
        for folder, dummy, names in os.walk(f"{work}/{kernel}"):
            for name in names:
                if is_module(name, desired.name):
                    fields = _node.module_info(self.node.tool("modinfo"), f"{folder}/{name}", kernel)
                    if fields.get("srcversion"):
                        return fields["srcversion"]
                    raise DkmsError(
                        f"files: {name} has no srcversion, so the loaded one cannot be told from another: "
                        "add MODULE_VERSION() to the source"
                    )
        raise DkmsError(f"files: the build made no {desired.name}.ko: see BUILT_MODULE_NAME in dkms.conf")

    def mend(self, versions: Sequence[str]) -> None:
        """Give DKMS a dkms.conf where it lost a source: it lists and removes nothing without one."""
        for version in versions:
            conf = (
                f'PACKAGE_NAME="{self.name}"\nPACKAGE_VERSION="{version}"\n'
                f'BUILT_MODULE_NAME[0]="{self.name}"\nDEST_MODULE_LOCATION[0]="/updates/dkms"\n'
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

    def load(self) -> None:
        """Load the installed module."""
        status, said = self.run("modprobe", self.name)
        if status:
            raise DkmsError(explain_refusal(self.name, said, self.node.security()), said)

    def unload(self) -> None:
        """Unload the module; the caller has seen that nothing uses it."""
        status, said = self.run("modprobe", "-r", self.name)
        if status:
            raise DkmsError(f"modprobe -r {self.name} failed: {said.strip()}", said)

    def apply(self, current: Current, desired: Desired, planned: Plan) -> Current:
        """Carry the plan out and return the state then; else leave all as it was and raise ``DkmsError``."""
        lacking = self.lacks(desired.kernel, build=planned.wants("deploy"))
        if lacking:
            raise DkmsError(lacking)
        if planned.wants("deploy", "load", "reload") and desired.kernel == current.running:
            refusal = _node.signature_refusal(self.node.security())
            if refusal:
                raise DkmsError(refusal)
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

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run from changing the same module."""
        with open(f"{LOCKS}/podnet-dkms-{self.name}.lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DkmsError(
                    f"another run changes {self.name} on this node: wait for its end, and run again"
                ) from None
            yield

    def _install(self, stage: str, current: Current, desired: Desired, planned: Plan) -> Current:
        # A version of this module may be installed for other kernels, and has to stay so.
        others = sorted(
            {e.kernel for e in current.entries if e.state == "installed" and e.kernel != desired.kernel}
        )
        built: dict[str, str] = {}
        if planned.wants("deploy"):
            write_tree(f"{stage}/src/{desired.name}-{desired.version}", desired.files)
            os.mkdir(f"{stage}/tree")
            built[desired.kernel] = self.build(stage, desired, desired.kernel)
            for kernel in others:
                try:
                    if not self.lacks(kernel):
                        built[kernel] = self.build(stage, desired, kernel)
                except DkmsError as error:
                    self.warnings.append(f"kernel {kernel} has no {desired.name} any more: {error}")
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
            ],
        )
        try:
            self.mend(current.broken)
            if planned.wants("deploy"):
                self.deploy(stage, desired, list(built))
            elif planned.wants("install"):
                if Entry(desired.version, desired.kernel, "installed", False) in current.entries:
                    self.dkms("uninstall", desired.version, "-k", desired.kernel, "--no-depmod")
                self.dkms("install", desired.version, "-k", desired.kernel, "--force")
            return self._activate(desired, built.get(desired.kernel, ""))
        except (DkmsError, OSError):
            self._undo(snapshot, current, desired, kernels)
            raise

    def _activate(self, desired: Desired, built: str) -> Current:
        """Bring the module that is installed now into the kernel, now and at boot; return the state then."""
        current = self.read(desired.version, desired.kernel)
        if built and current.srcversion != built:
            raise DkmsError(
                f"modprobe would take {current.filename or 'no module'} and not the one that was built: "
                "remove that file, or correct DEST_MODULE_LOCATION in dkms.conf"
            )
        remaining = plan(current, desired)
        if remaining.wants("deploy", "install"):
            raise DkmsError(f"DKMS says it is done, but: {'; '.join(map(str, remaining.changes))}")
        if remaining.wants("autoload"):
            write_file(autoload_file(desired.name), autoload_text(desired.name) + "\n")
        if remaining.wants("reload"):
            self.unload()
        if remaining.wants("load", "reload"):
            self.load()
            current = replace(current, loaded=self.loaded())
            loaded = current.loaded.srcversion if current.loaded else "nothing"
            if loaded != current.srcversion:
                raise DkmsError(
                    f"modprobe {desired.name} loaded {loaded}, but {current.filename} is "
                    f"{current.srcversion}: see modprobe --show-depends {desired.name}"
                )
        return current

    def _undo(self, snapshot: Snapshot, former: Current, desired: Desired, kernels: Sequence[str]) -> None:
        """Bring back what was, with the module loaded that was loaded."""
        if os.path.isdir(f"{TREE}/{desired.name}/{desired.version}"):
            self.run("dkms", "remove", "-m", desired.name, "-v", desired.version, "--all", "--no-depmod")
        snapshot.restore()
        for kernel in kernels:
            self.run("depmod", "-a", kernel)
        now = self.loaded()
        if former.loaded is None and now is not None and not now.used:
            self.run("modprobe", "-r", desired.name)
        if former.loaded is not None and now is None:
            self.run("modprobe", desired.name)

    def apply_absent(self, current: Current, planned: Plan) -> None:
        """Take the module away; nothing is touched while something uses it."""
        if current.loaded is not None and current.loaded.used:
            links = ", ".join(current.loaded.links)
            by = f"the links {links}" if links else f"{current.loaded.references} references"
            raise DkmsError(
                f"state: {self.name} is used by {by}, so it cannot be removed: delete the Pods' devices first"
            )
        if os.path.isdir(f"{TREE}/{self.name}") and not self.node.tool("dkms"):
            raise DkmsError(_node.absence(self.node.distribution()["family"], self.running, ["dkms"]))
        with self.locked():
            if planned.wants("unload"):
                self.unload()
            self.mend(current.broken)
            for version in superseded(current, ""):
                self.retire(version)
            remove(autoload_file(self.name))


def tail(text: str, lines: int) -> str:
    """Return the last lines of a text that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def present(driver: Driver, desired: Desired, check_mode: bool) -> dict[str, Any]:
    """Bring the module in; return the module's result."""
    wrong = mistakes(desired)
    if wrong:
        raise DkmsError("; ".join(wrong))
    current = driver.read(desired.version, desired.kernel)
    planned = plan(current, desired)
    if planned.changes and check_mode:
        lacking = driver.lacks(desired.kernel, build=planned.wants("deploy"))
        if lacking:
            driver.warnings.append(f"a run without check mode would fail as the node is now: {lacking}")
    after = current
    if planned.changes and not check_mode:
        after = driver.apply(current, desired, planned)
        planned = Plan(planned.changes, plan(after, desired).reload_required)
    if planned.reload_required and current.loaded is not None:
        names = ", ".join(current.loaded.links)
        links = f"links ({names})" if names else "other modules"
        driver.warnings.append(
            f"an older {desired.name} stays loaded, because {links} need it: it is replaced at the next "
            "boot, or by the next run once nothing uses it"
        )
    return {
        "changed": bool(planned.changes),
        "changes": [str(change) for change in planned.changes],
        "version": desired.version,
        "kernel": desired.kernel,
        "srcversion": after.srcversion,
        "built": planned.wants("deploy"),
        "loaded": after.loaded is not None,
        "reload_required": planned.reload_required,
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
            raise DkmsError(f"not removed after all steps: {'; '.join(map(str, rest.changes))}")
    return {
        "changed": bool(planned.changes),
        "changes": [str(change) for change in planned.changes],
        "kernel": kernel,
        "built": False,
        "loaded": False if not check_mode else current.loaded is not None,
        "reload_required": False,
        "diff": [{"before": state_text(driver.name, current), "after": ""}] if planned.changes else [],
    }
