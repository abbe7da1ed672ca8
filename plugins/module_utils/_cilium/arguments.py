# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that use the cluster's API."""

from __future__ import annotations

from typing import Any

from .._core.arguments import reject_negative
from .._ops.kubernetes import Api, access
from .cluster import CiliumApi

API: dict[str, dict[str, Any]] = {
    "kubeconfig": {"type": "path"},
    "context": {"type": "str"},
    "namespace": {"type": "str", "default": "kube-system"},
    "api_timeout": {"type": "int", "default": 120},
}


def cilium_api(module: Any) -> CiliumApi:
    """Return the API that a module's options select; raises ``KubernetesError``."""
    reject_negative(module)
    p = module.params
    return CiliumApi(Api(access(p["kubeconfig"], p["context"]), p["api_timeout"]), p["namespace"])
