# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Return sysctls of a node and its Pods, TCP window scales, and other writers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._kernel import sock_diag
from . import window
from .keys import name_of, parse
from .namespaces import NODE, Netns, initial_values, selected_pods
from .plan import WITHOUT_EFFECT
from .tree import Tree
from .writers import writers


def _scale(tree: Tree, rmem_max: int) -> int | None:
    """Return the scale of new connections in the entered namespace, ``None`` without window scaling."""
    if tree.read(window.WINDOW_SCALING) == "0":
        return None
    return window.window_scale(int(tree.read(window.TCP_RMEM).split()[2]), rmem_max)


def _window_facts(namespace: Netns, tree: Tree, rmem_max: int) -> dict[str, Any]:
    """Return the window scales of a namespace; ``connections`` is ``None`` if they cannot be listed."""
    with namespace.entered():
        try:
            connections = sock_diag.by_scale(sock_diag.connections())
        except OSError:
            connections = None
        return {"netns": namespace.name, "window_scale": _scale(tree, rmem_max), "connections": connections}


def sysctls(keys: Sequence[str], pods: Mapping[str, Any] | None, root: str = "/") -> dict[str, Any]:
    """Return the facts of ``keys`` on a node and in its Pods; raises ``Problem``."""
    tree = Tree()
    paths = list(parse(dict.fromkeys(keys, "")))
    current = tree.current(paths)
    initial = initial_values(tree, paths)
    others = writers(current, "", root)
    rmem_max = int(tree.read(window.RMEM_MAX)) if tree.exists(window.RMEM_MAX) else 0
    with selected_pods(pods) as (selected, skipped):
        in_pods: dict[str, dict[str, str]] = {path: {} for path in initial}
        for pod in selected:
            with pod.entered():
                for path in initial:
                    in_pods[path][pod.name] = tree.read(path)
        windows = [_window_facts(namespace, tree, rmem_max) for namespace in (NODE, *selected)]
    return {
        "sysctls": [
            {
                "key": name_of(path),
                "value": current[path],
                "scope": "namespace" if path in initial else "node",
                "new_namespace": initial.get(path),
                "pods": in_pods.get(path, {}),
                "other_writers": [writer.as_dict() for writer in others if writer.affects == path],
                "without_effect": WITHOUT_EFFECT.get(path, ""),
            }
            for path in paths
        ],
        "windows": windows,
        "pods_skipped": skipped,
    }
