# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of a drift report out of what the tuning modules return in check mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: drift
short_description: List in what a node differs from what is wanted
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Turns what M(podnet.datapath.sysctl_zc), M(podnet.datapath.boot_args), M(podnet.datapath.nic_tuning) and
    M(podnet.datapath.meta_device) returned in check mode into one list.
options:
  _input:
    description:
      - Results, by the names C(sysctls), C(boot_args), C(nics) and C(pods). One may be missing, or a failure.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: List what differs
  ansible.builtin.debug:
    msg: "{{ {'sysctls': sysctls, 'nics': nics} | podnet.datapath.drift }}"
"""

RETURN = r"""
_value:
  description:
    - A dictionary for each difference, with C(where) (V(node), a Pod's network namespace, a NIC,
      V(Pods), V(boot) or V(warning)), C(what), C(now), C(wanted), and C(others), those who set it too.
    - What could not be observe at is a row as well, with the reason in C(what).
  type: list
  elements: dict
"""


def _row(
    where: str, what: str, now: object = None, wanted: object = None, others: Iterable[str] = ()
) -> dict[str, Any]:
    return {"where": where, "what": what, "now": now, "wanted": wanted, "others": list(others)}


def _sysctls(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    writers: dict[str, list[str]] = {}
    for one in result.get("other_writers", []):
        text = f"{one['by']}{' ' + one['file'] if one['file'] else ''}: {one['value']}"
        writers.setdefault(one["key"], []).append(text)
    places = [("node", result.get("changes", []))]
    places += [(pod["netns"], pod["changes"]) for pod in result.get("pods", [])]
    rows = [
        _row(where, change["name"], change["before"], change["after"], writers.get(change["name"], ()))
        for where, changes in places
        for change in changes
    ]
    for one in result.get("connections", []):
        what = f"{one['count']} connections announce another window scale: {', '.join(one['examples'])}"
        rows.append(_row(one["netns"] or "node", what, one["scale"]))
    return rows


def _boot_args(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [_row("boot", one["name"], one["before"], one["after"]) for one in result.get("changes", [])]
    rows += [_row("boot", "running kernel", None, token) for token in result.get("missing", [])]
    return rows + [_row("boot", "running kernel", token, None) for token in result.get("stale", [])]


def _nics(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [
        _row(nic["name"], change["name"], change["before"], change["after"])
        for nic in result.get("nics", [])
        for change in nic["changes"]
    ]
    return rows + [_row("boot", f"{file} is not what it is to be") for file in result.get("files", [])]


def _pods(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_row("Pods", change) for change in result.get("changes", [])]


def drift(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the differences in the results of a check."""
    rows = []
    readers = {"sysctls": _sysctls, "boot_args": _boot_args, "nics": _nics, "pods": _pods}
    for name, read in readers.items():
        result = results.get(name, {})
        if result.get("failed") or ("msg" in result and "changed" not in result):
            rows.append(_row(name, f"cannot be: {result.get('msg', '')}"))
        else:
            rows += read(result)
        if name in ("sysctls", "pods"):
            rows += [_row("warning", text) for text in result.get("warnings", [])]
    return rows


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"drift": drift}
