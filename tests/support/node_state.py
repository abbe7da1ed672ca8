# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything that tuning may change: sysctls, and what rtnetlink, ethtool and files show.

Standard library only, so that nodes can use it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Runs a command and returns its output, empty if it fails.
Run = Callable[..., str]

TABLES = ("-d link", "addr", "route show table all", "-6 route show table all", "rule", "-d neigh")
OPTIONS = ("-k", "-l", "-g", "-c", "-a", "--show-priv-flags")
# Properties of links, addresses and routes that change by themselves.
VOLATILE = (
    "stats", "stats64", "preferred_life_time", "valid_life_time", "operstate", "gc_timer", "hello_timer",
    "tcn_timer", "topology_change_timer", "forward_delay_timer", "hold_timer", "message_age_timer",
    "expires", "used", "probes", "state", "refcnt",
)  # fmt: skip
# Sysctls that change by themselves.
COUNTERS = (
    "/random/", "/fs/quota/", "-nr", "-state", "/aio-nr", "/ns_last_pid", "/pty/nr", "nf_conntrack_count",
    "/nr_open_files", "/stat_refresh", "/mtu_expires_now",
)  # fmt: skip


def sysctls(folder: str = "/proc/sys") -> dict[str, str]:
    """Return all values below a directory; those that cannot be read are left out."""
    found = {}
    for below, dummy, names in os.walk(folder):
        for name in names:
            path = f"{below}/{name}"
            if any(word in path for word in COUNTERS):
                continue
            try:
                found[path] = Path(path).read_text(errors="replace")
            except OSError:
                continue
    return found


def network(run: Run) -> dict[str, Any]:
    """Return what rtnetlink and ethtool show of the network namespace in which ``run`` runs commands."""
    shown: dict[str, Any] = {}
    for words in TABLES:
        listed = json.loads(run("ip", "-json", *words.split()) or "[]")
        shown[words] = [_without(VOLATILE, one) for one in listed]
    for link in shown["-d link"]:
        for option in OPTIONS:
            shown[f"{option} {link['ifname']}"] = run("ethtool", option, link["ifname"])
    return shown


def _without(names: Iterable[str], value: Any) -> Any:
    """Return a value of JSON without some of its properties."""
    if isinstance(value, dict):
        return {key: _without(names, one) for key, one in value.items() if key not in names}
    return [_without(names, one) for one in value] if isinstance(value, list) else value


def files(*folders: str) -> dict[str, str]:
    """Return mode, owner and contents (as a digest, or as target of a link) of files below directories."""
    found = {}
    for folder in folders:
        for path in [Path(folder), *sorted(Path(folder).rglob("*"))]:
            if not os.path.lexists(path):
                continue
            status = path.lstat()
            text = ""
            if path.is_symlink():
                text = os.readlink(path)
            elif path.is_file():
                text = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {text}"
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what differs between two states."""
    found = []
    for kind, old in before.items():
        new = after[kind]
        if isinstance(old, dict):
            found += [
                f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
                for key in {**old, **new}
                if old.get(key) != new.get(key)
            ]
            continue
        old, new = (value.splitlines() if isinstance(value, str) else value for value in (old, new))
        found += [f"{kind}: missing {one}" for one in old if one not in new]
        found += [f"{kind}: additional {one}" for one in new if one not in old]
    return found
