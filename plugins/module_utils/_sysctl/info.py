# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read sysctls of a node and its Pods, and who else sets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._kernel import sock_diag
from . import apply, window
from .keys import Tree, name_of, parse
from .writers import writers


def _scale(tree: Tree, rmem_max: int) -> int | None:
    """Return the scale that new connections announce here, none without scaling."""
    if tree.read(window.WINDOW_SCALING) == "0":
        return None
    return window.window_scale(int(tree.read(window.TCP_RMEM).split()[2]), rmem_max)


def _scales(place: apply.Place, tree: Tree, rmem_max: int) -> dict[str, Any]:
    """Return what is known of windows in one place; ``connections`` is none where they cannot be listed."""
    with place.entered():
        try:
            connections = sock_diag.by_scale(sock_diag.connections())
        except OSError:
            connections = None
        return {"netns": place.name, "window_scale": _scale(tree, rmem_max), "connections": connections}


def sysctls(keys: Sequence[str], pods: Mapping[str, Any] | None, root: str = "/") -> dict[str, Any]:
    """Return what is known of ``keys`` on a node and in its Pods; raises ``Problem``."""
    tree = Tree()
    paths = list(parse(dict.fromkeys(keys, "")))
    current = tree.current(paths)
    begins = apply.new_namespace(tree, paths)
    others = writers(current, "", root)
    rmem_max = int(tree.read(window.RMEM_MAX)) if tree.exists(window.RMEM_MAX) else 0
    with apply.places(pods) as (places, left):
        in_pods: dict[str, dict[str, str]] = {path: {} for path in begins}
        for place in places:
            with place.entered():
                for path in begins:
                    in_pods[path][place.name] = tree.read(path)
        windows = [_scales(place, tree, rmem_max) for place in (apply.Place(), *places)]
    return {
        "sysctls": [
            {
                "key": name_of(path),
                "value": current[path],
                "scope": "namespace" if path in begins else "node",
                "new_namespace": begins.get(path),
                "pods": in_pods.get(path, {}),
                "other_writers": [writer.as_dict() for writer in others if writer.path == path],
                "without_effect": apply.WITHOUT_EFFECT.get(path, ""),
            }
            for path in paths
        ],
        "windows": windows,
        "pods_skipped": left,
    }
