# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Network namespaces whose sysctls are set: that of this process and those of Pods.

Which keys are per namespace, and their initial values, depends on the kernel; a new namespace shows both.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._core.plan import Problem, reason
from .._kernel import netns
from .._node import pod_netns
from .tree import Tree


@dataclass(frozen=True)
class Netns:
    """A network namespace. ``path`` opens that of a Pod; name and path are empty for this process's."""

    name: str = ""
    path: str = ""

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Move the calling thread into the namespace for the length of a block."""
        return netns.entered(self.path) if self.path else contextlib.nullcontext()


NODE = Netns()


@contextlib.contextmanager
def selected_pods(pods: Mapping[str, Any] | None) -> Iterator[tuple[list[Netns], dict[str, str]]]:
    """Yield the selected namespaces of Pods, and why others are skipped.

    An open descriptor keeps each namespace for the length of the block.
    """
    if pods is None:
        yield [], {}
        return
    selected, skipped = pod_netns.choose(pod_netns.found(), pods["select"], pods["names"], pods["except"])
    with contextlib.ExitStack() as stack:
        opened = []
        for one in selected:
            try:
                descriptor = os.open(one.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                skipped[one.name] = "no longer exists"
                continue
            stack.callback(os.close, descriptor)
            opened.append(Netns(one.name, f"/proc/self/fd/{descriptor}"))
        yield opened, skipped


def initial_values(tree: Tree, paths: Iterable[str]) -> dict[str, str]:
    """Return the keys that are per namespace, with their values in a new network namespace.

    A new namespace does not show global keys below net, or shows them read-only.
    """
    candidates = [path for path in paths if path.startswith("net/")]
    if not candidates:
        return {}
    try:
        with netns.fresh():
            return {path: tree.read(path) for path in candidates if tree.exists(path) and tree.writable(path)}
    except OSError as error:
        raise Problem(
            "pods: cannot create a network namespace to find the keys that are per namespace"
            f" ({reason(error)}): run as root (become), outside of a container"
        ) from None
