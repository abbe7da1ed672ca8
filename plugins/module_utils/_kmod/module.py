# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read which build of a kernel module a node runs, and load another one.

Sources: modprobe(8), modinfo(8), Documentation/ABI/testing/sysfs-module.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

from .._core import lock
from .._core.command import SEARCH_PATH
from .._core.plan import Problem
from .._kernel import link_kinds, netlink, netns
from .._node import facts
from .files import write_file
from .loading import KmodPlan, Loaded, ModuleError, autoload_file, autoload_text, explain_refusal

LOCKS = "/run/podnet"


class Kmod:
    """One kernel module of this node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.node = facts.Node()
        self.running = os.uname().release
        self.warnings: list[str] = []
        # The certificate that the module is signed for, see Node.security(). The default is that of DKMS.
        self.certificate: str | None = None

    def run(self, *command: str) -> tuple[int, str]:
        """Run a command in the C locale; return its exit status and its output."""
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C", "PATH": ":".join(SEARCH_PATH)},
            text=True,
            errors="replace",
            check=False,
        )
        return answer.returncode, answer.stdout

    def loaded(self) -> Loaded | None:
        """Return the loaded module, ``None`` if it is not loaded."""
        folder = f"/sys/module/{self.name}"
        if not self.node.exists(f"{folder}/initstate"):  # Built-in code has the directory as well.
            return None
        managed, foreign = self.devices()
        return Loaded(
            self.node.read(f"{folder}/srcversion"), self.node.number(f"{folder}/refcnt", 0), managed, foreign
        )

    def devices(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the primary devices of the module's kind: managed ones, and others in any namespace."""
        managed: list[str] = []
        foreign: list[str] = []
        for link in netlink.links_of_kind(self.name):
            if link.primary:
                (managed if link.alias.startswith(link_kinds.ALIAS) else foreign).append(link.name)
        for path in netns.others():
            with contextlib.suppress(FileNotFoundError), netns.entered(path):  # It may be gone.
                foreign += [
                    f"{link.name} in {path}" for link in netlink.links_of_kind(self.name) if link.primary
                ]
        return tuple(managed), tuple(foreign)

    def info(self, module: str, kernel: str) -> dict[str, str]:
        """Return modinfo's fields of a module, by the name for modprobe or by path."""
        return facts.module_info(self.node.tool("modinfo"), module, kernel)

    def write_autoload(self) -> None:
        """Configure the module to be loaded at boot."""
        write_file(autoload_file(self.name), f"{autoload_text(self.name)}\n".encode())

    def load(self) -> None:
        """Load the installed module."""
        status, output = self.run("modprobe", self.name)
        if status:
            raise ModuleError(
                explain_refusal(self.name, output, self.node.security(self.certificate)), output
            )

    def unload(self) -> None:
        """Unload the module, which nothing uses."""
        status, output = self.run("modprobe", "-r", self.name)
        if status:
            raise ModuleError(f"modprobe -r {self.name} failed: {output.strip()}", output)

    def remove_managed_devices(self) -> None:
        """Remove managed devices; raises ``ModuleError`` if an unmanaged device has appeared."""
        for link in netlink.links_of_kind(self.name):
            if link.primary and link.alias.startswith(link_kinds.ALIAS):
                netlink.delete_link(link.index)
        dummy, foreign = self.devices()
        if foreign:
            raise ModuleError(
                f"an unmanaged device has appeared ({', '.join(foreign)}), so the older {self.name} stays"
                f" loaded and "
                "the devices of Pods are removed: run the role pods to create them again"
            )

    def load_planned(self, plan: KmodPlan, srcversion: str) -> Loaded | None:
        """Load or reload the installed module as planned; return the loaded module."""
        if plan.wants("reload"):
            self.remove_managed_devices()
            self.unload()
        if plan.wants("load", "reload"):
            self.load()
        loaded = self.loaded()
        if plan.steps and loaded and loaded.srcversion != srcversion:
            raise ModuleError(
                f"modprobe {self.name} loaded {loaded.srcversion}, but {srcversion} is installed: "
                f"see modprobe --show-depends {self.name}"
            )
        return loaded

    def restore(self, former: Loaded | None) -> None:
        """Load the former module again, after its files were restored."""
        now = self.loaded()
        if now is not None and not now.used and (former is None or now.srcversion != former.srcversion):
            self.run("modprobe", "-r", self.name)
            now = None
        if former is not None and now is None:
            self.run("modprobe", self.name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a lock, so that no second run changes the same module."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(lock.locked(f"{LOCKS}/module-{self.name}.lock", timeout=0))
            except Problem as problem:
                raise ModuleError(f"{self.name}: {problem}") from None
            yield
