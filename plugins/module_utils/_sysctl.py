# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sysctls: names, the plan for a batch of them, the TCP window scale, and the files that set them.

Private to this collection. A key is kept as its path below /proc/sys (``net/ipv4/conf/eth0.100/forwarding``)
and shown as sysctl.d(5) writes it (``net.ipv4.conf.eth0/100.forwarding``).

Sources: sysctl.d(5), sysctl(8), Documentation/networking/ip-sysctl.rst; tcp_select_initial_window() of
net/ipv4/tcp_output.c; inet_forward_change() of net/ipv4/devinet.c; addrconf_fixup_forwarding() of
net/ipv6/addrconf.c.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils._plan import (
    Change,
    DropIn,
    Problem,
    diff,
    reason,
    suggestion,
)

MARKER = "# Written by podnet.datapath.sysctl_zc: changes made here are lost."

TCP_RMEM, TCP_WMEM = "net/ipv4/tcp_rmem", "net/ipv4/tcp_wmem"
RMEM_MAX = "net/core/rmem_max"
WINDOW_SCALING = "net/ipv4/tcp_window_scaling"
IP_FORWARD, FORWARDING4 = "net/ipv4/ip_forward", "net/ipv4/conf/all/forwarding"
FORWARDING6 = "net/ipv6/conf/all/forwarding"

MAX_SCALE = 14  # RFC 7323, TCP_MAX_WSCALE
_INT_MAX = 2**31 - 1

# Where files are read from, by their names over all folders; of two of one name the first folder's counts.
FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
# Not read at boot by systemd, but read last of all by `sysctl --system`.
LAST_FILE = "/etc/sysctl.conf"

# What writing one key changes besides: the kernel passes it on to every interface.
_REACH = {
    IP_FORWARD: (FORWARDING4, "net/ipv4/conf/*/forwarding", "net/ipv4/conf/all/accept_redirects"),
    FORWARDING4: (IP_FORWARD, "net/ipv4/conf/*/forwarding", "net/ipv4/conf/all/accept_redirects"),
    FORWARDING6: ("net/ipv6/conf/*/forwarding",),
    "net/ipv6/conf/all/disable_ipv6": ("net/ipv6/conf/*/disable_ipv6",),
}


# Names and values


def path_of(key: str) -> str:
    """Return a key's path below /proc/sys: dots separate, unless the first separator is a slash.

    Raises ``ValueError`` for what cannot be a key.
    """
    separators = [character for character in key if character in "./"]
    path = key.translate(str.maketrans("./", "/.")) if separators[:1] == ["."] else key
    parts = path.split("/")
    if len(parts) < 2 or any(part in ("", ".", "..") or not part.isprintable() for part in parts):
        raise ValueError(key)
    if any(character.isspace() or character in "=*?[]#;" for character in path):
        raise ValueError(key)
    return path


def name_of(path: str) -> str:
    """Return the usual name of a path below /proc/sys."""
    return path.translate(str.maketrans("./", "/."))


def normal(value: str) -> str:
    """Return a value with single blanks, as values are compared."""
    return " ".join(value.split())


def parse(sysctls: Mapping[str, object]) -> dict[str, str]:
    """Return the values asked for by path.

    Raises ``Problem`` with every key or value that cannot be.
    """
    values: dict[str, str] = {}
    spelled: dict[str, str] = {}
    problems = []
    for key, value in sysctls.items():
        try:
            path = path_of(key)
        except ValueError:
            problems.append(f"sysctls: {key!r} is no name of a sysctl: write it as net.ipv4.ip_forward")
            continue
        if isinstance(value, bool):
            value = int(value)
        if not isinstance(value, (int, str)) or "\n" in str(value).strip():
            problems.append(f"sysctls: {key}: {value!r} is neither a number nor one line of text")
            continue
        text = normal(str(value))
        if values.setdefault(path, text) != text:
            problems.append(
                f"sysctls: {key}: {text} and {spelled[path]}: {values[path]} are the same key: keep one"
            )
        spelled.setdefault(path, key)
    if problems:
        raise Problem("\n".join(problems))
    return values


def order(path: str) -> tuple[int, str]:
    """Sort keys so that a key that the kernel passes on to others comes before these."""
    for rank, part in enumerate((IP_FORWARD, "/conf/all/", "/conf/default/")):
        if part in path:
            return rank, path
    return 3, path


# The window scale


def window_scale(tcp_rmem_max: int, rmem_max: int) -> int:
    """Return the scale that the kernel picks for a new connection, by tcp_select_initial_window().

    Both arguments in bytes. A socket that sets SO_RCVBUF itself may get a smaller one.
    """
    space = min(max(tcp_rmem_max, rmem_max), 65535 << MAX_SCALE)
    return min(max(space.bit_length() - 1 - 15, 0), MAX_SCALE)


def window_bounds(scale: int) -> tuple[int, int]:
    """Return the smallest and largest number of bytes that give ``scale``."""
    low = 1 << (15 + scale) if scale else 1
    high = (1 << (16 + scale)) - 1 if scale < MAX_SCALE else _INT_MAX
    return low, high


def _numbers(name: str, value: str, count: int) -> list[int]:
    """Return the numbers in a value; raises ``Problem`` where it is not ``count`` of them."""
    try:
        numbers = [int(word) for word in value.split()]
    except ValueError:
        numbers = []
    if len(numbers) != count or any(not 0 <= number <= _INT_MAX for number in numbers):
        raise Problem(f"sysctls: {name}: {value!r} is not {count} number(s) of bytes")
    return numbers


def solve_window(scale: int, desired: Mapping[str, str], current: Mapping[str, str]) -> dict[str, str]:
    """Return the further values with which the kernel picks ``scale``, for any current ones.

    What fits already is kept: a tcp_rmem within the scale's bounds, a larger tcp_wmem. The sender's
    buffer is made as large as the window that it may have to fill. Nothing is chosen for keys in
    ``desired``; net.core.rmem_max, which other programs rely on, is never chosen.

    ``current`` must hold both tcp_*mem; rmem_max counts as 0 where it is missing.
    Raises ``Problem`` where the scale cannot be had with what is asked for besides.
    """
    if not 0 <= scale <= MAX_SCALE:
        raise Problem(f"window_scale: {scale} is not between 0 and {MAX_SCALE}")
    low, high = window_bounds(scale)
    if desired.get(WINDOW_SCALING, "1") == "0":
        raise Problem(f"window_scale: {scale} needs {name_of(WINDOW_SCALING)} 1, but sysctls has 0")

    (rmem_max,) = _numbers(name_of(RMEM_MAX), desired.get(RMEM_MAX, current.get(RMEM_MAX, "0")), 1)
    if rmem_max > high:
        picked = window_scale(0, rmem_max)
        remedy = f"ask for window_scale {picked}, or set {name_of(RMEM_MAX)} in sysctls to {high} at most"
        raise Problem(
            f"window_scale: {name_of(RMEM_MAX)} is to be {rmem_max}, which gives {picked}: {remedy}"
            if RMEM_MAX in desired
            else f"window_scale: {name_of(RMEM_MAX)} is {rmem_max}, with which the kernel picks {picked},"
            f" whatever {name_of(TCP_RMEM)} is: {remedy} (other programs may rely on it)"
        )

    solved = {WINDOW_SCALING: "1"}
    if TCP_RMEM in desired:
        largest = _numbers(name_of(TCP_RMEM), desired[TCP_RMEM], 3)[2]
        picked = window_scale(largest, rmem_max)
        if picked != scale:
            raise Problem(
                f"window_scale: {name_of(TCP_RMEM)} {desired[TCP_RMEM]!r} in sysctls gives {picked}, not"
                f" {scale}: leave it out, or make its last number {low} to {high}"
            )
    else:
        minimum, default, largest = _numbers(name_of(TCP_RMEM), current[TCP_RMEM], 3)
        if not low <= largest <= high:
            largest = low if scale else high
        solved[TCP_RMEM] = f"{min(minimum, largest)} {min(default, largest)} {largest}"
    if TCP_WMEM not in desired:
        minimum, default, most = _numbers(name_of(TCP_WMEM), current[TCP_WMEM], 3)
        solved[TCP_WMEM] = f"{minimum} {default} {max(most, largest)}"
    return {path: value for path, value in solved.items() if path not in desired}


# The plan


def plan(current: Mapping[str, str], desired: Mapping[str, str]) -> list[Change]:
    """Return what is to be written, in the order of writing."""
    return [
        Change(name_of(path), normal(current[path]), desired[path])
        for path in sorted(desired, key=order)
        if normal(current[path]) != desired[path]
    ]


def steps(changes: Iterable[Change], desired: Mapping[str, str]) -> list[str]:
    """Return the paths to write, in order: the changed ones, and those that a change would pass over.

    With ip_forward switched on, an interface that is to stay without forwarding has to be written again.
    """
    changed = {path_of(change.name) for change in changes}
    reached: list[str] = []
    found = []
    for path in sorted(desired, key=order):
        if path in changed or any(fnmatch.fnmatchcase(path, pattern) for pattern in reached):
            found.append(path)
            reached += _REACH.get(path, ())
    return found


def render(desired: Mapping[str, str]) -> str:
    """Return the text of the drop-in file."""
    lines = [f"{name_of(path)} = {desired[path]}" for path in sorted(desired, key=order)]
    return "\n".join([MARKER, *lines, ""])


# Other files that set the same keys


@dataclass(frozen=True)
class Writer:
    """An assignment in a file that is none of ours. ``wins``: it is read after our file."""

    file: str
    path: str
    value: str
    wins: bool

    def as_dict(self) -> dict[str, object]:
        """Return it as the module returns it."""
        return {"file": self.file, "key": name_of(self.path), "value": self.value, "wins": self.wins}


def assignments(text: str) -> Iterator[tuple[str, str]]:
    """Yield path (or pattern) and value of each assignment in a file of sysctl.d."""
    for line in text.splitlines():
        key, separator, value = line.strip().partition("=")
        key = key.strip()
        if not separator or key[:1] in ("#", ";"):
            continue
        key = key[1:] if key.startswith("-") else key  # "-": errors do not matter
        first = next((character for character in key if character in "./"), "/")
        yield (key if first == "/" else key.translate(str.maketrans("./", "/."))), normal(value)


def files(root: str = "/") -> list[str]:
    """Return the files that set sysctls, in the order of reading."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for path in glob.glob(os.path.join(root, folder.lstrip("/"), "*.conf")):
            found.setdefault(os.path.basename(path), path)
    last = os.path.join(root, LAST_FILE.lstrip("/"))
    ordered = [
        found[name] for name in sorted(found) if os.path.realpath(found[name]) != os.path.realpath(last)
    ]
    return ordered + ([last] if os.path.exists(last) else [])


def writers(wanted: Mapping[str, str], own: str, root: str = "/") -> list[Writer]:
    """Return the assignments of other files to the keys in ``wanted`` that differ from it."""
    found = []
    for file in files(root):
        if os.path.realpath(file) == os.path.realpath(own):
            continue
        try:
            with open(file, encoding="utf-8", errors="replace") as opened:
                text = opened.read()
        except OSError:
            continue
        shown = "/" + os.path.relpath(file, root)
        wins = not own or shown == LAST_FILE or os.path.basename(file) > os.path.basename(own)
        for pattern, value in assignments(text):
            for path in fnmatch.filter(wanted, pattern):
                if value != wanted[path]:
                    found.append(Writer(shown, path, value, wins))
    return found


def writer_warnings(found: Iterable[Writer], own: str) -> list[str]:
    """Return a sentence for each assignment that undoes ours."""
    warnings = []
    for writer in found:
        if writer.wins and own:
            when = "by `sysctl --system`" if writer.file == LAST_FILE else "at boot"
            warnings.append(
                f"{writer.file} sets {name_of(writer.path)} = {writer.value} and is read after {own} {when}:"
                " remove it there"
            )
    return warnings


# A router that would be lost


def learned_routers(ipv6_route: str) -> set[str]:
    """Return the interfaces whose default route the kernel learned from a router advertisement.

    ``ipv6_route`` is the text of /proc/net/ipv6_route; RTF_DEFAULT marks such a route (linux/ipv6_route.h).
    """
    found = set()
    for line in ipv6_route.splitlines():
        words = line.split()
        if len(words) == 10 and words[1] == "00" and int(words[8], 16) & 0x10000:
            found.add(words[9])
    return found


# The kernel


class Tree:
    """The sysctls of the running kernel, as this process's network namespace sees them."""

    root = "/proc/sys"

    def _file(self, path: str) -> str:
        return os.path.join(self.root, path)

    def read(self, path: str) -> str:
        """Return a value; raises ``OSError``."""
        with open(self._file(path), encoding="utf-8", errors="replace") as file:
            return normal(file.read())

    def write(self, path: str, value: str) -> None:
        """Write a value; raises ``OSError``, which is how the kernel refuses one."""
        descriptor = os.open(self._file(path), os.O_WRONLY)
        try:
            os.write(descriptor, f"{value}\n".encode())  # One write: each is a new value to the kernel.
        finally:
            os.close(descriptor)

    def exists(self, path: str) -> bool:
        """Tell whether the kernel has this key."""
        return os.path.isfile(self._file(path))

    def writable(self, path: str) -> bool:
        """Tell whether this process may write it."""
        return os.access(self._file(path), os.W_OK)

    def names(self, below: str) -> Iterator[str]:
        """Yield the names of all keys below a folder."""
        for folder, folders, names in os.walk(self._file(below)):
            folders.sort()
            for name in sorted(names):
                yield name_of(os.path.relpath(os.path.join(folder, name), self.root))

    def matching(self, pattern: str) -> list[str]:
        """Return the paths of all keys that match a pattern."""
        return [os.path.relpath(path, self.root) for path in glob.glob(self._file(pattern))]

    def current(self, paths: Iterable[str]) -> dict[str, str]:
        """Return the values of keys.

        Raises ``Problem`` with every key that is unknown or cannot be read.
        """
        values = {}
        problems = []
        for path in sorted(paths):
            if not self.exists(path):
                top = path.split("/")[0]
                near = suggestion(name_of(path), self.names(top if os.path.isdir(self._file(top)) else ""))
                problems.append(
                    f"sysctls: this kernel has no {name_of(path)}"
                    + (near or "; if a kernel module brings it, load that first")
                )
                continue
            try:
                values[path] = self.read(path)
            except OSError as error:
                problems.append(f"sysctls: {name_of(path)} cannot be read: {reason(error)}")
        if problems:
            raise Problem("\n".join(problems))
        return values

    def apply(self, changes: Iterable[Change], desired: Mapping[str, str]) -> dict[str, str]:
        """Write the changes, read them back, and return what everything touched was before.

        Raises ``Problem`` where the kernel refuses a value or keeps another; what was written before,
        and what that changed besides, has its former value then.
        """
        written = steps(changes, desired)
        touched = set(written)
        for path in written:
            for pattern in _REACH.get(path, ()):
                touched.update(self.matching(pattern))
        former = {path: self.read(path) for path in touched}
        path = ""
        try:
            for path in written:
                self.write(path, desired[path])
            kept = {path: self.read(path) for path in sorted(desired)} if written else {}
        except OSError as error:
            raise Problem(
                f"sysctls: the kernel refuses {name_of(path)} = {desired[path]}: {reason(error)}."
                f" {self.restore(former)}"
            ) from None
        clamped = [
            f"sysctls: the kernel accepted {name_of(path)} = {desired[path]}, but made it {value!r}:"
            " ask for a value within its limits"
            for path, value in kept.items()
            if value != desired[path]
        ]
        if clamped:
            raise Problem("\n".join([*clamped, self.restore(former)]))
        return former

    def restore(self, former: Mapping[str, str]) -> str:
        """Bring keys back to their former values; return a sentence on how that went."""
        failed = []
        present = {path: self.read(path) for path in former if self.exists(path)}
        wanted = {path: former[path] for path in present}
        for path in steps(plan(present, wanted), wanted):
            try:
                self.write(path, wanted[path])
            except OSError as error:
                failed.append(f"{name_of(path)} = {wanted[path]} ({reason(error)})")
        return f"Not put back: {', '.join(failed)}." if failed else "Every sysctl has its former value."


# The whole


@dataclass
class Outcome:
    """What the module returns."""

    result: dict[str, Any]
    warnings: list[str]


def _forwarding_problems(tree: Tree, current: Mapping[str, str], desired: Mapping[str, str]) -> list[str]:
    """Return why IPv6 forwarding must not be switched on yet: a learned default route would expire."""
    if desired.get(FORWARDING6, "0") == "0" or current[FORWARDING6] != "0":
        return []
    with open("/proc/net/ipv6_route", encoding="utf-8") as file:
        interfaces = learned_routers(file.read())
    problems = []
    for interface in sorted(interfaces):
        path = f"net/ipv6/conf/{interface}/accept_ra"
        if tree.exists(path) and desired.get(path, tree.read(path)) == "1":
            problems.append(
                f"sysctls: {name_of(FORWARDING6)} = {desired[FORWARDING6]} makes the kernel ignore router"
                f" advertisements on {interface}, which has its default route from one: set"
                f" {name_of(path)} to 2 as well"
            )
    return problems


def _write_problems(tree: Tree, changes: Iterable[Change]) -> list[str]:
    """Return which changes cannot be written at all."""
    return [
        f"sysctls: {change.name} is read-only here (it is {change.before}): run as root (become), outside of"
        " a container, and in the initial network namespace if the key is global"
        for change in changes
        if not tree.writable(path_of(change.name))
    ]


def _desired(
    tree: Tree, sysctls: Mapping[str, object], scale: int | None
) -> tuple[dict[str, str], list[str]]:
    """Return all values asked for, those that the window scale needs among them, and warnings."""
    desired = parse(sysctls)
    tree.current(desired)  # Names what the kernel does not have before anything is solved.
    if scale is None:
        return desired, []
    warnings = []
    basis = tree.current({TCP_RMEM, TCP_WMEM})
    if tree.exists(RMEM_MAX):
        basis[RMEM_MAX] = tree.read(RMEM_MAX)
    else:
        warnings.append(
            f"{name_of(RMEM_MAX)} cannot be seen in this network namespace: if the node's is above"
            f" {window_bounds(min(max(scale, 0), MAX_SCALE))[1]}, the window scale will not be {scale}"
        )
    return {**desired, **solve_window(scale, desired, basis)}, warnings


def _scale_warnings(scale: int, own: str, root: str) -> list[str]:
    """Return a sentence for each file that will break the window scale at the next boot."""
    high = window_bounds(scale)[1]
    return [
        f"{writer.file} sets {name_of(RMEM_MAX)} = {writer.value}, with which the window scale will not be"
        f" {scale} after a boot: make it {high} at most there"
        for writer in writers({RMEM_MAX: ""}, own, root)
        if writer.value.isdecimal() and int(writer.value) > high
    ]


def _present(params: Mapping[str, Any], root: str) -> tuple[dict[str, str], list[Change], Outcome]:
    """Return the values asked for, the changes that lead there, and what is known of other files."""
    tree, scale, own = Tree(), params["window_scale"], params["file"]
    desired, warnings = _desired(tree, params["sysctls"], scale)
    current = tree.current(desired)
    changes = plan(current, desired)
    problems = _write_problems(tree, changes) + _forwarding_problems(tree, current, desired)
    if problems:
        raise Problem("\n".join(problems))
    others = writers(desired, own, root)
    warnings += writer_warnings(others, own)
    if scale is not None and RMEM_MAX not in desired:
        warnings += _scale_warnings(scale, own, root)
    return desired, changes, Outcome({"other_writers": [writer.as_dict() for writer in others]}, warnings)


def run(params: Mapping[str, Any], check: bool, root: str = "/") -> Outcome:
    """Do what the module's options say; ``root`` is where other files are looked for.

    Raises ``Problem``; then neither the kernel nor the file has changed.
    """
    own = params["file"]
    desired: dict[str, str] = {}
    changes: list[Change] = []
    outcome = Outcome({"other_writers": []}, [])
    if own and not (os.path.isabs(own) and own.endswith(".conf")):
        raise Problem(
            f"file: {own!r} is not an absolute path that ends in .conf; only such files are read at boot"
        )
    if params["state"] == "absent":
        if not own:
            raise Problem("state: absent removes the file, but file is empty")
    else:
        desired, changes, outcome = _present(params, root)
    outcome.result.update(
        changed=bool(changes),
        changes=[change.as_dict() for change in changes],
        values={name_of(path): desired[path] for path in sorted(desired, key=order)},
        diff=[diff("running sysctls", changes)] if changes else [],
    )

    tree = Tree()
    if not own:
        if not check:
            tree.apply(changes, desired)
        return outcome
    drop_in = DropIn(own, MARKER)
    before, after = drop_in.read(), render(desired) if desired else None
    if before != after:
        drop_in.check_writable()
        outcome.result["changed"] = True
        outcome.result["diff"].append(
            {"before_header": own, "after_header": own, "before": before or "", "after": after or ""}
        )
    if not check:
        former = tree.apply(changes, desired)
        if before != after:
            try:
                drop_in.write(after)
            except OSError as error:
                raise Problem(f"{own} cannot be written: {reason(error)}. {tree.restore(former)}") from None
    return outcome
