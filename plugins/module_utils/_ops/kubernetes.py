# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the Kubernetes API, with nothing but the standard library.

A kubeconfig is JSON, or YAML if PyYAML is installed.
Sources: kubernetes.io/docs, "Organizing Cluster Access Using kubeconfig Files", "API-initiated Eviction".
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import http.client
import json
import os
import ssl
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._core.plan import Problem
from . import exec_credential

ANNOTATION = "podnet.datapath/cordoned-by"
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
REQUEST_TIMEOUT = 30
RETRY_PERIOD = 2.0  # seconds between two attempts to reach the API server
# A load balancer or the server itself answers that the API is not available at the moment.
UNAVAILABLE = (502, 503, 504)
FILE_PERIOD = 60  # seconds after which the kubeconfig and other files with credentials are read again

Json = dict[str, Any]


class KubernetesError(Problem):
    """An error of the API or of the kubeconfig; ``status`` is the HTTP status, 0 if there is none.

    ``unavailable``: another attempt may succeed, because the server is not reachable at the moment.
    """

    def __init__(self, message: str, status: int = 0, unavailable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.unavailable = unavailable or status in UNAVAILABLE


# Access


@dataclass(frozen=True)
class Access:
    """The API server, and the credentials for it.

    ``renew`` returns new credentials, after ``expires`` (seconds since the epoch) or when the API rejects
    these; it is ``None`` if there are no others. ``origin`` names the credential plugin in errors.
    """

    server: str
    context: ssl.SSLContext | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    expires: float = float("inf")
    renew: Callable[[], Access] | None = None
    origin: str = ""


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
            raise KubernetesError(f"kubeconfig: {path} is neither JSON nor YAML: {error}") from None
    if not isinstance(found, dict):
        raise KubernetesError(f"kubeconfig: {path} is not a kubeconfig")
    return found


def _named(config: Json, kind: str, name: str, path: str) -> Json:
    with contextlib.suppress(AttributeError, TypeError, ValueError):  # not a list of mappings
        for entry in config.get(f"{kind}s") or []:
            if entry.get("name") == name:
                return dict(entry.get(kind) or {})
    raise KubernetesError(f"kubeconfig: {path} has no {kind} {name!r}")


def _bytes(entry: Json, key: str, folder: str) -> bytes:
    """Return a certificate or key, which is inline as base64 or in a file; empty if there is none."""
    inline = entry.get(f"{key}-data")
    if isinstance(inline, bytes):  # PEM, from a plugin
        return inline
    if inline:
        return base64.b64decode(inline)
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
        raise KubernetesError(f"kubeconfig: {error}") from None
    wanted = context or config.get("current-context") or ""
    chosen = _named(config, "context", wanted, path)
    cluster = _named(config, "cluster", chosen.get("cluster", ""), path)
    user = _named(config, "user", chosen["user"], path) if chosen.get("user") else {}
    folder = os.path.dirname(path)
    if not cluster.get("server"):
        raise KubernetesError(f"kubeconfig: {path} has no server for context {wanted!r}")
    name = chosen.get("user", "")
    if "auth-provider" in user:
        raise KubernetesError(
            f"kubeconfig: {path}: user {name!r} uses an auth-provider, which Kubernetes 1.26 removed: replace"
            " it with exec and the credential plugin of your provider, or with a token (kubectl create token)"
        )
    plugin = user.get("exec") if not user.get("token") and not user.get("tokenFile") else None
    origin = f"user {name!r}"
    if isinstance(plugin, dict):
        origin += f", exec command {plugin.get('command')!r}"
    try:
        login = _login(user, cluster, folder, name)
        if login.key:
            user = {"client-certificate-data": login.certificate, "client-key-data": login.key}
        headers = {"Authorization": f"Bearer {login.token}"} if login.token else {}
        return Access(
            cluster["server"].rstrip("/"),
            _tls(cluster, user, folder),
            headers,
            # Operators replace server, CA and token, and kubelet its client certificate. A plugin takes long.
            login.expires if plugin else time.time() + FILE_PERIOD,
            functools.partial(access, kubeconfig, context),
            origin if plugin else "",
        )
    except (OSError, ValueError) as error:
        raise KubernetesError(f"kubeconfig: {path}: {origin}: {error}") from None
    except Problem as problem:  # of the plugin: callers of ``Api`` handle the errors of this class
        raise KubernetesError(str(problem)) from problem


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


def _login(user: Json, cluster: Json, folder: str, name: str) -> exec_credential.Credential:
    """Return the credential of a user. As in client-go, a token has precedence over a plugin."""
    if user.get("tokenFile"):
        return exec_credential.Credential(_token(os.path.join(folder, user["tokenFile"])))
    if user.get("token") or not user.get("exec"):
        return exec_credential.Credential(_checked(str(user.get("token") or "")))
    authority = _bytes(cluster, "certificate-authority", folder)
    found = exec_credential.run(user["exec"], cluster, authority, os.path.abspath(folder), name)
    _checked(found.token)
    return found


def _token(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return _checked(file.read().strip())


def _checked(token: str) -> str:
    """Return a token. urllib would quote one with a line break in its error."""
    if not all("!" <= character <= "~" for character in token):
        raise ValueError("the token has white space or other invalid characters: replace it")
    return token


def _service_account() -> Access:
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{name}", "") for name in ("HOST", "PORT"))
    try:
        token = _token(f"{SERVICE_ACCOUNT}/token")
        tls = ssl.create_default_context(cafile=f"{SERVICE_ACCOUNT}/ca.crt")
    except (OSError, ValueError):
        raise KubernetesError(
            "kubeconfig: not set, and this process does not run in a Pod: set the path of a kubeconfig"
        ) from None
    host = f"[{host}]" if ":" in host else host
    headers = {"Authorization": f"Bearer {token}"}
    return Access(f"https://{host}:{port}", tls, headers, time.time() + FILE_PERIOD, _service_account)


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
    """Requests to one API server. Raises ``KubernetesError`` if a token would be sent unencrypted.

    While the server is unavailable, a request is repeated for ``patience`` seconds.
    """

    def __init__(self, access: Access, patience: float = 0) -> None:
        self.patience = patience
        self._connect(access)

    def _connect(self, access: Access) -> None:
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
        """Return the parsed response; raises ``KubernetesError`` with the server's message.

        Renews credentials that expired, or that the server rejects.
        """
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return self._request(method, path, body, kind)
            except KubernetesError as error:
                if not error.unavailable or time.monotonic() >= deadline:
                    raise
            time.sleep(RETRY_PERIOD)

    def find(self, path: str) -> Json | None:
        """Return an object, None if it does not exist; raises ``KubernetesError``."""
        try:
            return self.request("GET", path)
        except KubernetesError as error:
            if error.status != 404:
                raise
            return None

    def patch(self, path: str, body: Json) -> Json:
        """Change fields of an object by a merge patch, in which None removes a field."""
        return self.request("PATCH", path, body, "application/merge-patch+json")

    def _request(self, method: str, path: str, body: Json | None, kind: str) -> Json:
        self._renew_expired()
        try:
            return self._send(method, path, body, kind)
        except KubernetesError as error:
            if error.status != 401 or not self.access.renew:
                raise
        self._connect(self.access.renew())
        try:
            return self._send(method, path, body, kind)
        except KubernetesError as error:
            if error.status != 401 or not self.access.origin:
                raise
            raise KubernetesError(
                f"kubeconfig: {self.access.origin}: the API rejects its credentials: {error}: check its args"
                " and env, and the account that is logged in on the controller",
                401,
            ) from None

    def stream(self, path: str, timeout: float) -> Iterator[Json]:
        """Yield the events of a watch until the server ends it; raises ``KubernetesError``.

        ``timeout`` is the time without data, in seconds, after which the connection is considered dead.
        """
        self._renew_expired()
        with self._errors("GET", path), self._open("GET", path, None, "application/json", timeout) as answer:
            for line in answer:
                yield dict(json.loads(line))

    def _renew_expired(self) -> None:
        if self.access.renew and time.time() >= self.access.expires:
            self._connect(self.access.renew())

    def _open(self, method: str, path: str, body: Json | None, kind: str, timeout: float) -> Any:
        request = urllib.request.Request(
            self.access.server + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Accept": "application/json", "Content-Type": kind, **self.access.headers},
            method=method,
        )
        return self._opener.open(request, timeout=timeout)

    def _send(self, method: str, path: str, body: Json | None, kind: str) -> Json:
        with self._errors(method, path), self._open(method, path, body, kind, REQUEST_TIMEOUT) as answer:
            return dict(json.loads(answer.read() or b"{}"))

    @contextlib.contextmanager
    def _errors(self, method: str, path: str) -> Iterator[None]:
        """Raise ``KubernetesError`` for the errors of a request."""
        try:
            yield
        except urllib.error.HTTPError as error:
            text = _message(error.read().decode(errors="replace"))
            raise KubernetesError(f"{method} {path}: {text} (HTTP {error.code})", error.code) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise KubernetesError(
                f"the Kubernetes API at {self.access.server}: {reason}", unavailable=_is_unavailable(reason)
            ) from None

    def node(self, name: str) -> Json:
        """Return a node; raises ``KubernetesError`` that lists the nodes if it does not exist."""
        found = self.find(f"/api/v1/nodes/{urllib.parse.quote(name)}")
        if found is None:
            known = ", ".join(sorted(node["metadata"]["name"] for node in self.nodes())[:10])
            raise KubernetesError(
                f"node: the cluster has no node {name!r} (its nodes: {known or 'none'}): set "
                "fleet_kubernetes_node to its name in Kubernetes",
                404,
            )
        return found

    def nodes(self) -> list[Json]:
        """Return all nodes."""
        return list(self.request("GET", "/api/v1/nodes").get("items") or [])

    def pods(self, node: str, selector: str = "") -> list[Json]:
        """Return the Pods on a node that a label selector matches; raises if the API cannot parse it."""
        fields = {"fieldSelector": f"spec.nodeName={node}"}
        query = urllib.parse.urlencode({**fields, "labelSelector": selector} if selector else fields)
        try:
            return list(self.request("GET", f"/api/v1/pods?{query}").get("items") or [])
        except KubernetesError as error:
            if error.status != 400 or not selector:
                raise
            raise KubernetesError(
                f"pod_selector: {selector!r} is not a label selector: {error}: use for example app=web or"
                " 'app notin (db)' (fleet_kubernetes_pod_selector)",
                400,
            ) from None

    def budgets(self, pod: Json, version: str) -> list[str]:
        """Return the names of the PodDisruptionBudgets that select a Pod."""
        meta = pod["metadata"]
        path = f"/apis/policy/{version}/namespaces/{meta['namespace']}/poddisruptionbudgets"
        found = self.request("GET", path).get("items") or []
        return sorted(
            budget["metadata"]["name"]
            for budget in found
            if _selects(budget["spec"].get("selector"), meta.get("labels") or {}, version)
        )

    def patch_node(self, name: str, unschedulable: bool | None, owner: str | None, version: str) -> Json:
        """Cordon or uncordon a node and annotate its owner. Fails if the node changed since it was read."""
        return self.patch(
            f"/api/v1/nodes/{urllib.parse.quote(name)}",
            {
                "metadata": {"annotations": {ANNOTATION: owner}, "resourceVersion": version},
                "spec": {"unschedulable": unschedulable},
            },
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
        self.request(
            "POST",
            f"{_path(meta)}/eviction",
            {
                "apiVersion": f"policy/{version}",
                "kind": "Eviction",
                "metadata": {"name": meta["name"], "namespace": meta["namespace"]},
                "deleteOptions": _delete_options(meta, grace),
            },
        )

    def delete(self, pod: Json, grace: int | None) -> None:
        """Delete a Pod, regardless of its PodDisruptionBudgets."""
        meta = pod["metadata"]
        options = {"apiVersion": "v1", "kind": "DeleteOptions", **_delete_options(meta, grace)}
        self.request("DELETE", _path(meta), options)


def _is_unavailable(reason: object) -> bool:
    """Return whether an error of a connection may pass, unlike an unknown name or an invalid certificate."""
    if isinstance(reason, (ConnectionError, TimeoutError, http.client.IncompleteRead)):
        return True
    return isinstance(reason, OSError) and reason.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)


def _path(meta: Json) -> str:
    return f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"


def _delete_options(meta: Json, grace: int | None) -> Json:
    options: Json = {"preconditions": {"uid": meta["uid"]}}
    if grace is not None:
        options["gracePeriodSeconds"] = grace
    return options


def _message(text: str) -> str:
    """Return the message of a Status, with the PodDisruptionBudgets that caused it."""
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        status = json.loads(text)
        causes = (status.get("details") or {}).get("causes") or []
        budgets = [cause["message"] for cause in causes if cause.get("reason") == "DisruptionBudget"]
        return " ".join([status.get("message") or text, *budgets])
    return text


def _selects(selector: Json | None, labels: Mapping[str, str], version: str) -> bool:
    """Return whether a budget selects a Pod. An empty selector selects all Pods in v1, none in v1beta1."""
    if not selector:
        return selector is not None and version != "v1beta1"
    return selects(selector, labels)


def selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Return whether a LabelSelector selects an object with these labels; an empty one selects all."""
    wanted: Iterable[tuple[str, str]] = (selector.get("matchLabels") or {}).items()
    return all(labels.get(key) == value for key, value in wanted) and all(
        {
            "In": key in labels and labels[key] in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        for key, operator, values in (
            (rule["key"], rule["operator"], rule.get("values") or ())
            for rule in selector.get("matchExpressions") or []
        )
    )
