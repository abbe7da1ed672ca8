# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Credential plugins of a kubeconfig, and the renewal of credentials."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.podnet.datapath.plugins.module_utils._ops import exec_credential, kubernetes

V1, V1BETA1 = exec_credential.VERSIONS
Write = Callable[..., str]


def answer(version: str = V1, **status: Any) -> str:
    return json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status})


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a kubeconfig and its plugin, a shell script."""

    def made(script: str, cluster: dict[str, Any] | None = None, **settings: Any) -> str:
        (tmp_path / "plugin").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "plugin").chmod(0o755)
        plugin = {"apiVersion": V1, "command": "./plugin", "interactiveMode": "Never", **settings}
        config = {
            "current-context": "a",
            "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", **(cluster or {})}}],
            "users": [{"name": "u", "user": {"exec": plugin}}],
        }
        (tmp_path / "config").write_text(json.dumps(config))
        return str(tmp_path / "config")

    return made


@pytest.mark.parametrize("version", [V1, V1BETA1])
def test_plugin_gets_args_env_and_info(write: Write, tmp_path: Path, version: str) -> None:
    script = f"""printf '%s|%s' "$*" "$EXTRA" >'{tmp_path}/seen'
printf %s "$KUBERNETES_EXEC_INFO" >'{tmp_path}/info'
[ ! -t 0 ] && cat >&2 && echo '{answer(version, token="secret")}'"""
    path = write(script, apiVersion=version, args=["get", "a b"], env=[{"name": "EXTRA", "value": "x"}])
    found = kubernetes.access(path)
    assert found.headers == {"Authorization": "Bearer secret"} and found.expires == float("inf")
    assert (tmp_path / "seen").read_text() == "get a b|x"
    assert json.loads((tmp_path / "info").read_text()) == {
        "apiVersion": version,
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }


def test_plugin_gets_the_cluster_on_request(write: Write, tmp_path: Path) -> None:
    extension = {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "x"}}
    cluster = {"insecure-skip-tls-verify": True, "extensions": [{"name": "other"}, extension]}
    script = f"""printf %s "$KUBERNETES_EXEC_INFO" >'{tmp_path}/info'; echo '{answer(token="t")}'"""
    kubernetes.access(write(script, cluster, provideClusterInfo=True))
    assert json.loads((tmp_path / "info").read_text())["spec"]["cluster"] == {
        "server": "https://127.0.0.1:1",
        "insecure-skip-tls-verify": True,
        "config": {"audience": "x"},
    }
    given = exec_credential._cluster({"server": "s", "certificate-authority": "/ca"}, b"pem")
    assert given == {"server": "s", "certificate-authority-data": base64.b64encode(b"pem").decode()}


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("2030-01-01T00:00:00Z", 1893456000),
        ("2030-01-01T00:00:00.123456789Z", 1893456000),
        ("2030-01-01T01:00:00+01:00", 1893456000),
    ],
)
def test_expiration(write: Write, stamp: str, seconds: int) -> None:
    found = kubernetes.access(write(f"echo '{answer(token='t', expirationTimestamp=stamp)}'"))
    assert found.expires == seconds


@pytest.mark.parametrize(
    ("script", "settings", "said"),
    [
        ("echo log in >&2; exit 3", {}, "exit status 3: log in: run it on the controller"),
        ("echo secret", {}, "not an ExecCredential"),
        ("echo '[]'", {}, "not an ExecCredential"),
        (f"echo '{answer(V1BETA1, token='secret')}'", {}, "returned apiVersion '.*v1beta1'"),
        (f"echo '{answer()}'", {}, "neither a token nor a client certificate"),
        (f"echo '{answer(clientCertificateData='secret')}'", {}, "neither a token nor a client certificate"),
        (
            f"echo '{answer(clientCertificateData='secret', clientKeyData='secret')}'",
            {},
            "exec command './plugin': .*PEM",
        ),
        (f"echo '{answer(token='t', expirationTimestamp='soon')}'", {}, "expirationTimestamp 'soon'"),
        ("printf '%s' '" + answer(token="secret\n") + "'", {}, "the token has white space"),
        ("", {"command": "./none", "installHint": "see example.org"}, "'./none'.*: see example.org"),
        ("", {"command": "no-such-command"}, "'no-such-command'.*install it on the controller"),
        ("", {"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "v1alpha1' is not supported: use"),
        ("", {"interactiveMode": "Always"}, "interactiveMode 'Always'.*Never or IfAvailable"),
        ("", {"interactiveMode": None}, "interactiveMode None"),
        ("", {"env": [{"name": "X"}]}, "env is not a list of name and value"),
        ("", {"command": ""}, "exec has no command"),
    ],
)
def test_plugin_errors(write: Write, script: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(kubernetes.KubernetesError, match=said) as raised:
        kubernetes.access(write(script, **settings))
    assert "user 'u'" in str(raised.value) and "secret" not in str(raised.value)


def test_timeout_ends_the_plugin_with_its_children(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_credential, "TIMEOUT", 0.3)
    start = time.monotonic()
    with pytest.raises(kubernetes.KubernetesError, match=r"no answer within 0.3 s"):
        kubernetes.access(write("sleep 20 & sleep 20"))
    assert time.monotonic() - start < 5


def test_budget_selectors() -> None:
    rules = [{"key": "app", "operator": "In", "values": ["db"]}, {"key": "x", "operator": "DoesNotExist"}]
    for selector, version, selected in [
        ({"matchLabels": {"app": "db"}}, "v1", True),
        ({"matchLabels": {"app": "web"}}, "v1", False),
        ({"matchExpressions": rules}, "v1", True),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}, "v1", False),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, "v1", True),
        ({}, "v1", True),
        ({}, "v1beta1", False),
        (None, "v1", False),
    ]:
        assert kubernetes._selects(selector, {"app": "db"}, version) == selected
