# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run IPAM plugins, which assign addresses to Pods.

Source: Container Network Interface Specification 1.1.0, section 4; host-local of the reference plugins.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import json
import os
import select
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from .protocol import (
    FAILED,
    INVALID_CONFIG,
    IO_FAILURE,
    VERSIONS,
    CniError,
    Request,
)

TIMEOUT = 60  # seconds
MAX_OUTPUT = 1 << 20  # bytes
SEARCH_PATH = "/opt/cni/bin:/usr/lib/cni"


def find_plugin(kind: str, path: str) -> str:
    """Return the path of an IPAM plugin in the directories of CNI_PATH, then in the default ones.

    Raises ``CniError``.
    """
    folders = f"{path}:{SEARCH_PATH}" if path else SEARCH_PATH
    for folder in folders.split(":"):
        candidate = os.path.join(folder, kind)
        if folder.startswith("/") and os.access(candidate, os.X_OK) and os.path.isfile(candidate):
            return candidate
    raise CniError(
        INVALID_CONFIG,
        f"ipam.type: there is no plugin {kind!r} in {folders}; install it, or correct the type",
    )


def needs_ranges(config: Mapping[str, Any]) -> bool:
    """Return whether the network configuration has host-local without ranges."""
    ipam = config.get("ipam") or {}
    return ipam.get("type") == "host-local" and not any(key in ipam for key in ("ranges", "subnet"))


def with_ranges(config: Mapping[str, Any], pod_cidrs: Sequence[str], required: bool = True) -> dict[str, Any]:
    """Return the network configuration with the node's ranges, if host-local has none of its own.

    Raises ``CniError`` if the node has none and they are ``required``.
    """
    ipam = dict(config.get("ipam") or {})
    if needs_ranges(config):
        if not pod_cidrs and required:
            raise CniError(
                INVALID_CONFIG,
                "ipam: the node has no address range: set podCIDRs of its Node object"
                " (kube-controller-manager --allocate-node-cidrs), or cni_pod_cidrs in the inventory",
            )
        ipam["ranges"] = [[{"subnet": cidr}] for cidr in pod_cidrs]
    return {**config, "ipam": ipam}


def run(request: Request, command: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Run the IPAM plugin with a network configuration and return its result, empty if it has none.

    Raises ``CniError`` with the plugin's own code and message.
    """
    kind = config["ipam"]["type"]
    program = find_plugin(kind, request.variables.get("CNI_PATH", ""))
    version = _version_for(program, os.stat(program).st_mtime_ns, request.version)
    if command in ("GC", "STATUS") and version != request.version:
        return {}  # the plugin is older than these commands
    config = {**config, "cniVersion": version}
    environment = {
        **{name: value for name, value in request.variables.items() if name.startswith("CNI_")},
        "CNI_COMMAND": command,
        "PATH": os.defpath,
    }
    try:
        status, out, errors = _execute(program, json.dumps(config).encode(), environment)
    except (OSError, ValueError) as error:
        raise CniError(IO_FAILURE, f"IPAM plugin {kind}: {error}") from None
    try:
        answer = json.loads(out) if out.strip() else {}
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise CniError(IO_FAILURE, f"IPAM plugin {kind}: its output is not a JSON object", _text(errors))
    if not isinstance(answer.get("dns") or {}, dict):
        raise CniError(IO_FAILURE, f"IPAM plugin {kind}: dns is not an object")
    if status:
        code = answer.get("code")
        message = answer.get("msg") or _text(errors) or f"it exited with status {status}"
        raise CniError(code if isinstance(code, int) and code else FAILED, f"IPAM plugin {kind}: {message}")
    return answer


def _execute(program: str, given: bytes, environment: Mapping[str, str]) -> tuple[int, bytes, bytes]:
    """Run a program; return its exit status or negative signal, output and errors. Raises ``OSError``.

    subprocess takes twice the time: it polls pipes, and polls for the exit of a process with a timeout.
    """
    files = [os.memfd_create(name) for name in ("input", "output", "errors")]
    try:
        os.write(files[0], given)
        os.lseek(files[0], 0, os.SEEK_SET)
        actions = [(os.POSIX_SPAWN_DUP2, file, number) for number, file in enumerate(files)]
        # Python ignores SIGPIPE.
        process = os.posix_spawn(
            program, [program], environment, file_actions=actions, setsigdef=[signal.SIGPIPE]
        )
        try:
            ended = _wait(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            _process, status = os.waitpid(process, 0)
        if not ended:
            raise TimeoutError(f"it did not end within {TIMEOUT} s")
        out, errors = (os.pread(file, MAX_OUTPUT, 0) for file in files[1:])
        return os.waitstatus_to_exitcode(status), out, errors
    finally:
        for file in files:
            os.close(file)


def _wait(process: int) -> bool:
    """Wait for the end of a child process; return whether it ended within the time-out."""
    descriptor = os.pidfd_open(process)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(TIMEOUT * 1000))
    finally:
        os.close(descriptor)


@functools.cache
def _version_for(program: str, _changed: int, wanted: str) -> str:
    """Return the newest version up to ``wanted`` that a plugin supports.

    Runtimes negotiate only with the plugins in the list, and Debian's host-local supports 1.0.0.
    """
    try:
        environment = {"CNI_COMMAND": "VERSION", "PATH": os.defpath}
        _status, out, _errors = _execute(program, json.dumps({"cniVersion": wanted}).encode(), environment)
        supported = json.loads(out)["supportedVersions"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return wanted
    older = [version for version in VERSIONS[: VERSIONS.index(wanted) + 1] if version in supported]
    return older[-1] if older else wanted


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace").strip()[:1000]


def addresses_of(result: Mapping[str, Any], kind: str) -> list[str]:
    """Return the addresses of an IPAM result, as host addresses. Raises ``CniError``."""
    found = []
    try:
        for entry in result.get("ips") or ():
            address = ipaddress.ip_interface(entry["address"]).ip
            found.append(f"{address}/{address.max_prefixlen}")
    except (ValueError, KeyError, TypeError) as error:
        raise CniError(IO_FAILURE, f"IPAM plugin {kind}: it returned an invalid address: {error}") from None
    if not found:
        raise CniError(IO_FAILURE, f"IPAM plugin {kind}: it returned no address")
    return found
