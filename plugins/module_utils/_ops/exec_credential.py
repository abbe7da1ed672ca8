# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run the credential plugin of a kubeconfig's ``exec``, as client-go does.

Source: kubernetes.io/docs, "Authenticating", section "client-go credential plugins".
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import Any

from .._core.plan import Problem

GROUP = "client.authentication.k8s.io/"
VERSIONS = (f"{GROUP}v1", f"{GROUP}v1beta1")
TIMEOUT = 60  # seconds
CLUSTER_FIELDS = (
    *("server", "tls-server-name", "insecure-skip-tls-verify", "certificate-authority-data"),
    *("proxy-url", "disable-compression"),
)
Json = dict[str, Any]


@dataclass(frozen=True)
class Credential:
    """What a plugin returned; empty where it returned nothing."""

    token: str = ""
    certificate: bytes = b""
    key: bytes = b""
    expires: float = float("inf")  # seconds since the epoch


def run(settings: Json, cluster: Json, authority: bytes, folder: str, user: str) -> Credential:
    """Run the plugin and return its credential; raises ``Problem``.

    ``authority`` is the CA of the cluster, ``folder`` that of the kubeconfig.
    """
    if not isinstance(settings, dict):
        raise Problem(f"kubeconfig: user {user!r}: exec is not a mapping: set its apiVersion and command")
    version, command = settings.get("apiVersion"), str(settings.get("command") or "")
    who = f"kubeconfig: user {user!r}, exec command {command!r}"
    if not command:
        raise Problem(f"kubeconfig: user {user!r}: exec has no command: set it to the credential plugin")
    if version not in VERSIONS:
        raise Problem(f"{who}: apiVersion {version!r} is not supported: use {' or '.join(VERSIONS)}")
    mode = settings.get("interactiveMode") or ("IfAvailable" if version == VERSIONS[1] else None)
    if mode not in ("Never", "IfAvailable"):
        raise Problem(
            f"{who}: interactiveMode {mode!r} is not supported, because nobody can answer a prompt: set it to"
            " Never or IfAvailable, or use a token (kubectl create token)"
        )
    spec: Json = {"interactive": False}
    if settings.get("provideClusterInfo"):
        spec["cluster"] = _cluster(cluster, authority)
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    environment = dict(os.environ)
    try:
        environment.update({str(entry["name"]): str(entry["value"]) for entry in settings.get("env") or []})
    except (KeyError, TypeError):
        raise Problem(f"{who}: env is not a list of name and value: correct it") from None
    environment["KUBERNETES_EXEC_INFO"] = json.dumps(info)
    # As in client-go, a command with a slash is relative to the kubeconfig.
    path = os.path.join(folder, command) if "/" in command else command
    found = shutil.which(path)
    if not found:
        hint = settings.get("installHint") or "install it on the controller, or set its absolute path"
        raise Problem(f"{who}: the command does not exist or is not executable: {str(hint).strip()}")
    words = [found, *map(str, settings.get("args") or [])]
    return _parse(_output(words, environment, who), str(version), who)


def _cluster(cluster: Json, authority: bytes) -> Json:
    given = {name: cluster[name] for name in CLUSTER_FIELDS if cluster.get(name)}
    if authority:
        given["certificate-authority-data"] = base64.b64encode(authority).decode()
    for entry in cluster.get("extensions") or []:
        if entry.get("name") == f"{GROUP}exec":
            given["config"] = entry.get("extension")
    return given


def _output(words: list[str], environment: dict[str, str], who: str) -> str:
    try:
        process = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise Problem(f"{who}: {error}: run it on the controller to find the cause") from error
    try:
        out, errors = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        # Its children hold the pipes as well.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise Problem(
            f"{who}: no answer within {TIMEOUT} s: run it on the controller, and log in if it waits for that"
        ) from None
    if process.returncode:
        text = errors.decode(errors="replace").strip()[-500:] or "no message"
        raise Problem(
            f"{who}: exit status {process.returncode}: {text}: run it on the controller, and log in if needed"
        )
    return out.decode(errors="replace")


def _parse(text: str, version: str, who: str) -> Credential:
    """Return the credential of an ExecCredential. No error quotes ``text``, which may have a secret."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("kind") != "ExecCredential":
        raise Problem(f"{who}: its output is not an ExecCredential in JSON: check the command and its args")
    if found.get("apiVersion") != version:
        raise Problem(
            f"{who}: it returned apiVersion {found.get('apiVersion')!r}, but exec has {version!r}: set exec's"
            " apiVersion to the one that the command supports"
        )
    status = found.get("status") or {}
    token = str(status.get("token") or "")
    pair = [str(status.get(name) or "").encode() for name in ("clientCertificateData", "clientKeyData")]
    if bool(pair[0]) != bool(pair[1]) or not (token or pair[0]):
        raise Problem(
            f"{who}: it returned neither a token nor a client certificate with its key: log in on the"
            " controller, and check the command's args"
        )
    return Credential(token, pair[0], pair[1], _seconds(status.get("expirationTimestamp"), who))


def _seconds(stamp: Any, who: str) -> float:
    if not stamp:
        return float("inf")
    parts = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", str(stamp))
    try:
        if not parts:
            raise ValueError("not RFC 3339")
        zone = "+00:00" if parts[2] == "Z" else parts[2]
        return datetime.datetime.fromisoformat(parts[1] + zone).timestamp()
    except ValueError as error:
        raise Problem(
            f"{who}: expirationTimestamp {stamp!r} is invalid ({error}): update the command"
        ) from error
