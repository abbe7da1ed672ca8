# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Controller side of kernel_module: pass the module from the controller's cache to the node."""

from __future__ import annotations

import base64
import os
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.podnet.datapath.plugins.action.kernel_module_build import cached_module
from ansible_collections.podnet.datapath.plugins.module_utils._kernel import signing


class ActionModule(ActionBase):
    """Run kernel_module on the node with the content of the cached kernel module."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result of kernel_module; raise AnsibleActionFail if the cache has no module."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        path = cached_module(str(arguments.get("src")))
        if not path:
            raise AnsibleActionFail(
                f"src: {arguments.get('src')} on the controller has no module: "
                "build it with kernel_module_build first"
            )
        try:
            with open(path, "rb") as file:
                arguments["content"] = base64.b64encode(file.read()).decode()
            arguments["sha256"] = os.path.basename(path)[: -len(".ko")]
            if arguments.get("certificate"):
                with open(arguments["certificate"], "rb") as file:
                    arguments["serial"] = signing.serial(file.read())
        except (signing.SigningError, OSError) as error:
            raise AnsibleActionFail(f"src, certificate: {error}") from error
        result.update(
            self._execute_module(
                module_name="podnet.datapath.kernel_module", module_args=arguments, task_vars=task_vars
            )
        )
        return result
