# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Objects of a cluster that configure its Cilium agents, read and written by the Kubernetes API.

A node's override is a label with the hash of its keys, and a CiliumNodeConfig that selects this label. So one
request changes it, and a changed set of keys never applies to nodes that have the former one. While a change
is not confirmed, an annotation of the node records what to restore.
Sources: pkg/option/resolver and the page "Per-node configuration" of Cilium.
"""

from __future__ import annotations

import hashlib
import json
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._ops.kubernetes import Api, Json, KubernetesError, selects
from .._ops.pods import full_name, is_ready
from .model import GKE, ISTIO, KATA, OWN_NAME, Cluster, Override

LABEL = "podnet.datapath/cilium"
PENDING = "podnet.datapath/cilium-pending"
MANAGED = {"app.kubernetes.io/managed-by": "podnet.datapath"}
CONFIG_MAP = "cilium-config"
AGENTS = "k8s-app=cilium"
# What a plan needs of the return values of cilium_info.
FACTS = ("version", "settings", "cluster", "node")


@dataclass(frozen=True)
class Pending:
    """A change that is not confirmed: the former label, agent's Pod and return values of cilium_info."""

    label: str
    agent: str  # UID
    facts: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, str]:
        """Return the settings before the change."""
        return dict(self.facts["settings"])

    def text(self) -> str:
        """Return the annotation's value."""
        return json.dumps({"label": self.label, "agent": self.agent, "facts": dict(self.facts)})


@dataclass(frozen=True)
class NodeState:
    """A node's object with our override, and what applies to it."""

    node: Json
    cluster: Cluster
    version: str  # of the CiliumNodeConfig API
    namespace: str
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # keys by hash

    @property
    def name(self) -> str:
        """Return the node's name in Kubernetes."""
        return str(self.node["metadata"]["name"])

    @property
    def label(self) -> str:
        """Return the hash of the keys that the node has now; empty without override."""
        return str((self.node["metadata"].get("labels") or {}).get(LABEL) or "")

    @property
    def pending(self) -> Pending | None:
        """Return the unconfirmed change; raises ``KubernetesError`` if the annotation is invalid."""
        text = (self.node["metadata"].get("annotations") or {}).get(PENDING)
        if not text:
            return None
        try:
            found = json.loads(text)
            return Pending(
                str(found["label"]),
                str(found["agent"]),
                {name: found["facts"][name] for name in FACTS},
            )
        except (ValueError, KeyError, TypeError) as error:
            raise KubernetesError(
                f"node {self.name}: the annotation {PENDING} is invalid ({error!r}): remove it, and set the"
                f" label {LABEL} to the former value"
            ) from None


def hash_of(keys: Mapping[str, str]) -> str:
    """Return the label's value for a set of keys; empty for an empty set."""
    if not keys:
        return ""
    return hashlib.sha256(json.dumps(sorted(keys.items())).encode()).hexdigest()[:16]


def object_name(label: str) -> str:
    """Return the name of the CiliumNodeConfig with this label."""
    return f"{OWN_NAME}-{label}"


class CiliumApi:
    """The objects of Cilium in one cluster; every method raises ``KubernetesError``."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    # Reading

    def state(self, name: str) -> NodeState:
        """Return a node's state."""
        return self._states([self.api.node(name)])[0]

    def states(self) -> list[NodeState]:
        """Return the state of each node with an agent."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={_quoted(AGENTS)}"
        names = {(pod.get("spec") or {}).get("nodeName") for pod in self._list(path)}
        return self._states([node for node in self.api.nodes() if node["metadata"]["name"] in names])

    def _states(self, nodes: Iterable[Json]) -> list[NodeState]:
        version = self.config_version()
        own: dict[str, Mapping[str, str]] = {}
        foreign: list[tuple[Json, Override]] = []
        for one in self._list(self._configs_path(version)):
            meta, spec = one["metadata"], one.get("spec") or {}
            keys = {str(key): str(value) for key, value in (spec.get("defaults") or {}).items()}
            if _is_own(meta):
                own[meta["name"][len(OWN_NAME) + 1 :]] = keys
            elif spec.get("nodeSelector") is not None:
                foreign.append((spec["nodeSelector"], Override(meta["name"], keys)))
        allowed, denied = self._limits()
        config, conflicting = self._config_map(), self._conflicting()
        found = []
        for node in nodes:
            labels = node["metadata"].get("labels") or {}
            applying = [override for selector, override in foreign if selects(selector, labels)]
            conflicts = _conflicts(conflicting, labels)
            cluster = Cluster(
                config, tuple(sorted(applying, key=lambda one: one.name)), allowed, denied, conflicts
            )
            found.append(NodeState(node, cluster, version, self.namespace, own))
        return found

    def _list(self, path: str) -> list[Json]:
        return list(self.api.request("GET", path).get("items") or [])

    def _config_map(self) -> dict[str, str]:
        found = self.api.find(f"/api/v1/namespaces/{self.namespace}/configmaps/{CONFIG_MAP}")
        if found is None:
            raise KubernetesError(
                f"namespace {self.namespace} has no ConfigMap {CONFIG_MAP}: set cilium_namespace to the one"
                " in which the agents run",
                404,
            )
        return {str(key): str(value) for key, value in (found.get("data") or {}).items()}

    def config_version(self) -> str:
        """Return the version of the CiliumNodeConfig API: v2 since 1.16, else v2alpha1."""
        for version in ("v2", "v2alpha1"):
            found = self.api.find(f"/apis/cilium.io/{version}") or {}
            if any(one.get("name") == "ciliumnodeconfigs" for one in found.get("resources") or []):
                return version
        raise KubernetesError(
            "the cluster has no CiliumNodeConfigs (cilium.io/v2 or v2alpha1), which settings of single nodes"
            " require: upgrade Cilium to 1.15 or later"
        )

    def _limits(self) -> tuple[frozenset[str], frozenset[str]]:
        """Return the keys that CiliumNodeConfigs may override and may not, from the agents' DaemonSet."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/daemonsets?labelSelector={_quoted(AGENTS)}"
        found: dict[str, frozenset[str]] = {}
        for one in self._list(path):
            for container in one["spec"]["template"]["spec"].get("initContainers") or []:
                for word in [*(container.get("command") or []), *(container.get("args") or [])]:
                    for option in ("allow-config-keys", "deny-config-keys"):
                        if word.startswith(f"--{option}="):
                            found[option] = frozenset(filter(None, word.partition("=")[2].split(",")))
        return found.get("allow-config-keys", frozenset()), found.get("deny-config-keys", frozenset())

    def _conflicting(self) -> tuple[list[Json], list[str]]:
        """Return the runtime classes of Kata Containers, and the API groups of Istio."""
        classes = [
            one
            for one in self._list("/apis/node.k8s.io/v1/runtimeclasses")
            if "kata" in str(one.get("handler"))
        ]
        groups = [one["name"] for one in self.api.request("GET", "/apis").get("groups") or []]
        return classes, sorted(name for name in groups if name.endswith(".istio.io"))

    def agent_pods(self, node: str) -> list[Json]:
        """Return the agent's Pods on a node, those that terminate included."""
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector={_quoted(AGENTS)}"
        return self._list(f"{path}&fieldSelector={_quoted(f'spec.nodeName={node}')}")

    def peers(self, node: str) -> list[str]:
        """Return the internal addresses of the other nodes that are ready."""
        return [
            address["address"]
            for one in self.api.nodes()
            if one["metadata"]["name"] != node and is_ready(one)
            for address in (one.get("status") or {}).get("addresses") or []
            if address.get("type") == "InternalIP"
        ]

    # Writing

    def ensure_config(self, state: NodeState, keys: Mapping[str, str]) -> None:
        """Create the CiliumNodeConfig with these keys, if it does not exist."""
        label = hash_of(keys)
        if not label or state.own.get(label) == keys:
            return
        body = {
            "apiVersion": f"cilium.io/{state.version}",
            "kind": "CiliumNodeConfig",
            "metadata": {"name": object_name(label), "labels": MANAGED},
            "spec": {"nodeSelector": {"matchLabels": {LABEL: label}}, "defaults": dict(keys)},
        }
        path = self._configs_path(state.version)
        try:
            self.api.request("POST", path, body)
        except KubernetesError as error:
            if error.status != 409:  # exists: another run created it, or it was changed since
                raise
            self.api.patch(f"{path}/{object_name(label)}", {"spec": body["spec"]})

    def set_override(self, state: NodeState, label: str, pending: Pending | None) -> Json:
        """Set or remove a node's label and its record of the former one, in one request."""
        return self.api.patch(
            f"/api/v1/nodes/{urllib.parse.quote(state.name)}",
            {
                "metadata": {
                    "labels": {LABEL: label or None},
                    "annotations": {PENDING: pending.text() if pending else None},
                }
            },
        )

    def remove_unused(self) -> list[str]:
        """Delete our CiliumNodeConfigs that no node uses or may have to restore; return their names."""
        version = self.config_version()
        used = set()
        for node in self.api.nodes():
            state = NodeState(node, Cluster({}), version, self.namespace)
            used |= {state.label, state.pending.label if state.pending else ""}
        removed = []
        for one in self._list(self._configs_path(version)):
            name = one["metadata"]["name"]
            if _is_own(one["metadata"]) and name[len(OWN_NAME) + 1 :] not in used:
                _ignore_missing(self.api, f"{self._configs_path(version)}/{name}")
                removed.append(name)
        return removed

    def delete_pod(self, pod: Json) -> None:
        """Delete a Pod, unless another one has its name already."""
        try:
            self.api.delete(pod, None)
        except KubernetesError as error:
            if error.status not in (404, 409):
                raise KubernetesError(f"{full_name(pod)} is not deleted: {error}", error.status) from None

    def _configs_path(self, version: str) -> str:
        return f"/apis/cilium.io/{version}/namespaces/{self.namespace}/ciliumnodeconfigs"


def _conflicts(conflicting: tuple[list[Json], list[str]], labels: Mapping[str, str]) -> dict[str, str]:
    """Return the software that conflicts with a setting on a node, with the objects that show it."""
    classes, groups = conflicting
    found = {}
    kata = [
        one["metadata"]["name"]
        for one in classes
        if selects({"matchLabels": (one.get("scheduling") or {}).get("nodeSelector") or {}}, labels)
    ]
    if kata:
        found[KATA] = ", ".join(sorted(kata))
    if groups:
        found[ISTIO] = f"API groups {', '.join(groups)}"
    if labels.get("iam.gke.io/gke-metadata-server-enabled") == "true":
        found[GKE] = "label iam.gke.io/gke-metadata-server-enabled"
    return found


def _is_own(meta: Json) -> bool:
    labels = meta.get("labels") or {}
    return meta["name"].startswith(f"{OWN_NAME}-") and MANAGED.items() <= labels.items()


def _ignore_missing(api: Api, path: str) -> None:
    try:
        api.request("DELETE", path)
    except KubernetesError as error:
        if error.status != 404:
            raise


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")
