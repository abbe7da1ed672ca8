# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changed policies end in the image that is compiled from scratch, and report what they change."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._datapath.compile import Compiler
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.image import Image, ImageChanges
from ansible_collections.podnet.datapath.plugins.module_utils._datapath.model import Declaration
from tests.unit.datapath.declarations import NODE, declare, image_of, labels, policies, without_numbers

some_labels = st.lists(labels, min_size=4, max_size=4)


def change(compiler: Compiler, before: Declaration, after: Declaration) -> bool:
    """Change policies; return whether the compiler did."""
    removed = [one for one in before.policies if one not in after.policies]
    added = [one for one in after.policies if one not in before.policies]
    pods = [(address, pod) for pod in after.pods for address in pod.addresses]
    return compiler.change_policies(removed, added, pods)


def apply(image: Image, changes: ImageChanges) -> None:
    """Apply changes as they are written to the maps."""
    for kind in ("endpoints", "pods", "policy"):
        target = getattr(image, kind)
        for key, value in getattr(changes, kind).items():
            if value is None:
                del target[key]  # Each is deleted once.
            else:
                assert target.get(key) != value, "a write without an effect"
                target[key] = value


@given(some_labels, st.lists(policies, min_size=2, max_size=4))
def test_changes_end_in_the_image_from_scratch(pods: list[dict[str, str]], states: list[Any]) -> None:
    before = declare(pods, states[0])
    compiler = Compiler(before, NODE, {})
    for raw in states[1:]:
        after, written = declare(pods, raw), deepcopy(compiler.image)
        if not change(compiler, before, after):
            return
        apply(written, compiler.take_changes())
        assert written == compiler.image
        assert without_numbers(written) == without_numbers(image_of(after))
        before = after


def web(*peers: dict[str, Any]) -> dict[str, Any]:
    ingress = [{"from": [one], "ports": [{"protocol": "tcp", "port": 80}]} for one in peers]
    return {"name": "n0", "optional": True, "pods": {"labels": {"app": "web"}}, "ingress": ingress}


def test_only_prefixes_and_names_need_a_new_image() -> None:
    pods = [{"app": "web"}, {"app": "db"}, {"app": "db"}, {"app": "db", "tier": "a"}]
    base = [web({"labels": {"app": "db"}})]
    for raw, incremental in (
        ([web({"labels": {"tier": "a"}})], True),
        ([web({"labels": {"app": "db"}}, {"labels": {}})], True),
        ([], True),
        ([web({"cidr": "10.0.0.0/8"})], False),
        ([web({"names": ["p0"]})], False),
    ):
        before = declare(pods, base)
        assert change(Compiler(before, NODE, {}), before, declare(pods, raw)) == incremental, raw
