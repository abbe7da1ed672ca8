# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the API's objects say about Pods and nodes."""

from __future__ import annotations

from .kubernetes import Json

MIRROR = "kubernetes.io/config.mirror"  # annotation of a mirror Pod, which is a file on its node


def full_name(pod: Json) -> str:
    """Return a Pod's namespace and name."""
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def controller(pod: Json) -> str:
    """Return the kind of the controller that recreates a Pod; empty if there is none."""
    owners = pod["metadata"].get("ownerReferences") or []
    return next((str(owner.get("kind")) for owner in owners if owner.get("controller")), "")


def is_mirror(pod: Json) -> bool:
    """Return whether a Pod is a mirror Pod."""
    return MIRROR in (pod["metadata"].get("annotations") or {})


def has_completed(pod: Json) -> bool:
    """Return whether the containers of a Pod have ended and are not restarted."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def is_ready(node_or_pod: Json) -> bool:
    """Return whether the condition Ready of a node or Pod is true."""
    conditions = (node_or_pod.get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
