# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of kernel_module_build: sign the module that a node built, and cache it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import tempfile
from typing import Any
from urllib.parse import quote, unquote

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.podnet.datapath.plugins.module_utils._core import files
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import signing


def cached_module(folder: str) -> str:
    """Return the path of the module in a cache folder, empty if there is none.

    The file name is the SHA-256 of the content. Raises AnsibleActionFail if no file matches its name.
    """
    names = (
        sorted(name for name in os.listdir(folder) if name.endswith(".ko")) if os.path.isdir(folder) else []
    )
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() == name[: -len(".ko")]:
                return os.path.join(folder, name)
    if names:
        raise AnsibleActionFail(f"{folder}: the cached module is damaged: remove the folder")
    return ""


def store_module(folder: str, content: bytes) -> str:
    """Write a module to a cache folder, under the SHA-256 of its content; return its path."""
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as temporary:
        complete = os.path.join(temporary, "complete")
        os.mkdir(complete)
        with open(os.path.join(complete, f"{hashlib.sha256(content).hexdigest()}.ko"), "wb") as file:
            file.write(content)
        # Renamed with the module in it. If a concurrent run was faster, use its module.
        with contextlib.suppress(OSError):
            os.rename(complete, folder)
    return cached_module(folder)


def agreed(folder: str, builder: str, module: bytes, agreement: int) -> bool:
    """Store the unsigned build of a node beside a cache folder; return whether enough nodes built the same.

    Raises AnsibleActionFail that names two nodes if their builds differ.
    """
    builds = f"{folder}.builds"
    os.makedirs(builds, mode=0o700, exist_ok=True)
    path = os.path.join(builds, quote(builder, safe=""))
    files.replace_file(path, module, 0o600)
    digests = {}
    for name in sorted(os.listdir(builds)):
        if not name.startswith("."):
            with open(os.path.join(builds, name), "rb") as file:
                digests[unquote(name)] = hashlib.sha256(file.read()).hexdigest()
    for other, digest in digests.items():
        if digest != digests[builder]:
            raise AnsibleActionFail(
                f"agreement: {builder} and {other} built different modules from the same source (SHA-256"
                f" {digests[builder]} and {digest}), so none is signed or installed: one of the nodes may be"
                " compromised, or has another compiler; compare gcc --version on both, and the files in"
                f" {builds}, then remove that directory"
            )
    return len(digests) >= agreement


class ActionModule(ActionBase):
    """Run kernel_module_build on the node if the controller's cache has no module."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of kernel_module_build, with path, sha256 and size of the cached module."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        folder, arguments = self._task.args.get("dest"), dict(self._task.args)
        key, certificate = arguments.get("signing_key"), arguments.get("signing_certificate")
        builder, agreement = str(arguments.get("builder") or ""), int(arguments.get("agreement") or 1)
        path = cached_module(folder) if folder else ""
        if not path:
            node_result = self._execute_module(
                module_name="podnet.datapath.kernel_module_build", module_args=arguments, task_vars=task_vars
            )
            content = node_result.pop("module", None)
            result.update(node_result)
            if content is None:  # failed, or check mode
                return result
            module = signing.bare(base64.b64decode(content))
            if agreement > 1 and not agreed(str(folder), builder, module, agreement):
                result.update(
                    path="",
                    msg=f"agreement: {builder} has built the module, but {agreement} nodes must build it",
                )
                return result
            try:
                if key and certificate:
                    module = signing.sign(module, key, certificate)
                path = store_module(folder, module)
            except (signing.SigningError, OSError) as error:
                raise AnsibleActionFail(f"signing_key, signing_certificate: {error}") from error
        result.update(
            changed=result.get("changed", False),
            path=path,
            sha256=os.path.basename(path)[: -len(".ko")],
            size=os.path.getsize(path),
        )
        return result
