# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts about sysctls and NICs for the modules that only look. Private to this collection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils import (
    _header_split,
    _nic,
    _nic_owner,
    _nic_persist,
    _sock_diag,
    _sysctl_zc,
    _window,
)
from ansible_collections.podnet.datapath.plugins.module_utils._ethtool import Ethtool, Nic
from ansible_collections.podnet.datapath.plugins.module_utils._nic_select import Device, select
from ansible_collections.podnet.datapath.plugins.module_utils._plan import Problem, reason
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl import Tree, name_of, parse
from ansible_collections.podnet.datapath.plugins.module_utils._sysctl_writers import writers

# Sysctls


def _scale(tree: Tree, rmem_max: int) -> int | None:
    """Return the scale that new connections announce here, none without scaling."""
    if tree.read(_window.WINDOW_SCALING) == "0":
        return None
    return _window.window_scale(int(tree.read(_window.TCP_RMEM).split()[2]), rmem_max)


def _scales(place: _sysctl_zc.Place, tree: Tree, rmem_max: int) -> dict[str, Any]:
    """Return what is known of windows in one place; ``connections`` is none where they cannot be listed."""
    with place.entered():
        try:
            connections = _sock_diag.by_scale(_sock_diag.connections())
        except OSError:
            connections = None
        return {"netns": place.name, "window_scale": _scale(tree, rmem_max), "connections": connections}


def sysctls(keys: Sequence[str], pods: Mapping[str, Any] | None, root: str = "/") -> dict[str, Any]:
    """Return what is known of ``keys`` on a node and in its Pods; raises ``Problem``."""
    tree = Tree()
    paths = list(parse(dict.fromkeys(keys, "")))
    current = tree.current(paths)
    begins = _sysctl_zc.new_namespace(tree, paths)
    others = writers(current, "", root)
    rmem_max = int(tree.read(_window.RMEM_MAX)) if tree.exists(_window.RMEM_MAX) else 0
    with _sysctl_zc.places(pods) as (places, left):
        in_pods: dict[str, dict[str, str]] = {path: {} for path in begins}
        for place in places:
            with place.entered():
                for path in begins:
                    in_pods[path][place.name] = tree.read(path)
        windows = [_scales(place, tree, rmem_max) for place in (_sysctl_zc.Place(), *places)]
    return {
        "sysctls": [
            {
                "key": name_of(path),
                "value": current[path],
                "scope": "namespace" if path in begins else "node",
                "new_namespace": begins.get(path),
                "pods": in_pods.get(path, {}),
                "other_writers": [writer.as_dict() for writer in others if writer.path == path],
                "without_effect": _sysctl_zc.WITHOUT_EFFECT.get(path, ""),
            }
            for path in paths
        ],
        "windows": windows,
        "pods_left_out": left,
    }


# NICs


def _strategies(nic: Nic) -> list[str]:
    """Return the ways of splitting headers that a NIC can be asked for now."""
    return [
        strategy
        for strategy in _header_split.STRATEGIES
        if not _header_split.choose(strategy, nic.driver, nic.values, {}, nic.xdp)[1]
    ]


def _nic_facts(ethtool: Ethtool, device: Device, kept: Sequence[str], root: str) -> dict[str, Any]:
    nic = _nic.read(ethtool, device.name)
    return {
        "name": nic.name,
        "driver": nic.driver,
        "bus": device.bus,
        "default_route": device.default_route,
        "settings": dict(nic.values),
        "minimum": dict(nic.minimum),
        "maximum": dict(nic.maximum),
        "fixed": sorted(nic.fixed),
        "unfulfilled": sorted(name for name, on in nic.wanted.items() if on and not nic.values[name]),
        "xdp": nic.xdp,
        "header_split": _strategies(nic),
        "mtu_owners": _nic_owner.mtus(nic.name, nic.index, root),
        "persisted": nic.name in kept,
    }


def nics(entries: Sequence[Mapping[str, Any]], root: str = "/") -> list[dict[str, Any]]:
    """Return what is known of the NICs that ``entries`` mean, of all without any; raises ``Problem``."""
    ethtool = Ethtool()
    try:
        devices = {device.name: device for device in _nic.devices(ethtool)}
        names = [entry["name"] for entry in select(entries, list(devices.values()))] or list(devices)
        kept = _nic_persist.kept_names(root)
        return [_nic_facts(ethtool, devices[name], kept, root) for name in names]
    except OSError as error:
        raise Problem(f"a NIC cannot be read: {reason(error)}") from None
    finally:
        ethtool.close()
