# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the modules that use the API of a cluster with Cilium."""

from __future__ import annotations

from typing import Any

from .._ops import arguments
from .cluster import CiliumApi

API = {**arguments.API, "namespace": {"type": "str", "default": "kube-system"}}
NODE = arguments.NODE


def cilium_api(module: Any) -> CiliumApi:
    """Return the API that a module's options select; raises ``KubernetesError``."""
    return CiliumApi(arguments.kubernetes_api(module), module.params["namespace"])
