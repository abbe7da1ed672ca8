# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the installation of agent and network configuration on a node, and their removal. Pure."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .._core.plan import Change, Plan, listed
from .._datapath.store import stored
from .._sysctl import keys
from . import config as _config
from . import options

SETTINGS = _config.PATH
PROGRAM = "/usr/local/lib/podnet/agent.pyz"
# A copy of the object that was confirmed: a boot must not load one that was rolled back.
OBJECT = "/usr/local/lib/podnet/datapath.o"
SERVICE = "podnet-agent.service"
UNIT = f"/etc/systemd/system/{SERVICE}"
MARKER = "# Written by podnet.datapath: changes made here are lost."
PLUGIN = "podnet"
SUFFIXES = (".conf", ".conflist", ".json")  # of network configurations
PORTMAP = "portmap"
HOST_PORTS = {"portMappings": True}  # the capability
HOST_LOCAL, HOST_LOCAL_DATA = "host-local", "/var/lib/cni/networks"


def _serves_host_ports(agent: Mapping[str, Any]) -> bool:
    return agent.get("kube_proxy") == "replace"


def chained(agent: Mapping[str, Any]) -> list[str]:
    """Return the plugins after podnet: portmap beside kube-proxy, as its translation passes the stack."""
    return [PORTMAP] if agent.get("stack_services") and not _serves_host_ports(agent) else []


@dataclass(frozen=True)
class Record:
    """What is installed: files, and directories with addresses that host-local has assigned.

    ``unfinished`` if a run was interrupted, so that the agent may run a former version.
    """

    files: Sequence[str] = ()
    data_dirs: Sequence[str] = ()
    unfinished: bool = False

    def text(self) -> str:
        """Return the text of the file that stores the record."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True)
class Desired:
    """The complete installation, as the module ``cni`` documents it.

    ``object`` has the contents of the file at ``object_path``, None if it does not exist. ``links`` are
    symbolic links to plugins that runtimes do not find otherwise.
    """

    agent: Mapping[str, Any]
    bin_dir: str
    conf_dir: str
    conflist: str
    network: str
    ipam: Mapping[str, Any]
    program: str
    unit: str
    object_path: str = ""
    object: str | None = None
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def plugin(self) -> str:
        """Return the path of the plugin."""
        return os.path.join(self.bin_dir, PLUGIN)

    @property
    def conflist_path(self) -> str:
        """Return the path of the network configuration."""
        return os.path.join(self.conf_dir, self.conflist)

    def settings(self) -> dict[str, Any]:
        """Return what the agent's configuration file has: options that were given, sysctls as text."""
        given = {**self.agent, "sysctls": keys.texts(self.agent.get("sysctls") or {})}
        # stored() omits false values, whose defaults may be true.
        return {
            **{key: False for key, value in given.items() if value is False},
            **stored(given),
            "object": OBJECT,
        }

    def network_config(self) -> dict[str, Any]:
        """Return the network configuration, which runtimes that support CNI 1.1 use with that version."""
        # Not the Pods' annotations: nothing reads them, and runtimes send up to 1.5 MiB (256 KiB before
        # escaping).
        capabilities = {"bandwidth": True, **(HOST_PORTS if _serves_host_ports(self.agent) else {})}
        plugins = [
            {"type": PLUGIN, "capabilities": capabilities, "ipam": dict(self.ipam)},
            *({"type": name, "capabilities": HOST_PORTS} for name in chained(self.agent)),
        ]
        return {
            "cniVersion": "1.0.0",
            "cniVersions": ["1.0.0", "1.1.0"],
            "name": self.network,
            "plugins": plugins,
        }

    def files(self) -> dict[str, str]:
        """Return the files by path, in the order in which they are written."""
        found = {
            OBJECT: self.object,
            PROGRAM: self.program,
            SETTINGS: json.dumps(self.settings(), indent=1, sort_keys=True) + "\n",
            UNIT: self.unit,
            self.conflist_path: json.dumps(self.network_config(), indent=2) + "\n",
        }
        return {path: text for path, text in found.items() if text is not None}

    def record(self) -> Record:
        """Return the record of the complete installation."""
        data = []
        if self.ipam.get("type") == HOST_LOCAL:
            data = [os.path.join(self.ipam.get("dataDir") or HOST_LOCAL_DATA, self.network)]
        # In the order of the removal: runtimes cannot stop Pods without a network configuration.
        return Record([UNIT, SETTINGS, PROGRAM, OBJECT, *self.links, self.plugin, self.conflist_path], data)


@dataclass(frozen=True)
class Current:
    """The state of the node.

    ``links`` are the desired links that exist. ``networks`` are the names of the files in the directory of
    network configurations; ``pods`` run with the agent, ``foreign_pods`` with another CNI plugin.
    """

    contents: Mapping[str, str | None] = field(default_factory=dict)
    links: Collection[str] = ()
    record: Record = field(default_factory=Record)
    networks: Sequence[str] = ()
    enabled: bool = False
    active: bool = False
    pods: Sequence[str] = ()
    foreign_pods: Sequence[str] = ()


@dataclass(frozen=True)
class InstallPlan(Plan):
    """``links`` are to be created, ``remove`` are files and ``data_dirs`` directories to remove."""

    links: Mapping[str, str] = field(default_factory=dict)
    remove: Sequence[str] = ()
    data_dirs: Sequence[str] = ()
    reload: bool = False
    restart: bool = False


def unit(python: str) -> str:
    """Return the unit of the agent.

    It runs in the node's mount and network namespaces, where runtimes create the namespaces of Pods. So it
    uses no option that gives it a mount namespace of its own.
    """
    lines = [
        MARKER,
        "[Unit]",
        "Description=Attach Pods to the BPF datapath",
        f"RequiresMountsFor={os.path.dirname(PROGRAM)} /sys/fs/bpf /var/lib/podnet-datapath",
        "After=local-fs.target systemd-sysctl.service systemd-modules-load.service podnet-checkpoint.service",
        "After=network-pre.target network.target",
        "Before=kubelet.service crio.service podman-restart.service",
        # An uplink may appear minutes after the boot.
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={python} {PROGRAM}",
        "Restart=always",
        "RestartSec=1",
        "TimeoutStartSec=300",
        "TimeoutStopSec=60",
        # IPAM plugins that run finish their work.
        "KillMode=mixed",
        "LimitNOFILE=65536",
        "UMask=0077",
        "LockPersonality=yes",
        "RestrictRealtime=yes",
        "KeyringMode=private",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def active_network(names: Iterable[str]) -> str:
    """Return the network configuration that kubelet's runtimes use, the first by name; empty for none."""
    return min((name for name in names if name.endswith(SUFFIXES)), default="")


def install(current: Current, desired: Desired) -> InstallPlan:
    """Return the changes that lead to the desired installation."""
    own, own_path = desired.conflist, desired.conflist_path
    values = {**desired.agent, "network": desired.network, "conflist": own, "ipam": desired.ipam}
    found = options.problems(values)
    files = {
        path: (current.contents.get(path), text)
        for path, text in desired.files().items()
        if current.contents.get(path) != text
    }
    if files.get(own_path, (None, ""))[0] is not None and own_path not in current.record.files:
        found.append(
            f"conflist: {own_path} was not written by this collection, so it is not overwritten: move it"
            " away, or choose another name"
        )
    record = desired.record()
    obsolete = [path for path in current.record.files if path not in record.files]
    reload = UNIT in files or current.record.unfinished
    restart = reload or not current.active or not files.keys().isdisjoint((PROGRAM, SETTINGS))
    links = {path: target for path, target in desired.links.items() if path not in current.links}
    changes = [Change(path, _state(before), "present") for path, (before, _text) in files.items()]
    changes += [Change(path, None, f"link to {target}") for path, target in links.items()]
    if not current.enabled:
        changes.append(Change(f"{SERVICE} at boot", None, "enabled"))
    if restart:
        changes.append(Change(SERVICE, "running" if current.active else None, "started"))
    changes += [Change(path, "present", None) for path in obsolete]
    warnings = []
    first = active_network([*current.networks, own])
    if first != own:
        warnings.append(
            f"conflist: container runtimes use {first} instead of {own}, because its name comes first: to"
            " migrate this node, see docs/kubernetes.md, or set a conflist name that comes before it"
        )
    return InstallPlan(
        subsystem="cni",
        changes=changes,
        files=files,
        problems=found,
        warnings=warnings,
        links=links,
        remove=obsolete,
        reload=reload,
        restart=restart,
    )


def uninstall(current: Current, force: bool) -> InstallPlan:
    """Return the changes that remove the installation."""
    found = []
    if current.pods and not force:
        found.append(
            f"state: absent: {len(current.pods)} Pods still run with this CNI plugin"
            f" ({listed(current.pods)}): drain the node (kubectl drain), stop kubelet and remove the"
            " remaining Pods (crictl rmp), or set force: true (cni_force), which disconnects them"
        )
    present = [path for path in current.record.files if current.contents.get(path) is not None]
    changes = []
    if current.active or current.enabled:
        changes.append(Change(SERVICE, "running" if current.active else "enabled", None))
    changes += [Change(path, "present", None) for path in present]
    return InstallPlan(
        subsystem="cni",
        changes=changes,
        files={path: (current.contents[path], None) for path in present},
        problems=found,
        remove=present,
        data_dirs=current.record.data_dirs,
    )


def _state(text: str | None) -> str | None:
    return None if text is None else "outdated"
