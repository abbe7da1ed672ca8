# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that use the Kubernetes API, as the documentation fragment ``kubernetes``."""

from __future__ import annotations

from typing import Any

from .._core.arguments import reject_negative
from .kubernetes import Api, access

API: dict[str, dict[str, Any]] = {
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
    "api_timeout": {"type": "int", "default": 120},
}
NODE: dict[str, dict[str, Any]] = {"name": {"type": "str", "required": True}}


def kubernetes_api(module: Any) -> Api:
    """Return the API that a module's options select; raises ``KubernetesError``."""
    reject_negative(module)
    p = module.params
    return Api(access(p["kubeconfig"], p["context"]), p["api_timeout"])
