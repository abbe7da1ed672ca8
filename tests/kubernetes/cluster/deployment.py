# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deployments of the test image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.kubernetes.cluster import images


def deployment(
    name: str,
    replicas: int,
    args: Sequence[str],
    container: Mapping[str, Any] | None = None,
    pod: Mapping[str, Any] | None = None,
    **spec: Any,
) -> str:
    """Return the manifest of a Deployment whose Pods end at once.

    ``container``, ``pod`` and ``spec`` are further fields of the container, the Pod and the Deployment.
    """
    one = {
        "name": "c",
        "image": images.AGNHOST,
        "imagePullPolicy": "Never",
        "args": list(args),
        **(container or {}),
    }
    labels = {"app": name}
    template = {"terminationGracePeriodSeconds": 0, "containers": [one], **(pod or {})}
    return json.dumps(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": template},
                **spec,
            },
        }
    )
