# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Cordon, drain and uncordon a node through the Kubernetes API. Private to this collection.

Needs nothing but Python: a kubeconfig is JSON, or YAML where PyYAML is there. A node that this collection
cordoned has an annotation with the owner, and only such a node is ever uncordoned.
Sources: kubernetes.io/docs, "Safely Drain a Node" and "API-initiated Eviction".
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

ANNOTATION = "podnet.datapath/cordoned-by"
MIRROR = "kubernetes.io/config.mirror"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
REQUEST_TIMEOUT = 30
POLL = 2.0

Json = dict[str, Any]


class KubernetesError(Exception):
    """What is wrong, and the remedy."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


# The connection


@dataclass(frozen=True)
class Access:
    """Where the API is, and as whom to speak to it."""

    server: str
    context: ssl.SSLContext | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def _load(text: str, path: str) -> Json:
    try:
        found = json.loads(text)
    except ValueError:
        try:
            import yaml
        except ImportError:
            raise KubernetesError(
                f"kubeconfig: {path} is YAML and this Python has no PyYAML: install it, or give JSON "
                "(kubectl config view --raw -o json)"
            ) from None
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise KubernetesError(f"kubeconfig: {path} is neither JSON nor YAML: {error}") from error
    if not isinstance(found, dict):
        raise KubernetesError(f"kubeconfig: {path} is no kubeconfig")
    return found


def _named(config: Json, kind: str, name: str, path: str) -> Json:
    for entry in config.get(f"{kind}s") or []:
        if entry.get("name") == name:
            return dict(entry.get(kind) or {})
    raise KubernetesError(f"kubeconfig: {path} has no {kind} {name!r}")


def _bytes(entry: Json, key: str, folder: str) -> bytes:
    """Return a certificate or key that is given as base64 or by the name of a file."""
    if entry.get(f"{key}-data"):
        return base64.b64decode(entry[f"{key}-data"])
    if entry.get(key):
        with open(os.path.join(folder, entry[key]), "rb") as file:
            return file.read()
    return b""


def access(kubeconfig: str | None, context: str | None = None) -> Access:
    """Return the access that a kubeconfig gives; without one, that of the Pod that this runs in."""
    if not kubeconfig:
        return _service_account()
    path = os.path.expanduser(kubeconfig)
    try:
        with open(path, encoding="utf-8") as file:
            config = _load(file.read(), path)
    except OSError as error:
        raise KubernetesError(f"kubeconfig: {error}") from error
    wanted = context or config.get("current-context") or ""
    chosen = _named(config, "context", wanted, path)
    cluster = _named(config, "cluster", chosen.get("cluster", ""), path)
    user = _named(config, "user", chosen["user"], path) if chosen.get("user") else {}
    folder = os.path.dirname(path)
    if not cluster.get("server"):
        raise KubernetesError(f"kubeconfig: {path} names no server for context {wanted!r}")
    for key in ("exec", "auth-provider"):
        if key in user:
            raise KubernetesError(
                f"kubeconfig: {path} logs in through {key!r}, which is not supported: give one with a "
                "token or a client certificate (kubectl create token)"
            )
    try:
        return Access(cluster["server"].rstrip("/"), _tls(cluster, user, folder), _login(user, folder))
    except (OSError, ValueError) as error:
        raise KubernetesError(f"kubeconfig: {path}: {error}") from error


def _tls(cluster: Json, user: Json, folder: str) -> ssl.SSLContext | None:
    if not cluster["server"].startswith("https:"):
        return None
    authority = _bytes(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    certificate, key = (_bytes(user, name, folder) for name in ("client-certificate", "client-key"))
    if certificate and key:
        with tempfile.NamedTemporaryFile() as file:  # The ssl module reads them from files only; it is 0600.
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _login(user: Json, folder: str) -> dict[str, str]:
    token = user.get("token") or ""
    if not token and user.get("tokenFile"):
        with open(os.path.join(folder, user["tokenFile"]), encoding="utf-8") as file:
            token = file.read().strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _service_account() -> Access:
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
    try:
        with open(f"{SERVICE_ACCOUNT}/token", encoding="utf-8") as file:
            token = file.read().strip()
        tls = ssl.create_default_context(cafile=f"{SERVICE_ACCOUNT}/ca.crt")
    except OSError as error:
        raise KubernetesError(
            "kubeconfig: none is given, and this does not run in a Pod: give the path of one"
        ) from error
    host = f"[{host}]" if ":" in host else host
    return Access(f"https://{host}:{port}", tls, {"Authorization": f"Bearer {token}"})


class Api:
    """The few requests that a drain consists of."""

    def __init__(self, by: Access) -> None:
        self.access = by
        # Ansible's open_url takes no context, and so no authority or certificate out of a kubeconfig.
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=by.context))

    def request(
        self, method: str, path: str, body: Json | None = None, kind: str = "application/json"
    ) -> Json:
        """Return the answer; raise what the server says of it."""
        request = urllib.request.Request(
            self.access.server + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Accept": "application/json", "Content-Type": kind, **self.access.headers},
            method=method,
        )
        try:
            with self._opener.open(request, timeout=REQUEST_TIMEOUT) as answer:
                return dict(json.loads(answer.read() or b"{}"))
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            with contextlib.suppress(ValueError, AttributeError):
                text = json.loads(text).get("message") or text
            raise KubernetesError(f"{method} {path}: {text} (HTTP {error.code})", error.code) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise KubernetesError(f"the Kubernetes API at {self.access.server}: {reason}") from error

    def node(self, name: str) -> Json:
        """Return a node; say which there are where it is not known."""
        try:
            return self.request("GET", f"/api/v1/nodes/{urllib.parse.quote(name)}")
        except KubernetesError as error:
            if error.status != 404:
                raise
            known = ", ".join(sorted(node["metadata"]["name"] for node in self.nodes())[:10])
            raise KubernetesError(
                f"node: the cluster has no node {name!r} (it has {known or 'none'}): set "
                "fleet_kubernetes_node to its name in Kubernetes",
                404,
            ) from error

    def nodes(self) -> list[Json]:
        """Return all nodes."""
        return list(self.request("GET", "/api/v1/nodes").get("items") or [])

    def pods(self, node: str) -> list[Json]:
        """Return the Pods on a node."""
        query = urllib.parse.urlencode({"fieldSelector": f"spec.nodeName={node}"})
        return list(self.request("GET", f"/api/v1/pods?{query}").get("items") or [])

    def patch_node(self, name: str, unschedulable: bool | None, owner: str | None, version: str) -> Json:
        """Cordon or uncordon a node and note whose doing it is; refused if it changed since it was read."""
        return self.request(
            "PATCH",
            f"/api/v1/nodes/{urllib.parse.quote(name)}",
            {
                "metadata": {"annotations": {ANNOTATION: owner}, "resourceVersion": version},
                "spec": {"unschedulable": unschedulable},
            },
            "application/merge-patch+json",
        )

    def eviction_version(self) -> str:
        """Return the version of policy that evictions have here: v1 from Kubernetes 1.22 on."""
        for resource in self.request("GET", "/api/v1").get("resources") or []:
            if resource.get("name") == "pods/eviction":
                return str(resource.get("version") or "v1")
        raise KubernetesError(
            "the Kubernetes API has no evictions: a drain would not respect disruption budgets"
        )

    def evict(self, pod: Json, version: str, grace: int | None) -> None:
        """Ask for the eviction of a Pod, which its disruption budget may refuse (HTTP 429)."""
        meta = pod["metadata"]
        options: Json = {"preconditions": {"uid": meta["uid"]}}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        self.request(
            "POST",
            f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/eviction",
            {
                "apiVersion": f"policy/{version}",
                "kind": "Eviction",
                "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
                "deleteOptions": options,
            },
        )


# What is to be done


def label(pod: Json) -> str:
    """Return a Pod's name as people write it."""
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def cordoned_by(node: Json) -> str:
    """Return which owner of this collection cordoned the node; empty if none."""
    return str((node["metadata"].get("annotations") or {}).get(ANNOTATION) or "")


def _controller(pod: Json) -> str:
    for owner in pod["metadata"].get("ownerReferences") or []:
        if owner.get("controller"):
            return str(owner.get("kind"))
    return ""


def evictable(pods: Iterable[Json], force: bool, emptydir: bool) -> tuple[list[Json], list[str]]:
    """Return the Pods that a drain evicts, and why some of them must not be: what would be lost.

    Pods of a DaemonSet would come back at once, mirror Pods are files of the node, and done is done.
    """
    found, refused = [], []
    for pod in pods:
        meta, owner = pod["metadata"], _controller(pod)
        done = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        if owner == "DaemonSet" or MIRROR in (meta.get("annotations") or {}):
            continue
        if not done and not owner and not force:
            refused.append(f"{label(pod)} has no controller that would make it again")
        volumes = (pod.get("spec") or {}).get("volumes") or []
        if not done and not emptydir and any("emptyDir" in volume for volume in volumes):
            refused.append(f"{label(pod)} has an emptyDir, whose data is lost")
        found.append(pod)
    return found, refused


def over_cap(nodes: Iterable[Json], name: str, cap: int) -> str:
    """Return why ``name`` must not be cordoned now, or nothing: ``cap`` nodes are the most at once."""
    others = sorted(
        node["metadata"]["name"] for node in nodes if cordoned_by(node) and node["metadata"]["name"] != name
    )
    if not cap or len(others) < cap:
        return ""
    return (
        f"max_cordoned: {len(others)} others are cordoned by this collection ({', '.join(others[:10])}), and "
        f"no more than {cap} may be at once: roll out to them again, which uncordons them, or raise "
        "fleet_max_unavailable"
    )


@dataclass
class Outcome:
    """What was done, or in check mode would be."""

    changed: bool = False
    cordoned: bool = False
    evicted: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Desired:
    """What is asked for; see the module's options."""

    name: str
    owner: str = "site"
    force: bool = False
    emptydir: bool = False
    grace: int | None = None
    timeout: int = 600
    cap: int = 0


def cordon(api: Api, want: Desired, check: bool) -> Outcome:
    """Cordon a node, unless somebody did."""
    node = api.node(want.name)
    refusal = over_cap(api.nodes(), want.name, want.cap) if want.cap else ""
    if refusal:
        raise KubernetesError(refusal)
    if node["spec"].get("unschedulable"):
        whose = cordoned_by(node)
        return Outcome(cordoned=True, note="" if whose else "it was cordoned before, and will stay so")
    if not check:
        api.patch_node(want.name, True, want.owner, node["metadata"]["resourceVersion"])
    return Outcome(changed=True, cordoned=True)


def drain(api: Api, want: Desired, check: bool, sleep: Callable[[float], None] = time.sleep) -> Outcome:
    """Cordon a node and evict its Pods; wait until they are gone. It stays cordoned where that fails."""
    pods, refused = evictable(api.pods(want.name), want.force, want.emptydir)
    if refused:
        raise KubernetesError(
            f"{want.name} is not drained: {'; '.join(refused)}: move them, or set "
            "fleet_kubernetes_force (no controller) or fleet_kubernetes_delete_emptydir_data (emptyDir)"
        )
    outcome = cordon(api, want, check)
    names = {pod["metadata"]["uid"]: label(pod) for pod in pods}
    if check or not pods:
        outcome.evicted = sorted(names.values())
        outcome.changed = outcome.changed or bool(pods)
        return outcome
    version = api.eviction_version()
    deadline = time.monotonic() + want.timeout
    asked: set[str] = set()
    refusals: dict[str, str] = {}
    while pods:
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if uid in asked or pod["metadata"].get("deletionTimestamp"):
                continue
            try:
                api.evict(pod, version, want.grace)
                outcome.changed = True
                refusals.pop(uid, None)
                asked.add(uid)
            except KubernetesError as error:
                if error.status in (404, 409):  # It is gone, or another one has its name.
                    asked.add(uid)
                elif error.status in (
                    429,
                    500,
                ):  # Its budget has nothing left now, or two budgets are its own.
                    refusals[uid] = f"{label(pod)}: {error}"
                else:
                    raise
        there = {pod["metadata"]["uid"] for pod in api.pods(want.name)}
        pods = [pod for pod in pods if pod["metadata"]["uid"] in there]
        if not pods:
            break
        if time.monotonic() >= deadline:
            why = "; ".join([*refusals.values()] or [f"{label(pod)} still runs" for pod in pods])
            raise KubernetesError(
                f"{want.name} is not drained after {want.timeout} s and stays cordoned: {why}: see its "
                "disruption budgets, or allow more time (fleet_kubernetes_timeout)"
            )
        sleep(POLL)
    outcome.evicted = sorted(names.values())
    return outcome


def uncordon(api: Api, want: Desired, check: bool) -> Outcome:
    """Uncordon a node if this owner cordoned it."""
    node = api.node(want.name)
    unschedulable = bool(node["spec"].get("unschedulable"))
    whose = cordoned_by(node)
    if whose != want.owner:
        who = f"by {whose}" if whose else "by somebody else"
        return Outcome(
            cordoned=unschedulable, note=f"it is cordoned {who}, and stays so" if unschedulable else ""
        )
    if not check:
        api.patch_node(want.name, None, None, node["metadata"]["resourceVersion"])
    return Outcome(changed=True)
