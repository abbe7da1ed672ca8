# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the Kubernetes API, with nothing but the standard library.

A kubeconfig is JSON, or YAML if PyYAML is installed.
Sources: kubernetes.io/docs, "Organizing Cluster Access Using kubeconfig Files", "API-initiated Eviction".
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import ssl
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._core.plan import Problem

ANNOTATION = "podnet.datapath/cordoned-by"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
REQUEST_TIMEOUT = 30

Json = dict[str, Any]


class KubernetesError(Problem):
    """An error of the API or of the kubeconfig; ``status`` is the HTTP status, 0 if there is none."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


# Access


@dataclass(frozen=True)
class Access:
    """The API server, and the credentials for it."""

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
                f"kubeconfig: {path} is YAML, which requires PyYAML: install it, or use a JSON kubeconfig"
                " (kubectl config view --raw -o json)"
            ) from None
        try:
            found = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise KubernetesError(f"kubeconfig: {path} is neither JSON nor YAML: {error}") from error
    if not isinstance(found, dict):
        raise KubernetesError(f"kubeconfig: {path} is not a kubeconfig")
    return found


def _named(config: Json, kind: str, name: str, path: str) -> Json:
    for entry in config.get(f"{kind}s") or []:
        if entry.get("name") == name:
            return dict(entry.get(kind) or {})
    raise KubernetesError(f"kubeconfig: {path} has no {kind} {name!r}")


def _bytes(entry: Json, key: str, folder: str) -> bytes:
    """Return a certificate or key, which is inline as base64 or in a file; empty if there is none."""
    if entry.get(f"{key}-data"):
        return base64.b64decode(entry[f"{key}-data"])
    if entry.get(key):
        with open(os.path.join(folder, entry[key]), "rb") as file:
            return file.read()
    return b""


def access(kubeconfig: str | None, context: str | None = None) -> Access:
    """Return the access of a kubeconfig, without one that of the service account; raises ``Problem``."""
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
        raise KubernetesError(f"kubeconfig: {path} has no server for context {wanted!r}")
    for key in ("exec", "auth-provider"):
        if key in user:
            raise KubernetesError(
                f"kubeconfig: {path} authenticates through {key!r}, which is not supported: use a kubeconfig "
                "with a token or a client certificate (kubectl create token)"
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
        with (
            tempfile.NamedTemporaryFile() as file
        ):  # The ssl module reads them only from files; this one has mode 0600.
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
            "kubeconfig: not set, and this process does not run in a Pod: set the path of a kubeconfig"
        ) from error
    host = f"[{host}]" if ":" in host else host
    return Access(f"https://{host}:{port}", tls, {"Authorization": f"Bearer {token}"})


class _RefuseRedirects(urllib.request.HTTPRedirectHandler):
    """Refuses redirects: urllib would send the token to any other server, also over plain HTTP."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        raise KubernetesError(
            f"{req.get_method()} {req.selector}: the server redirects to {newurl} (HTTP {code}), which is"
            " refused, because that server would get the credentials: set the kubeconfig's server to it if"
            " it is the API",
            code,
        )


class Api:
    """The requests that a drain needs. Raises ``KubernetesError`` if a token would be sent unencrypted."""

    def __init__(self, access: Access) -> None:
        if access.headers and not access.server.startswith("https://"):
            raise KubernetesError(
                f"the Kubernetes API at {access.server}: a token over plain HTTP is refused, because it could"
                " be read on the network: set the kubeconfig's server to https://"
            )
        self.access = access
        # Ansible's open_url accepts no TLS context, which the kubeconfig's CA and client certificate need.
        self._opener = urllib.request.build_opener(
            urllib.request.HTTPSHandler(context=access.context), _RefuseRedirects()
        )

    def request(
        self, method: str, path: str, body: Json | None = None, kind: str = "application/json"
    ) -> Json:
        """Return the parsed response; raises ``KubernetesError`` with the server's message."""
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
        """Return a node; raises ``KubernetesError`` that lists the nodes if it does not exist."""
        try:
            return self.request("GET", f"/api/v1/nodes/{urllib.parse.quote(name)}")
        except KubernetesError as error:
            if error.status != 404:
                raise
            known = ", ".join(sorted(node["metadata"]["name"] for node in self.nodes())[:10])
            raise KubernetesError(
                f"node: the cluster has no node {name!r} (its nodes: {known or 'none'}): set "
                "fleet_kubernetes_node to its name in Kubernetes",
                404,
            ) from None

    def nodes(self) -> list[Json]:
        """Return all nodes."""
        return list(self.request("GET", "/api/v1/nodes").get("items") or [])

    def pods(self, node: str) -> list[Json]:
        """Return the Pods on a node."""
        query = urllib.parse.urlencode({"fieldSelector": f"spec.nodeName={node}"})
        return list(self.request("GET", f"/api/v1/pods?{query}").get("items") or [])

    def patch_node(self, name: str, unschedulable: bool | None, owner: str | None, version: str) -> Json:
        """Cordon or uncordon a node and annotate its owner. Fails if the node changed since it was read."""
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
        """Return the version of the policy API for evictions: v1 since Kubernetes 1.22."""
        for resource in self.request("GET", "/api/v1").get("resources") or []:
            if resource.get("name") == "pods/eviction":
                return str(resource.get("version") or "v1")
        raise KubernetesError(
            "the Kubernetes API has no evictions, so a drain would ignore PodDisruptionBudgets"
        )

    def evict(self, pod: Json, version: str, grace: int | None) -> None:
        """Request the eviction of a Pod; its PodDisruptionBudget may refuse it (HTTP 429)."""
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
