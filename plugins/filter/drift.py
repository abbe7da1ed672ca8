# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows of a drift report from the results that the modules return in check mode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: drift
short_description: List the differences between a node and its desired state
version_added: 0.1.0
author: podnet.datapath contributors (@podnet)
description:
  - Combines the results of M(podnet.datapath.sysctl_zc), M(podnet.datapath.boot_args),
    M(podnet.datapath.nic_tuning), M(podnet.datapath.pods) and M(podnet.datapath.cni) in check mode into one
    list.
options:
  _input:
    description:
      - Results by the names C(sysctls), C(boot_args), C(nics), C(pods) and C(cni). Results may be missing or
        failed.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the differences
  ansible.builtin.debug:
    msg: "{{ {'sysctls': sysctls, 'nics': nics} | podnet.datapath.drift }}"
"""

RETURN = r"""
_value:
  description:
    - A dictionary for each difference. C(scope) is V(node), a Pod's network namespace, a NIC, V(Pods),
      V(CNI), V(boot) or V(warning). C(what) is the setting or a message, C(current) and C(desired) are its
      values, and C(other_writers) lists what else sets it.
    - If a result failed, its row has the name of the result in C(scope) and the error in C(what).
  type: list
  elements: dict
"""


def _row(
    scope: str, what: str, current: object = None, desired: object = None, other_writers: Iterable[str] = ()
) -> dict[str, Any]:
    return {
        "scope": scope,
        "what": what,
        "current": current,
        "desired": desired,
        "other_writers": list(other_writers),
    }


def _sysctls(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a result of sysctl_zc."""
    writers: dict[str, list[str]] = {}
    for writer in result.get("other_writers", []):
        text = f"{writer['by']}{' ' + writer['file'] if writer['file'] else ''}: {writer['value']}"
        writers.setdefault(writer["key"], []).append(text)
    changes_by_scope = [("node", result.get("changes", []))]
    changes_by_scope += [(pod["netns"], pod["changes"]) for pod in result.get("pods", [])]
    rows = [
        _row(scope, change["name"], change["before"], change["after"], writers.get(change["name"], ()))
        for scope, changes in changes_by_scope
        for change in changes
    ]
    for group in result.get("connections", []):
        what = f"{group['count']} connections use another window scale: {', '.join(group['examples'])}"
        rows.append(_row(group["netns"] or "node", what, group["scale"]))
    return rows


def _boot_args(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a result of boot_args."""
    changes = result.get("changes", [])
    rows = [_row("boot", change["name"], change["before"], change["after"]) for change in changes]
    rows += [_row("boot", "running kernel", None, argument) for argument in result.get("missing", [])]
    return rows + [_row("boot", "running kernel", argument, None) for argument in result.get("stale", [])]


def _nics(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a result of nic_tuning."""
    rows = [
        _row(nic["name"], change["name"], change["before"], change["after"])
        for nic in result.get("nics", [])
        for change in nic["changes"]
    ]
    return rows + [_row("boot", f"{file} is not up to date") for file in result.get("files", [])]


def _pods(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a result of the module pods."""
    rows = [_row("Pods", change) for change in result.get("changes", [])]
    counts = result.get("differences", {}).items()
    return rows + [_row("Pods", f"{count} map entries of {kind} differ") for kind, count in sorted(counts)]


def _cni(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a result of the module cni."""
    return [_row("CNI", change) for change in result.get("changes", [])]


def drift(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each difference, warning and failure in the results of a check."""
    rows = []
    readers = {"sysctls": _sysctls, "boot_args": _boot_args, "nics": _nics, "pods": _pods, "cni": _cni}
    for name, read in readers.items():
        result = results.get(name, {})
        if result.get("failed") or ("msg" in result and "changed" not in result):
            rows.append(_row(name, f"check failed: {result.get('msg', '')}"))
        else:
            rows += read(result)
        if name in ("sysctls", "pods", "cni"):
            rows += [_row("warning", text) for text in result.get("warnings", [])]
    return rows


class FilterModule:
    """The filter for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filter by name."""
        return {"drift": drift}
