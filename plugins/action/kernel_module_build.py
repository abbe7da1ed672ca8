# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's part of kernel_module_build: sign what a node built, and keep it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import tempfile
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import signing


def kept(folder: str) -> str:
    """Return the module that a folder of the controller keeps, empty if none; refuse one that is damaged."""
    names = (
        sorted(name for name in os.listdir(folder) if name.endswith(".ko")) if os.path.isdir(folder) else []
    )
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            if hashlib.sha256(file.read()).hexdigest() == name[: -len(".ko")]:
                return os.path.join(folder, name)
    if names:
        raise AnsibleActionFail(f"{folder}: what it keeps is damaged: remove the folder")
    return ""


def keep(folder: str, content: bytes) -> str:
    """Keep a module on the controller under the name of its content; return where."""
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with tempfile.TemporaryDirectory(dir=os.path.dirname(folder)) as new:
        made = os.path.join(new, "made")
        os.mkdir(made)
        with open(os.path.join(made, f"{hashlib.sha256(content).hexdigest()}.ko"), "wb") as file:
            file.write(content)
        # The folder comes with the module in it; where another run was faster, its module is as good.
        with contextlib.suppress(OSError):
            os.rename(made, folder)
    return kept(folder)


class ActionModule(ActionBase):
    """Runs the module on the node where the controller has no build yet."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        folder, arguments = self._task.args.get("dest"), dict(self._task.args)
        key, certificate = arguments.get("signing_key"), arguments.get("signing_certificate")
        path = kept(folder) if folder else ""
        if not path:
            answer = self._execute_module(
                module_name="podnet.datapath.kernel_module_build", module_args=arguments, task_vars=task_vars
            )
            content = answer.pop("module", None)
            result.update(answer)
            if content is None:  # it failed, or only looked
                return result
            module = base64.b64decode(content)
            try:
                if key and certificate:
                    module = signing.sign(module, key, certificate)
                path = keep(folder, module)
            except (signing.SigningError, OSError) as error:
                raise AnsibleActionFail(f"signing_key, signing_certificate: {error}") from error
        result.update(
            changed=result.get("changed", False),
            path=path,
            sha256=os.path.basename(path)[: -len(".ko")],
            size=os.path.getsize(path),
        )
        return result
