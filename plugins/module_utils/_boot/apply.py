# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Boot arguments: what is asked for, what entries and running kernel have, and the boot loader between them.

Private to this collection. A boot loader is a class with the methods of ``Bootloader``; everything else is
the same for all of them.

Sources: Documentation/admin-guide/kernel-parameters.rst; GRUB's manual, "Simple configuration handling";
Debian's grub-mkconfig, which reads /etc/default/grub.d/*.cfg after /etc/default/grub.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from .._core.command import RunCommand
from .._core.files import DropIn, replace_file
from .._core.plan import Change, Plan, Problem, Result, diff, reason
from .._node.facts import Node
from .._rollback import journal
from .bls import MARKER, Current, Entry, Grubby, SystemdBoot

DROP_IN = "/etc/default/grub.d/zz-podnet.cfg"
# What earlier runs took away and the running kernel still has: /run is emptied when that changes.
LEFT_OVER = "/run/podnet/boot_args"

# Passes unharmed through the shell that reads GRUB's settings and the script language of grub.cfg.
_SAFE = re.compile(r"[A-Za-z0-9_.,:=/@%+~-]+")
# Arguments that may be given several times, each of which counts.
_REPEATED = frozenset({"console", "earlycon", "hugepages", "hugepagesz", "memmap"})

_NO_IOMMU = (
    "devices can read and write all memory, and VFIO and SR-IOV for guests no longer work;"
    " iommu=pt keeps both and costs little"
)
_NO_INIT = "memory that the kernel hands out is not cleared, so bugs leak its former contents"
_COSTS = {
    "iommu": ("off", _NO_IOMMU),
    "intel_iommu": ("off", _NO_IOMMU),
    "amd_iommu": ("off", _NO_IOMMU),
    "init_on_alloc": ("0", _NO_INIT),
}
_FALSE = re.compile(r"0|n|f|off", re.IGNORECASE)  # kstrtobool()


class Bootloader(Protocol):
    """What is to be known of a boot loader."""

    name: str
    file: str  # where the arguments are kept

    def read(self) -> Current:
        """Return what it has; raises ``Problem``."""

    def write(self, tokens: Sequence[str]) -> None:
        """Have ``tokens`` in every entry, in place of those of the last time.

        Raises ``Problem``; nothing has changed then.
        """


# Arguments


def parse(args: object) -> list[str]:
    """Return the arguments asked for, as on a command line; raises ``Problem``."""
    if isinstance(args, dict):
        pairs = list(args.items())
    elif isinstance(args, list):
        pairs = [(token, None) for token in args]
    else:
        raise Problem(f"args: {args!r} is neither a dictionary nor a list")
    tokens: list[str] = []
    problems = []
    for name, value in pairs:
        if isinstance(value, (bool, dict, list)):
            problems.append(f"args: {name}: {value!r} is no value: write it as a string, such as '1'")
            continue
        token = str(name) if value is None else f"{name}={value}"
        if not _SAFE.fullmatch(token) or token.startswith("="):
            problems.append(
                f"args: {token!r} has blanks, quotes or other characters that do not reach the kernel"
                " unharmed: letters, digits and _.,:=/@%+~- do"
            )
        elif token not in tokens:
            tokens.append(token)
    if problems:
        raise Problem("\n".join(problems))
    return tokens


def costs(tokens: Iterable[str]) -> dict[str, str]:
    """Return what arguments cost in safety, for those that cost some."""
    found = {}
    for token in tokens:
        name, value = [*token.split("=", 1), ""][:2]
        bad, cost = _COSTS.get(name, ("", ""))
        words = value.split(",")
        if bad and (bad in words or (bad == "0" and _FALSE.match(value))):
            found[token] = cost
    return found


def lacking(tokens: Sequence[str], line: Sequence[str]) -> dict[str, str]:
    """Return which of ``tokens`` a command line lacks, each with the later one that undoes it, if any."""
    last = {token.partition("=")[0]: token for token in line}
    found = {}
    for token in tokens:
        name = token.partition("=")[0]
        if token not in line:
            found[token] = ""
        elif name not in _REPEATED and last[name] not in tokens:
            found[token] = last[name]
    return found


def stale(former: Iterable[str], staying: Iterable[str], running: Iterable[str]) -> list[str]:
    """Return the arguments that the running kernel has from us and will not have after a boot."""
    return sorted(({*former} - {*staying}) & {*running})


def foreign(current: Current) -> set[str]:
    """Return the arguments in entries that come from elsewhere than this module."""
    ours = Counter(current.own)
    return {token for entry in current.entries for token in Counter(entry.tokens) - ours}


def iommu_users(node: Node) -> list[str]:
    """Return what on a node does not work without an IOMMU: devices of VFIO, and virtual functions."""
    drivers = [name for name in node.names("/sys/bus/pci/drivers") if "vfio" in name]
    bound = [
        f"{device} (bound to {driver})"
        for driver in drivers
        for device in node.names(f"/sys/bus/pci/drivers/{driver}")
        if ":" in device
    ]
    virtual = [
        f"{device} (with virtual functions)"
        for device in node.names("/sys/bus/pci/devices")
        if node.number(f"/sys/bus/pci/devices/{device}/sriov_numvfs", 0)
    ]
    return bound + virtual


# The plan


def plan(current: Current, tokens: Sequence[str], file: str) -> list[Change]:
    """Return what is to change: our arguments, or entries that were not made anew since."""
    before, after = " ".join(current.own), " ".join(tokens)
    if before != after:
        return [Change(file, before or None, after or None)]
    return [
        Change(entry.title, " ".join(entry.tokens), f"{' '.join(entry.tokens)} {' '.join(missing)}")
        for entry in current.entries
        for missing in [lacking(tokens, entry.tokens)]
        if missing
    ]


# GRUB


def grub_entries(config: str) -> list[Entry]:
    """Return the entries for this system's kernels in a grub.cfg.

    What other parts of /etc/grub.d add (other systems, memory tests, own entries) does not take arguments
    from /etc/default/grub.
    """
    entries = []
    title, ours = "", False
    for line in config.splitlines():
        section = re.match(r"### (BEGIN|END) \S*/(\S+) ###", line)
        if section:
            ours = section.group(1) == "BEGIN" and section.group(2).startswith("10_")
        menu = re.match(r"\s*menuentry\s+'([^']*)'", line) or re.match(r'\s*menuentry\s+"([^"]*)"', line)
        if menu:
            title = menu.group(1)
        kernel = re.match(r"\s*linux(?:16|efi)?\s+(\S+)\s*(.*)", line)
        if kernel and ours:
            entries.append(Entry(title or kernel.group(1), tuple(kernel.group(2).split())))
    return entries


def grub_text(tokens: Sequence[str]) -> str | None:
    """Return the text of our drop-in, none where there is nothing to add."""
    if not tokens:
        return None
    return f'{MARKER}\nGRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {" ".join(tokens)}"\n'


def grub_tokens(text: str | None) -> tuple[str, ...]:
    """Return the arguments in our drop-in."""
    found = re.search(r'^GRUB_CMDLINE_LINUX="\$GRUB_CMDLINE_LINUX (.*)"$', text or "", re.MULTILINE)
    return tuple(found.group(1).split()) if found else ()


class Grub:
    """GRUB as Debian sets it up: a drop-in file, and a program that writes grub.cfg anew."""

    name = "grub"
    file = DROP_IN

    def __init__(self, node: Node, run: RunCommand) -> None:
        self._node, self._run = node, run
        self._drop_in = DropIn(node.path(DROP_IN), MARKER)
        self._config = next(
            (path for path in ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg") if node.exists(path)),
            "/boot/grub/grub.cfg",
        )

    def read(self) -> Current:
        """Return our arguments and GRUB's entries."""
        try:
            with open(self._node.path(self._config), encoding="utf-8", errors="replace") as file:
                config = file.read()
        except FileNotFoundError:
            config = ""
        except OSError as error:
            raise Problem(f"{self._config} cannot be read: {reason(error)}; run as root (become)") from None
        return Current(grub_tokens(self._drop_in.read()), tuple(grub_entries(config)))

    def _command(self) -> list[str]:
        """Return the command that writes grub.cfg anew."""
        update = self._node.tool("update-grub")
        if update:
            return [self._node.path(update)]
        make = self._node.tool("grub-mkconfig") or self._node.tool("grub2-mkconfig")
        return [self._node.path(make), "-o", self._node.path(self._config)]

    def write(self, tokens: Sequence[str]) -> None:
        """Write the drop-in, have grub.cfg written anew, and look whether every entry has the arguments."""
        os.makedirs(os.path.dirname(self._drop_in.path), exist_ok=True)
        self._drop_in.check_writable()
        config = self._node.path(self._config)
        former, former_config, mode = self._drop_in.read(), b"", 0o444
        if os.path.exists(config):
            with open(config, "rb") as file:
                former_config, mode = file.read(), os.stat(config).st_mode & 0o777
        try:
            self._drop_in.write(grub_text(tokens))
            self._generate(tokens)
        except (Problem, OSError) as problem:
            self._drop_in.write(former)
            if former_config:
                replace_file(config, former_config, mode)
            raise Problem(f"{problem}\n{DROP_IN} and {self._config} are as they were.") from None

    def _generate(self, tokens: Sequence[str]) -> None:
        command = self._command()
        code, out, err = self._run(command)
        if code:
            lines = (out + err).strip().splitlines()[-8:]
            raise Problem("\n".join([f"{command[0]} failed with {code}:", *lines]))
        entries = self.read().entries
        if not entries:
            raise Problem(f"{command[0]} left no entry of a kernel in {self._config}: are kernels in /boot?")
        problems = []
        for entry in entries:
            for token, later in lacking(tokens, entry.tokens).items():
                problems.append(
                    f"args: {token}: the entry {entry.title!r} of {self._config} has {later} after it, which"
                    " counts: remove that from GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub or"
                    " /etc/default/grub.d"
                    if later
                    else f"args: {token} is not in the entry {entry.title!r} of {self._config}: either"
                    " /etc/default/grub.d or GRUB_CMDLINE_LINUX is not read; look into /etc/grub.d"
                )
        if problems:
            raise Problem("\n".join(problems))


def bootloader(node: Node, run: RunCommand) -> tuple[str, Bootloader | None]:
    """Return the name of a node's boot loader, and what handles it, if anything here does."""
    name = node.bootloader()
    if name == "grubby":
        return name, Grubby(node, run)
    if name == "systemd-boot":
        return name, SystemdBoot(node)
    return name, Grub(node, run) if name == "grub" else None


# The whole


def _recall(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def _remember(path: str, tokens: Iterable[str]) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    replace_file(path, "\n".join([*tokens, ""]).encode())


def run(params: dict[str, Any], check: bool, command: RunCommand, root: str = "/") -> Result:
    """Bring the boot loader's entries to the arguments of the module's options.

    Raises ``Problem``; then nothing has changed.
    """
    tokens = parse(params["args"]) if params["state"] == "present" else []
    risky = costs(tokens)
    if risky and not params["acknowledge_risk"]:
        raise Problem(
            "\n".join(
                f"args: {token}: {cost}: leave it out, or set acknowledge_risk: true"
                for token, cost in risky.items()
            )
        )
    node = Node(root)
    without = [token for token in risky if "iommu" in token]
    if without:
        users = iommu_users(node)
        if users:
            raise Problem(
                f"args: {' '.join(without)}: {', '.join(users)} need the IOMMU:"
                " use iommu=pt, or take that out of use first"
            )
    name, loader = bootloader(node, command)
    if loader is None and tokens:
        raise Problem(
            "args: neither GRUB nor grubby nor systemd-boot is here: pass them where this kernel is started,"
            " or install grub2"
        )

    running = node.read("/proc/cmdline").split()
    current = loader.read() if loader else Current((), ())
    changes = plan(current, tokens, loader.file) if loader else []
    former = [*_recall(node.path(LEFT_OVER)), *current.own]
    left = stale(former, {*tokens, *foreign(current)}, running)
    if changes and loader and not check:
        ours = Change(loader.file, " ".join(current.own) or None, " ".join(tokens) or None)

        def observe() -> list[Change]:
            now = replace(ours, after=" ".join(loader.read().own) or None)
            return [now] if now.before != now.after else []

        with journal.transaction(Plan("boot_args", [ours]), observe):
            loader.write(tokens)
        if left:
            _remember(node.path(LEFT_OVER), left)
    missing = list(lacking(tokens, running))
    values = {
        "changes": [change.as_dict() for change in changes],
        "bootloader": name,
        "args": tokens,
        "missing": missing,
        "stale": left,
        "reboot_required": bool(missing or left),
        "boot_id": node.read("/proc/sys/kernel/random/boot_id"),
    }
    warnings = [f"args: {token}: {cost}" for token, cost in risky.items()]
    return Result(
        bool(changes), values, warnings, [diff(f"boot arguments ({name})", changes)] if changes else []
    )
