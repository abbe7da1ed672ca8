# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kernel module on a node: which one is loaded, who needs it, how another takes its place.

Private to this collection. ``_kmod.dkms`` and ``_kmod.delivery`` install it.
Sources: modules-load.d(5), modprobe(8), modinfo(8), Documentation/ABI/testing/sysfs-module.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .._kernel import link_kinds, netlink, netns
from .._node import facts, readiness

AUTOLOAD = "/etc/modules-load.d"
LOCKS = "/run"
LOG_LINES = 20
RELOADS = ("idle", "managed")


class ModuleError(Exception):
    """What went wrong and its remedy; ``log`` has what the failed command said, where the message cuts it."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log if len(log.splitlines()) > LOG_LINES else ""


@dataclass(frozen=True)
class Loaded:
    """The module in the running kernel.

    ``references`` are those of other modules. Devices hold none, so unloading would take them away: ``own``
    are those of the kind that this collection made, ``foreign`` all others, in whatever namespace.
    """

    srcversion: str
    references: int = 0
    own: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def used(self) -> bool:
        """Tell whether unloading would fail or, worse, take devices away."""
        return self.references > 0 or bool(self.own or self.foreign)

    @property
    def users(self) -> str:
        """Return who needs the module, in words."""
        devices = ", ".join(self.own + self.foreign)
        return f"the devices {devices}" if devices else f"{self.references} references of other modules"


@dataclass(frozen=True)
class Change:
    """One step, and why it is taken."""

    action: str
    why: str

    def __str__(self) -> str:
        return f"{self.action}: {self.why}"


@dataclass(frozen=True)
class Plan:
    """The steps to the desired state; ``kept`` says why an older module stays loaded, if it does."""

    changes: tuple[Change, ...]
    kept: str = ""

    def wants(self, *actions: str) -> bool:
        """Tell whether one of the actions is among the changes."""
        return any(change.action in actions for change in self.changes)


def plan_loading(name: str, loaded: Loaded | None, other: bool, reload: str) -> Plan:
    """Return how the installed module gets into the kernel; ``other``: the loaded one is not of its source.

    ``reload`` is idle (never take a device away) or managed (those of this collection may be made again).
    """
    if loaded is None:
        return Plan((Change("load", "not loaded"),))
    if not other:
        return Plan(())
    why = "the loaded one is of another source"
    if not loaded.used:
        return Plan((Change("reload", f"{why}, and nothing uses it"),))
    if reload == "managed" and not loaded.foreign and not loaded.references:
        return Plan((Change("reload", f"{why}; this removes the devices {', '.join(loaded.own)}"),))
    stays = f"an older {name} stays loaded until the next boot"
    if loaded.foreign:
        return Plan(
            (), f"{stays}: devices that are not of this collection need it: {', '.join(loaded.foreign)}"
        )
    if loaded.references:
        return Plan((), f"{stays}: {loaded.users} need it")
    remedy = "reload: managed removes them, and the role pods makes them again"
    return Plan((), f"{stays}: Pods need it ({', '.join(loaded.own)}); {remedy}")


def autoload_file(name: str) -> str:
    """Return the file that has the module loaded at boot."""
    return f"{AUTOLOAD}/podnet-{name}.conf"


def autoload_text(name: str) -> str:
    """Return that file's content, without the newline at its end."""
    return f"# Written by podnet.datapath.\n{name}"


def explain_refusal(name: str, said: str, security: facts.Security) -> str:
    """Return why modprobe(8) could not load a module, with the remedy where one is known."""
    refusal = readiness.signature_refusal(security)
    # EKEYREJECTED, ENOKEY; lockdown answers EPERM.
    if re.search(r"Key was rejected|Required key not available", said) or (
        "Operation not permitted" in said and refusal
    ):
        return refusal or (
            f"the kernel refuses the signature of {name}: have it signed with a key that the kernel trusts "
            "(meta_driver_signing_key), or switch Secure Boot off"
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


def delivered_file(name: str, kernel: str) -> str:
    """Return where a module that was built on another node lies; depmod(8) prefers the folder updates."""
    return f"/lib/modules/{kernel}/updates/podnet/{name}.ko"


def delivered(name: str) -> list[str]:
    """Return the modules of this name that were built on another node, for whatever kernel."""
    return [path for path in glob.glob(delivered_file(name, "*")) if os.path.isfile(path)]


def kernel_of(path: str) -> str:
    """Return the release in the path of an installed module."""
    return path.split("/")[3]


def is_module(file: str, name: str) -> bool:
    """Tell whether a file is called as the module ``name`` is, compressed or not."""
    return re.fullmatch(rf"{re.escape(name)}\.ko(\.(gz|xz|zst))?", file) is not None


def write_file(path: str, content: bytes) -> None:
    """Replace a file at once."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=os.path.dirname(path))
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.chmod(name, 0o644)
    os.rename(name, path)


def tail(text: str, lines: int) -> str:
    """Return the last lines of a text that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


class Kmod:
    """Reads and changes which build of one module this node runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.node = facts.Node()
        self.running = os.uname().release
        self.warnings: list[str] = []
        # What the module is signed for, as Node.security() takes it: by default the certificate of DKMS.
        self.certificate: str | None = None

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command in the C locale; return its exit status and everything it said."""
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C", "PATH": ":".join(facts.SEARCH_PATH)},
            text=True,
            errors="replace",
            check=False,
        )
        return answer.returncode, answer.stdout

    def loaded(self) -> Loaded | None:
        """Return the loaded module, None where there is none."""
        folder = f"/sys/module/{self.name}"
        if not self.node.exists(f"{folder}/initstate"):  # Built-in code has a folder, too.
            return None
        own, foreign = self.devices()
        return Loaded(
            self.node.read(f"{folder}/srcversion"), self.node.number(f"{folder}/refcnt", 0), own, foreign
        )

    def devices(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the primaries of the module's kind: ours, which are in this namespace, and others."""
        own: list[str] = []
        foreign: list[str] = []
        for link in netlink.links_of_kind(self.name):
            if link.primary:
                (own if link.alias.startswith(link_kinds.ALIAS) else foreign).append(link.name)
        for path in netns.others():
            with contextlib.suppress(FileNotFoundError), netns.entered(path):  # It may have gone meanwhile.
                foreign += [
                    f"{link.name} in {path}" for link in netlink.links_of_kind(self.name) if link.primary
                ]
        return tuple(own), tuple(foreign)

    def info(self, module: str, kernel: str) -> dict[str, str]:
        """Return modinfo's fields of a module, by name as modprobe would take it or by path."""
        return facts.module_info(self.node.tool("modinfo"), module, kernel)

    def write_autoload(self) -> None:
        """Have the module loaded at boot."""
        write_file(autoload_file(self.name), f"{autoload_text(self.name)}\n".encode())

    def load(self) -> None:
        """Load the installed module."""
        status, said = self.run("modprobe", self.name)
        if status:
            raise ModuleError(explain_refusal(self.name, said, self.node.security(self.certificate)), said)

    def unload(self) -> None:
        """Unload the module; the caller has seen that nothing uses it."""
        status, said = self.run("modprobe", "-r", self.name)
        if status:
            raise ModuleError(f"modprobe -r {self.name} failed: {said.strip()}", said)

    def remove_own_devices(self) -> None:
        """Remove the devices of this collection; refuse where another one has come meanwhile."""
        for link in netlink.links_of_kind(self.name):
            if link.primary and link.alias.startswith(link_kinds.ALIAS):
                netlink.delete_link(link.index)
        dummy, foreign = self.devices()
        if foreign:
            raise ModuleError(
                f"a device that is not of this collection came meanwhile ({', '.join(foreign)}), so the "
                f"older {self.name} stays loaded; the Pods' devices were removed: run the role pods"
            )

    def bring_in(self, steps: Plan, srcversion: str) -> Loaded | None:
        """Load or reload the installed module as planned; return what is loaded then."""
        if steps.wants("reload"):
            self.remove_own_devices()
            self.unload()
        if steps.wants("load", "reload"):
            self.load()
        loaded = self.loaded()
        if steps.changes and loaded and loaded.srcversion != srcversion:
            raise ModuleError(
                f"modprobe {self.name} loaded {loaded.srcversion}, but {srcversion} is installed: "
                f"see modprobe --show-depends {self.name}"
            )
        return loaded

    def bring_back(self, former: Loaded | None) -> None:
        """Have loaded what was, its files being in their place again."""
        now = self.loaded()
        if now is not None and not now.used and (former is None or now.srcversion != former.srcversion):
            self.run("modprobe", "-r", self.name)
            now = None
        if former is not None and now is None:
            self.run("modprobe", self.name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second run from changing the same module."""
        with open(f"{LOCKS}/podnet-module-{self.name}.lock", "w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ModuleError(
                    f"another run changes {self.name} on this node: wait for its end, and run again"
                ) from None
            yield
