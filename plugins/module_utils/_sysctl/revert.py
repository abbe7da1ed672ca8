# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read and restore sysctls of the node and of running Pods for a rollback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from .._core.plan import Change, Value
from .._kernel import netns
from .._node import pod_netns
from .._rollback.net_changes import Key
from .._rollback.revert import GONE, Now, Subsystem
from .effects import aliases
from .keys import name_of, path_of
from .tree import Tree


class Sysctls(Subsystem):
    """Sysctls; a key's scope is the name of a Pod's network namespace, empty for the node."""

    def __init__(self) -> None:
        self._tree = Tree()
        self._paths: dict[str, str] = {}

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return current values."""
        found: dict[Key, Now] = {}
        for scope, its_keys in _by_scope(keys).items():
            found.update(dict.fromkeys(its_keys, GONE))
            with contextlib.suppress(OSError), self._entered(scope):
                now = self._tree.values(path_of(key.name) for key in its_keys)
                found.update({key: now[path_of(key.name)] for key in its_keys if path_of(key.name) in now})
        return found

    def write(self, desired: Mapping[Key, Value]) -> None:
        """Set original values; raises ``Problem``."""
        for scope, keys in _by_scope(desired).items():
            with self._entered(scope):
                values = {path_of(key.name): str(desired[key]) for key in keys}
                now = self._tree.values(self._tree.related(values))
                present = {path: value for path, value in values.items() if path in now}
                changes = [Change(name_of(path), now[path], value) for path, value in present.items()]
                # Other keys that the kernel changes with these keep their current values, except aliases.
                kept = {path: value for path, value in now.items() if not aliases(path) & {*present}}
                self._tree.apply(changes, {**kept, **present})

    @contextlib.contextmanager
    def _entered(self, scope: str) -> Iterator[None]:
        if scope and not self._paths:
            self._paths = {namespace.name: namespace.path for namespace in pod_netns.found()}
        if scope and scope not in self._paths:
            raise ProcessLookupError(scope)
        with netns.entered(self._paths[scope]) if scope else contextlib.nullcontext():
            yield


def _by_scope(keys: Iterable[Key]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for key in keys:
        found.setdefault(key.scope, []).append(key)
    return found
