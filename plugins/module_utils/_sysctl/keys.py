# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names and values of sysctls.

A key is stored as its path below /proc/sys (``net/ipv4/conf/eth0.100/forwarding``) and shown as in
sysctl.d(5) (``net.ipv4.conf.eth0/100.forwarding``).

Sources: sysctl.d(5), sysctl(8).
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Mapping

from .._core.plan import Problem


def path_of(key: str) -> str:
    """Return a key's path below /proc/sys: dots separate, unless the first separator is a slash.

    Raises ``ValueError`` for an invalid name.
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
    """Return the name of a path below /proc/sys, as in sysctl.d(5)."""
    return path.translate(str.maketrans("./", "/."))


def normalize(value: str) -> str:
    """Return a value with single spaces, for comparison."""
    return " ".join(value.split())


def texts(sysctls: Mapping[str, object]) -> dict[str, str]:
    """Return valid values as text, by name."""
    return {
        key: normalize(str(int(value) if isinstance(value, bool) else value))
        for key, value in sysctls.items()
    }


def parse(sysctls: Mapping[str, object], option: str = "sysctls") -> dict[str, str]:
    """Return the values requested in ``option`` by path; raises ``Problem`` with all errors."""
    values: dict[str, str] = {}
    spelled: dict[str, str] = {}
    problems = []
    for key, value in sysctls.items():
        try:
            path = path_of(key)
        except ValueError:
            problems.append(f"{option}: {key!r} is not a valid sysctl name: use the form net.ipv4.ip_forward")
            continue
        if isinstance(value, bool):
            value = int(value)
        if not isinstance(value, (int, str)) or "\n" in str(value).strip():
            problems.append(f"{option}: {key}: {value!r} is neither a number nor one line of text")
            continue
        text = normalize(str(value))
        if values.setdefault(path, text) != text:
            problems.append(
                f"{option}: {key}: {text} and {spelled[path]}: {values[path]} are the same key: remove one"
            )
        spelled.setdefault(path, key)
    if problems:
        raise Problem("\n".join(problems))
    return values


# Keys with a list of ranges, with a mask of CPUs in hexadecimal words, and with a set of words.
_RANGES = ("/ip_local_reserved_ports", "_cpumask", "_cpulist")
_LARGEST_RANGE = 1 << 16
_MASKS = ("net/core/flow_limit_cpu_bitmap", "net/core/rps_default_mask")
_WORD_SETS = ("net/ipv4/tcp_allowed_congestion_control",)
# Keys in milliseconds and in hundredths of a second that the kernel stores in its own ticks.
_MILLISECONDS = ("_ms", "/icmp/ratelimit", "_unsolicited_report_interval")
_HUNDREDTHS = ("/anycast_delay", "/locktime", "/proxy_delay", "/retrans_time")
_TICKS = (100, 250, 300)  # per second, of kernels that do not have 1000


def same(path: str, first: str, second: str) -> bool:
    """Return whether two values of a key are equal to the kernel, which may print them in another form."""
    if first == second or _canonical(path, first) == _canonical(path, second):
        return True
    if first.isdecimal() and second.isdecimal() and path.endswith(_MILLISECONDS + _HUNDREDTHS):
        return second in _rounded(path, int(first)) or first in _rounded(path, int(second))
    return False


def _rounded(path: str, value: int) -> set[str]:
    """Return what a kernel may show for a written time.

    Sources: msecs_to_jiffies(), clock_t_to_jiffies() and their inverses of kernel/time/time.c.
    """
    if path.endswith(_MILLISECONDS):
        return {str(-(-value * ticks // 1000) * 1000 // ticks) for ticks in _TICKS}
    return {str(value * ticks // 100 * 100 // ticks) for ticks in _TICKS}


def _canonical(path: str, value: str) -> object:
    """Return a value in a form that is equal for equal values.

    Sources: proc_get_long() and proc_do_large_bitmap() of kernel/sysctl.c; proc_tcp_fastopen_key() and
    proc_allowed_congestion_control() of net/ipv4/sysctl_net_ipv4.c.
    """
    if path in _MASKS:
        return int(value.replace(",", "") or "0", 16) if re.fullmatch(r"[0-9a-fA-F,]*", value) else value
    if path in _WORD_SETS:
        return frozenset(value.split())
    if path.endswith("/stable_secret"):
        with contextlib.suppress(ValueError):
            return ipaddress.IPv6Address(value)
    if path.endswith("/tcp_fastopen_key") and re.fullmatch(r"[0-9a-fA-F,-]+", value):
        return [[int(word or "0", 16) for word in key.split("-")] for key in value.split(",")]
    if re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*,?", value) and not value.isdecimal():
        numbers: set[int] = set()
        for part in value.strip(",").split(","):
            begin, dummy, end = part.partition("-")
            if int(end or begin) - int(begin) > _LARGEST_RANGE:
                return value
            numbers.update(range(int(begin), int(end or begin) + 1))
        return frozenset(numbers)
    if re.fullmatch(r"\d+", value) and path.endswith(_RANGES):
        return frozenset({int(value)})
    words = value.split()
    if words and all(re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)", word) for word in words):
        return tuple(map(_number, words))
    return value


def _number(word: str) -> int:
    """Return a number as the kernel parses it: hexadecimal after 0x, octal after 0."""
    digits = word.lstrip("-")
    base = 16 if digits[:2].lower() == "0x" else 8 if digits[0] == "0" and digits.isdecimal() else 10
    try:
        number = int(digits, base)
    except ValueError:  # 8 or 9 in an octal number
        return -1
    return -number if word.startswith("-") else number


def printed(path: str, value: str) -> str:
    """Return a value as the kernel prints it, as far as that is known."""
    canonical = _canonical(path, value)
    if isinstance(canonical, tuple):
        return " ".join(map(str, canonical))
    if path in _WORD_SETS or not isinstance(canonical, frozenset):
        return value
    runs: list[list[int]] = []
    for number in sorted(canonical):
        if runs and runs[-1][-1] == number - 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)
