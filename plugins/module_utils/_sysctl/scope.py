# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Separate sysctls that are per network namespace in this kernel from global ones."""

from __future__ import annotations

from collections.abc import Mapping

from .keys import path_of, same
from .namespaces import initial_values
from .tree import Tree


def in_namespaces(sysctls: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the sysctls to set in namespaces, and a message for each global one with another value.

    A sysctl that does not exist is not global: to set it is an error. Raises ``Problem``.
    """
    tree = Tree()
    paths = {path_of(name): name for name in sysctls}
    settable = initial_values(tree, paths)
    found, messages = {}, []
    for path, name in paths.items():
        if path in settable or not tree.exists(path):
            found[name] = sysctls[name]
        elif not same(path, value := tree.read(path), sysctls[name]):
            messages.append(
                f"{name} is global in this kernel, so Pods use the node's value {value}, not {sysctls[name]}:"
                " set it for the node, for example in node_tuning_sysctls"
            )
    return found, messages
