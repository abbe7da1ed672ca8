# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install the agent and the network configuration of its CNI plugin on this node, and remove them.

The network configuration is written last: a runtime starts Pods as soon as it exists. It is also removed
last, because runtimes cannot stop Pods without it.

Sources: libcni's cache (api.go), libcni and containerd for the order of network configurations,
systemd.service(5).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from .._core import bundle, files, lock
from .._core.command import RunCommand
from .._core.files import DropIn, Metadata
from .._core.plan import Problem, Result, diff, listed, reason
from .._pods.single import SinglePods
from .._rollback import journal
from . import config as _config
from . import install_plan, ipam, main
from .attachments import FOLDER, Attachments
from .install_plan import (
    PLUGIN,
    PORTMAP,
    PROGRAM,
    SERVICE,
    SETTINGS,
    UNIT,
    Current,
    Desired,
    InstallPlan,
    Record,
)
from .protocol import CniError
from .server import PATH as SOCKET

RECORD = "/var/lib/podnet-datapath/cni.json"
LOCK = "/run/podnet/cni.lock"
RESULTS = "/var/lib/cni/results"  # libcni's cache: a file for each interface that a runtime has added
AT_BOOT = f"/etc/systemd/system/multi-user.target.wants/{SERVICE}"
PACKAGED = "/usr/lib/cni"  # where distributions' packages install plugins
CONTAINERD = "/etc/containerd/config.toml"
READY_TIMEOUT = 15.0  # seconds in which the agent may read its Node object

# The import of main makes Ansible send the agent's code to the node.
_MAIN = f"from {main.__name__} import main\nmain()\n"


def program() -> bytes:
    """Return the agent as a zip file that Python runs; the same code gives the same bytes."""
    return bundle.archive(_MAIN, ["pyroute2"])


def desired(object_path: str, **options: Any) -> Desired:
    """Return the desired installation with the object that is on the node now."""
    return Desired(
        program=files.text_of(program()) or "",
        unit=install_plan.unit(bundle.interpreter()),
        object_path=object_path,
        object=files.read_file(object_path),
        links=_links(options["bin_dir"]) if install_plan.chained(options["agent"]) else {},
        **options,
    )


def _links(bin_dir: str) -> dict[str, str]:
    """Return the link to portmap if the runtime does not find it in its directory.

    The agent searches the packages' directory itself, for IPAM plugins.
    """
    path, target = os.path.join(bin_dir, PORTMAP), os.path.join(PACKAGED, PORTMAP)
    if os.path.islink(path) and os.readlink(path) == target:
        return {path: target}
    return {} if os.path.exists(path) or bin_dir.rstrip("/") == PACKAGED else {path: target}


def present(wanted: Desired, command: RunCommand, check: bool = False) -> Result:
    """Install agent and network configuration. Raises ``Problem``.

    If the new agent does not start, the former one is restored.
    """
    if not os.path.isdir("/run/systemd/system"):
        raise Problem(
            "state: present: this node does not run systemd, which starts the agent: run this on the node,"
            " not in a container"
        )
    with _exclusive(check):
        current = _read(wanted.files(), wanted.conf_dir, command, wanted.links)
        plan = install_plan.install(current, wanted)
        plan.require_valid()
        warnings = [*plan.warnings, *_runtime_warnings(wanted)]
        if not check:
            _require_parts(wanted)
            _apply(plan, wanted, current, command)
        status = "" if check and plan else _status(wanted)
        if status:
            warnings.append(f"the plugin reports that Pods cannot start yet: {status}")
        return _result(plan, current, warnings, wanted.conf_dir, status)


def absent(force: bool, command: RunCommand, check: bool = False) -> Result:
    """Remove everything that ``present`` installed. Raises ``Problem``.

    With ``force``, also while Pods of the agent exist; their devices are removed.
    """
    record = _read_record()
    if not record.files:
        return _result(InstallPlan(subsystem="cni"), Current(), [], "", "")
    folder = next((os.path.dirname(path) for path in record.files if path.endswith(".conflist")), "")
    with _exclusive(check):
        current = _read(record.files, folder, command)
        plan = install_plan.uninstall(current, force)
        plan.require_valid()
        warnings = [] if check else _remove(plan, current, force, command)
        return _result(plan, current, warnings, folder, "")


@contextlib.contextmanager
def _exclusive(check: bool) -> Iterator[None]:
    """Exclude other runs; refuse while programs on this node are pending confirmation."""
    if check:
        yield
        return
    journal.refuse_pending()
    with lock.locked(LOCK):
        yield


# Reading


def _read(paths: Collection[str], folder: str, command: RunCommand, links: Collection[str] = ()) -> Current:
    DropIn(UNIT, install_plan.MARKER).read()
    networks: Sequence[str] = ()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        networks = sorted(name for name in os.listdir(folder) if name.endswith(install_plan.SUFFIXES))
    return Current(
        contents={path: _contents(path) for path in paths},
        links=[path for path in links if os.path.islink(path)],
        record=_read_record(),
        networks=networks,
        enabled=os.path.lexists(AT_BOOT),
        active=_is_active(command),
        pods=own_pods(),
        foreign_pods=foreign_pods(),
    )


def _contents(path: str) -> str | None:
    """Return a file's contents as text; of the agent's code the sources."""
    text = files.read_file(path)
    return files.text_of(bundle.sources_of(files.bytes_of(text))) if text and path == PROGRAM else text


def _is_active(command: RunCommand) -> bool:
    return command(["systemctl", "is-active", "--quiet", SERVICE])[0] == 0


def _read_record() -> Record:
    try:
        return Record(**json.loads(files.read_file(RECORD) or "{}"))
    except (ValueError, TypeError) as error:
        raise Problem(f"{RECORD}: {error}: remove this file, then run this again") from None


def own_pods() -> list[str]:
    """Return the names of the agent's Pods whose network namespace exists."""
    if not os.path.isdir(FOLDER):
        return []
    return sorted(one.shown for one in Attachments(FOLDER) if one.is_live())


def foreign_pods() -> list[str]:
    """Return the names of Pods that runtimes have added to networks of other plugins since the boot."""
    found = set()
    with contextlib.suppress(FileNotFoundError):
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        for entry in os.scandir(RESULTS):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
                if entry.stat().st_mtime < boot:
                    continue
                with open(entry.path, encoding="utf-8") as file:
                    cached = json.load(file)
                config = json.loads(base64.b64decode(cached["config"]))
                types = {plugin["type"] for plugin in config.get("plugins") or [config]}
                if not types & {PLUGIN, "loopback"}:
                    found.add(_name_of(cached))
    return sorted(found)


def _name_of(cached: Mapping[str, Any]) -> str:
    """Return namespace and name of a Pod in libcni's cache, else the container ID."""
    variables = dict(cached.get("cniArgs") or ())
    namespace, name = variables.get("K8S_POD_NAMESPACE"), variables.get("K8S_POD_NAME")
    return f"{namespace}/{name}" if namespace and name else str(cached["containerId"])


def _require_parts(wanted: Desired) -> None:
    """Raise ``Problem`` if a part that other tasks install is missing."""
    found = []
    if wanted.object is None:
        found.append(
            f"object: {wanted.object_path} does not exist: run the role podnet.datapath.bpf_datapath first"
        )
    if not os.access(wanted.plugin, os.X_OK):
        found.append(f"bin_dir: there is no program {wanted.plugin}: copy the plugin there first")
    for kind in (str(wanted.ipam["type"]), *install_plan.chained(wanted.agent)):
        try:
            ipam.find_plugin(kind, wanted.bin_dir)
        except CniError:
            packaged = kind in (install_plan.HOST_LOCAL, PORTMAP)
            remedy = "Debian's package is containernetworking-plugins" if packaged else "install it"
            found.append(
                f"bin_dir: there is no CNI plugin {kind} in {wanted.bin_dir} or {PACKAGED}: {remedy}"
            )
    if found:
        raise Problem("\n".join(found))


def _runtime_warnings(wanted: Desired) -> list[str]:
    """Return whether containerd uses other directories."""
    found = []
    text = files.read_file(CONTAINERD) or ""
    for option, folder in (("bin_dir", wanted.bin_dir), ("conf_dir", wanted.conf_dir)):
        used = re.findall(rf"^\s*{option}s?\s*=\s*(.+)$", text, re.MULTILINE)
        folders = [name.rstrip("/") for line in used for name in re.findall(r"[\"']([^\"']+)[\"']", line)]
        if folders and folder.rstrip("/") not in folders:
            found.append(
                f"{option}: containerd uses {listed(folders)} ({CONTAINERD}), not {folder}: set {option} to"
                " that directory"
            )
    return found


def _status(wanted: Desired, seconds: float = 0) -> str:
    """Return why the plugin cannot start Pods, empty if it can; wait for the agent up to ``seconds``.

    Raises ``Problem`` if the plugin does not run on this node.
    """
    config = wanted.network_config()
    request = json.dumps({**config["plugins"][0], "name": wanted.network, "cniVersion": "1.1.0"})
    environment = {"CNI_COMMAND": "STATUS", "CNI_PATH": wanted.bin_dir, "PATH": os.defpath}
    deadline = time.monotonic() + seconds
    while True:
        try:
            done = subprocess.run(
                [wanted.plugin], input=request, capture_output=True, text=True, env=environment, check=False
            )
        except OSError as error:
            raise Problem(
                f"bin_dir: {wanted.plugin} does not run on this node: {reason(error)}: if its architecture is"
                " another one than the controller's, compile the plugin for it"
            ) from None
        if not done.returncode:
            return ""
        if time.monotonic() >= deadline:
            try:
                return str(json.loads(done.stdout)["msg"])
            except (ValueError, KeyError, TypeError):
                return (done.stdout + done.stderr).strip()
        time.sleep(0.2)


# Changes


def _apply(plan: InstallPlan, wanted: Desired, current: Current, command: RunCommand) -> None:
    record = wanted.record()
    if not plan and record == current.record:
        return
    known = [*current.record.files, *record.files]
    unfinished = Record([*dict.fromkeys(known)], record.data_dirs, plan.restart)
    try:
        os.makedirs(os.path.dirname(RECORD), mode=0o700, exist_ok=True)
        files.replace_file(RECORD, unfinished.text().encode(), 0o600)
        before_start = {path: texts for path, texts in plan.files.items() if path != wanted.conflist_path}
        for path, (_before, text) in before_start.items():
            _write(path, text)
        for path, target in plan.links.items():
            os.symlink(target, path)
        try:
            if plan.reload:
                _systemctl(command, "daemon-reload")
            if not current.enabled:
                _systemctl(command, "enable", SERVICE)
            if plan.restart:
                _systemctl(command, "restart", SERVICE)
                if _status(wanted, READY_TIMEOUT) and not _is_active(command):
                    raise Problem(f"{SERVICE} has failed after its start")
        except Problem as problem:
            log = _log(command)
            _restore(before_start, current, command)
            raise Problem(f"{problem}\n{log}".strip()) from None
        if wanted.conflist_path in plan.files:
            _write_conflist(wanted.conflist_path, plan.files[wanted.conflist_path][1] or "")
        for path in plan.remove:
            _unlink(path)
        files.replace_file(RECORD, record.text().encode(), 0o600)
    except OSError as error:
        raise Problem(f"{error.filename}: {reason(error)}: run as root (become), and free space") from None


def _write(path: str, text: str | None) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    data = files.bytes_of(text or "")
    if path == PROGRAM:
        data = bundle.with_bytecode(data, bundle.interpreter())
    files.replace_file(path, data, 0o600 if path == SETTINGS else 0o644)


def _write_conflist(path: str, text: str) -> None:
    """Write a network configuration atomically.

    Runtimes ignore a file that is moved here from another directory, and read temporary files whose names end
    like those of network configurations.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    new = files.stage_file(path.removesuffix(".conflist"), text.encode(), Metadata(0o644))
    os.replace(new, path)
    files.sync_folder(path)


def _restore(
    written: Mapping[str, tuple[str | None, str | None]], current: Current, command: RunCommand
) -> None:
    """Restore the files before a failed start, and the agent that ran with them."""
    if not current.active:
        # The files stay, so that the cause can be found.
        command(["systemctl", "stop", SERVICE])
        return
    for path, (before, _after) in written.items():
        if before is not None:
            _write(path, before)
    command(["systemctl", "daemon-reload"])
    command(["systemctl", "restart", SERVICE])


def _systemctl(command: RunCommand, *words: str) -> None:
    code, out, err = command(["systemctl", *words])
    if code:
        raise Problem(f"systemctl {' '.join(words)} failed: {(out + err).strip()}")


def _log(command: RunCommand) -> str:
    """Return the last messages of the agent."""
    words = ["journalctl", "--unit", SERVICE, "--lines", "5", "--no-pager", "--output", "cat"]
    return command(words)[1].strip()


def _remove(plan: InstallPlan, current: Current, force: bool, command: RunCommand) -> list[str]:
    """Remove the installation; return warnings."""
    warnings = []
    # Without the agent, STATUS fails, so that kubelet reports the node as not ready and gets no new Pods.
    if current.active or current.enabled:
        _systemctl(command, "disable", "--now", SERVICE)
    late = own_pods()
    if late and not force:
        _systemctl(command, "enable", "--now", SERVICE)
        install_plan.uninstall(Current(record=current.record, pods=late), force).require_valid()
    problem = _remove_pods(command)
    if problem:
        warnings.append(f"devices and map entries of Pods were not removed: {problem}")
    *first, conflist = current.record.files
    for path in first:
        _unlink(path)
    _systemctl(command, "daemon-reload")
    for folder in (os.path.dirname(FOLDER), *plan.data_dirs):
        shutil.rmtree(folder, ignore_errors=True)
    for path in (SOCKET, conflist, RECORD):
        _unlink(path)
    return warnings


def _remove_pods(command: RunCommand) -> str:
    """Remove routes and Pods of the agent, also those that a killed DEL left behind; return a problem."""
    try:
        config = _config.read()
        pods = SinglePods(config.node_spec(), command)
        try:
            pods.set_routes(frozenset())
            pods.remove(list(pods.existing()))
        finally:
            pods.close()
        with contextlib.suppress(OSError):
            os.rmdir(os.path.join(config.pin_path, "links", f"pods_{_config.OWNER}"))
    except (Problem, OSError) as error:
        return str(error)
    return ""


def _unlink(path: str) -> None:
    """Remove a file, and its directory if this was the last file of the collection there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    if path.startswith(("/usr/local/lib/podnet/", "/etc/podnet/")):
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(path))


# Result


def _result(plan: InstallPlan, current: Current, warnings: Sequence[str], folder: str, status: str) -> Result:
    names = set(current.networks)
    for path in plan.files:
        if os.path.dirname(path) == folder:
            names.add(os.path.basename(path))
    names -= {os.path.basename(path) for path in plan.remove if os.path.dirname(path) == folder}
    values = {
        "changes": [
            f"{'remove' if one.after is None else 'create' if one.before is None else 'change'} {one.name}"
            for one in plan.changes
        ],
        "active": install_plan.active_network(names),
        "networks": sorted(names),
        "pods": list(current.pods),
        "foreign_pods": list(current.foreign_pods),
        "status": status,
    }
    return Result(bool(plan), values, list(warnings), _diffs(plan))


def _diffs(plan: InstallPlan) -> list[dict[str, str]]:
    """Return the diffs of text files; programs are only named."""
    shown = {
        path: texts
        for path, texts in plan.files.items()
        if path in (SETTINGS, UNIT) or path.endswith(".conflist")
    }
    found = [
        {"before_header": path, "after_header": path, "before": before or "", "after": after or ""}
        for path, (before, after) in shown.items()
    ]
    others = [one for one in plan.changes if one.name not in shown]
    return [*found, diff("cni", others)] if others else found
