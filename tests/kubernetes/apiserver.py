# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kube-apiserver and etcd for tests, built once from Debian's source and cached.

Debian packages kubectl and etcd, but no kube-apiserver; its kubectl source is all of Kubernetes 1.20.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from lablib import common, debian

SUITE = "bookworm"
PACKAGES = ("etcd-server", "golang-go", "jq", "make", "rsync")
TOKEN = "test"


def binaries() -> Path:
    """Return the folder with ``etcd`` and ``kube-apiserver``; build it unless it is cached."""
    common.require_root_and_commands()
    recipe = "".join([SUITE, *PACKAGES, *map(inspect.getsource, (_build, _source))])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folder = common.cache_dir() / "kube-apiserver" / key
    with common.lock("kube-apiserver"):
        if not folder.exists():
            with (
                common.step("kube-apiserver (packages, source, build)", 420),
                common.built_dir(folder) as work,
                tempfile.TemporaryDirectory(dir=folder.parent) as scratch,
            ):
                _build(Path(scratch) / "root", work)
            for old in folder.parent.iterdir():
                if old != folder:
                    common.remove_tree(old)
    return folder


def _build(root: Path, target: Path) -> None:
    debian.make_root(root, SUITE, PACKAGES, variant="minbase")
    source = root / "src/k8s.io/kubernetes"  # below a GOPATH
    source.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        archive = _source(Path(scratch))
        common.run(["tar", "-C", source, "-xf", archive, "--strip-components=1"])
    # The build scripts read /dev/fd, a link to /proc.
    prepare = 'mount --rbind /proc "$0/proc" && ln -sfn /proc/self/fd "$0/dev/fd" && exec chroot "$0" "$@"'
    make = ["nice", "make", "-C", "/src/k8s.io/kubernetes", "WHAT=cmd/kube-apiserver"]
    common.run(
        ["unshare", "--mount", "sh", "-c", prepare, root, *make],
        env={
            "GOPATH": "/",
            "GO111MODULE": "off",
            "GOCACHE": "/tmp/gocache",
            "HOME": "/root",
            "CGO_ENABLED": "0",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            # git reports these in a checkout.
            "KUBE_GIT_VERSION": "v1.20.2",
            "KUBE_GIT_COMMIT": "unknown",
            "KUBE_GIT_TREE_STATE": "archive",
            "KUBE_GIT_MAJOR": "1",
            "KUBE_GIT_MINOR": "20",
        },
    )
    # _output/bin is a link that is valid only inside of the root.
    (server,) = source.glob("_output/local/bin/linux/*/kube-apiserver")
    shutil.copy2(server, target)
    shutil.copy2(root / "usr/bin/etcd", target)


def _source(folder: Path) -> Path:
    """Fetch the source package from this machine's mirror; return the archive."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    line = debian.sources_lines(debian.machine_mirror(), SUITE, ["main"], backports=False)[0]
    (folder / "sources.list").write_text(line.replace("deb ", "deb-src ", 1) + "\n")
    settings = {
        "Dir::Etc::sourcelist": folder / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    common.run([*apt, "update"])
    subprocess.run(
        [*apt, "source", "--download-only", "kubernetes"], cwd=folder, check=True, stdout=subprocess.DEVNULL
    )
    (archive,) = folder.glob("kubernetes_*.orig.tar.*")
    return archive


def _port() -> int:
    with contextlib.closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Path]:
    """Run etcd and kube-apiserver on loopback; yield the path of a kubeconfig."""
    found = binaries()
    client, peer, secure = _port(), _port(), _port()
    etcd = f"http://127.0.0.1:{client}"
    subprocess.run(
        ["openssl", "genrsa", "-out", folder / "accounts.key", "2048"], check=True, stderr=subprocess.DEVNULL
    )
    # A client certificate that is its own authority.
    pair = ["-keyout", str(folder / "client.key"), "-out", str(folder / "client.crt")]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/O=system:masters/CN=test",
            *pair,
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    (folder / "tokens.csv").write_text(f"{TOKEN},test,test,system:masters\n")
    commands = [
        [
            *(found / "etcd", "--data-dir", folder / "etcd", "--unsafe-no-fsync"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", f"http://127.0.0.1:{peer}"),
        ],
        [
            *(found / "kube-apiserver", "--etcd-servers", etcd, "--secure-port", str(secure)),
            *("--bind-address", "127.0.0.1", "--cert-dir", folder / "certificates"),
            *("--token-auth-file", folder / "tokens.csv", "--authorization-mode", "RBAC"),
            *("--client-ca-file", folder / "client.crt"),
            *("--service-account-issuer", "https://test", "--service-cluster-ip-range", "10.0.0.0/24"),
            *("--service-account-key-file", folder / "accounts.key"),
            *("--service-account-signing-key-file", folder / "accounts.key"),
            # No controller creates service accounts.
            *("--disable-admission-plugins", "ServiceAccount"),
        ],
    ]
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("w"))
        for command in commands:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        config = folder / "kubeconfig"
        server = f"https://127.0.0.1:{secure}"
        _wait(f"{server}/readyz", folder)
        config.write_text(json.dumps(kubeconfig(server, folder / "certificates/apiserver.crt")))
        yield config


def kubeconfig(server: str, authority: Path) -> dict[str, object]:
    """Return a kubeconfig for the token."""
    return {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [
            {"name": "test", "cluster": {"server": server, "certificate-authority": str(authority)}}
        ],
        "users": [{"name": "test", "user": {"token": TOKEN}}],
    }


def _wait(url: str, folder: Path) -> None:
    trust = ssl.create_default_context()
    trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {TOKEN}"})
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, context=trust, timeout=5):
            return
        time.sleep(0.5)
    raise AssertionError(f"kube-apiserver did not become ready: {(folder / 'log').read_text()[-2000:]}")


if __name__ == "__main__":
    print(binaries())
