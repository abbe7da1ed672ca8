# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""GRUB with a generated grub.cfg, as on Debian: a drop-in file and update-grub or grub-mkconfig.

Sources: GRUB's manual, "Simple configuration handling"; Debian's grub-mkconfig, which reads
/etc/default/grub.d/*.cfg after /etc/default/grub.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence

from .._core.command import RunCommand
from .._core.files import DropIn, Metadata, bytes_of, metadata, read_file, stage_file, sync_folder
from .._core.plan import Problem, reason
from .._node.host import Host
from .bootloader import MARKER, Current, Entry, Recorded
from .command_line import missing, words

DROP_IN = "/etc/default/grub.d/zz-podnet.cfg"

_COMING = "# grub.cfg is not generated yet, it has the arguments:"
_GENERATORS = ("update-grub", "grub-mkconfig", "grub2-mkconfig")


def grub_entries(config: str) -> list[Entry]:
    """Return the entries of this system's kernels in a grub.cfg.

    Only the entries that /etc/grub.d/10_* generates have the arguments of /etc/default/grub; other systems,
    memory tests and custom entries are ignored.
    """
    entries = []
    title, generated = "", False
    for line in config.splitlines():
        section = re.match(r"### (BEGIN|END) \S*/(\S+) ###", line)
        if section:
            generated = section.group(1) == "BEGIN" and section.group(2).startswith("10_")
        menu = re.match(r"\s*menuentry\s+'([^']*)'", line) or re.match(r'\s*menuentry\s+"([^"]*)"', line)
        if menu:
            title = menu.group(1)
        kernel = re.match(r"\s*linux(?:16|efi)?\s+(\S+)\s*(.*)", line)
        if kernel and generated:
            entries.append(Entry(title or kernel.group(1), tuple(words(kernel.group(2)))))
    return entries


def render_drop_in(tokens: Sequence[str], former: Sequence[str] | None = None) -> str | None:
    """Return the text of the drop-in file, ``None`` without arguments.

    ``former`` are the arguments in grub.cfg until it is generated again. The file exists until then.
    """
    lines = [] if former is None else [" ".join([_COMING, *former])]
    lines += [f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {" ".join(tokens)}"'] if tokens else []
    return "\n".join([MARKER, *lines, ""]) if lines else None


def parse_drop_in(text: str | None) -> tuple[str, ...]:
    """Return the arguments in the drop-in file."""
    found = re.search(r'^GRUB_CMDLINE_LINUX="\$GRUB_CMDLINE_LINUX (.*)"$', text or "", re.MULTILINE)
    return tuple(found.group(1).split()) if found else ()


def recorded_in(text: str | None) -> Recorded:
    """Return what the drop-in file records: its arguments, and whether grub.cfg has them."""
    tokens = parse_drop_in(text)
    former = re.search(rf"^{_COMING}(.*)$", text or "", re.MULTILINE)
    return Recorded(tuple(former.group(1).split()), tokens) if former else Recorded(tokens)


class Grub:
    """GRUB with a drop-in file below /etc/default/grub.d and a generated grub.cfg."""

    name = "grub"
    file = DROP_IN

    def __init__(self, node: Host, run: RunCommand) -> None:
        self._node, self._run = node, run
        self._drop_in = DropIn(node.path(DROP_IN), MARKER)
        self._tool = next((tool for tool in map(node.tool, _GENERATORS) if tool), "")
        configs = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")[:: -1 if "grub2" in self._tool else 1]
        self._config = next(filter(node.exists, configs), configs[0])

    @staticmethod
    def detect(node: Host) -> bool:
        """Return whether GRUB's settings and a program that generates grub.cfg exist."""
        return node.exists("/etc/default/grub") and any(node.tool(name) for name in _GENERATORS)

    def read(self) -> Current:
        """Return the arguments of the drop-in file and the entries of grub.cfg."""
        try:
            with open(self._node.path(self._config), encoding="utf-8", errors="replace") as file:
                config = file.read()
        except FileNotFoundError:
            config = ""
        except OSError as error:
            raise Problem(f"{self._config} cannot be read: {reason(error)}; run as root (become)") from None
        recorded = recorded_in(self._drop_in.read())
        return Current(recorded.managed, tuple(grub_entries(config)), recorded.interrupted)

    def write(self, tokens: Sequence[str]) -> None:
        """Write the drop-in file, generate grub.cfg, and check that every entry has the arguments."""
        os.makedirs(os.path.dirname(self._drop_in.path), exist_ok=True)
        self._drop_in.check_writable()
        former, kept = self._drop_in.read(), metadata(self._drop_in.path)
        config = os.path.realpath(self._node.path(self._config))
        with _restored_on_failure(config):
            try:
                self._drop_in.write(render_drop_in(tokens, recorded_in(former).tokens))
                self._generate(tokens)
                self._drop_in.write(render_drop_in(tokens))
            except (Problem, OSError) as problem:
                message = f"{problem}\n{DROP_IN} and {self._config} were restored."
                try:
                    if self._drop_in.read() != former:
                        self._drop_in.write(former, kept)
                except OSError as error:
                    message = f"{problem}\n{DROP_IN} was not restored: {reason(error)}"
                raise Problem(message) from None

    def _generate(self, tokens: Sequence[str]) -> None:
        command = self._command()
        code, out, err = self._run(command)
        if code:
            lines = (out + err).strip().splitlines()[-8:]
            raise Problem("\n".join([f"{command[0]} failed with {code}:", *lines]))
        entries = self.read().entries
        if not entries:
            raise Problem(f"{command[0]} wrote no kernel entry to {self._config}: check the kernels in /boot")
        problems = []
        for entry in entries:
            for token, later in missing(tokens, entry.tokens).items():
                problems.append(
                    f"args: {token}: {later} overrides it in the entry {entry.title!r} of {self._config}:"
                    f" remove {later} from GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub or"
                    " /etc/default/grub.d"
                    if later
                    else f"args: {token} is missing in the entry {entry.title!r} of {self._config}:"
                    " /etc/default/grub.d or GRUB_CMDLINE_LINUX is not read, or -- precedes it; check"
                    " /etc/default/grub and /etc/grub.d"
                )
        if problems:
            raise Problem("\n".join(problems))

    def _command(self) -> list[str]:
        """Return the command that generates grub.cfg."""
        command = [self._node.path(self._tool)]
        if self._tool.endswith("update-grub"):
            return command
        return [*command, "-o", self._node.path(self._config)]


@contextlib.contextmanager
def _restored_on_failure(config: str) -> Iterator[None]:
    """Keep a copy of grub.cfg during the block, and restore it from there if the block fails and changed it.

    The copy reserves the space, as a full partition may be the reason of the failure. Raises ``Problem``.
    """
    former = read_file(config)
    partial = f"{config}.new"  # grub-mkconfig writes it first, and leaves it behind if it fails.
    had_partial = os.path.exists(partial)
    copy = ""
    try:
        if former is not None:
            copy = stage_file(config, bytes_of(former), metadata(config) or Metadata())
    except OSError as error:
        raise Problem(
            f"args: {config} cannot be replaced, so nothing was changed: {reason(error)}: free space on its"
            " file system"
        ) from None
    try:
        yield
    except Problem:
        if not had_partial:
            with contextlib.suppress(OSError):
                os.unlink(partial)
        if copy and read_file(config) != former:
            os.replace(copy, config)
            sync_folder(config)
        raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(copy)
