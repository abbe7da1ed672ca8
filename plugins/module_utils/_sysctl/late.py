# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find sysctls that do not exist yet when the node reads its files at boot.

Sources: modules-load.d(5), systemd-sysctl.service(8), which starts after systemd-modules-load.service.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from .._node.drop_ins import in_order
from .._node.host import Host
from .keys import name_of

_FOLDERS = (
    "/etc/modules-load.d", "/run/modules-load.d", "/usr/local/lib/modules-load.d", "/usr/lib/modules-load.d",
    "/lib/modules-load.d",
)  # fmt: skip
# Keys by prefix, and the module that provides them unless the kernel contains it.
_MODULES = {
    "dev/cdrom/": "cdrom",
    "dev/mac_hid/": "mac_hid",
    "dev/parport/": "parport",
    "dev/raid/": "md_mod",
    "dev/scsi/": "scsi_mod",
    "fs/fuse/": "fuse",
    "fs/nfs/nfs_": "nfsv4",
    "fs/nfs/nlm_": "lockd",
    "fs/nfs/nsm_": "lockd",
    "fs/xfs/": "xfs",
    "net/appletalk/": "appletalk",
    "net/ax25/": "ax25",
    "net/bridge/": "br_netfilter",
    "net/dccp/": "dccp",
    "net/ipv4/vs/": "ip_vs",
    "net/iw_cm/": "iw_cm",
    "net/llc/": "llc2",
    "net/mpls/": "mpls_router",
    "net/netfilter/nf_conntrack_": "nf_conntrack",
    "net/netfilter/nf_flowtable_": "nf_conntrack",
    "net/netfilter/nf_hooks_lwtunnel": "nf_conntrack",
    "net/nf_conntrack_max": "nf_conntrack",
    "net/phonet/": "phonet",
    "net/rdma_ucm/": "rdma_ucm",
    "net/rds/": "rds",
    "net/rxrpc/": "rxrpc",
    "net/sctp/": "sctp",
    "net/smc/": "smc",
    "net/tipc/": "tipc",
    "net/x25/": "x25",
    "sunrpc/": "sunrpc",
}


def late_keys(paths: Iterable[str], root: str = "/", release: str = "") -> dict[str, str]:
    """Return the keys that appear only after the node has read its files, each with its module."""
    node = Host(root)
    found = {
        path: module
        for path in paths
        for prefix, module in _MODULES.items()
        # Only a loadable module has this file.
        if path.startswith(prefix) and node.exists(f"/sys/module/{module}/initstate")
    }
    if not found:
        return {}
    early = _early_modules(node, release or os.uname().release)
    return {path: module for path, module in found.items() if module not in early}


def warnings(paths: Iterable[str], file: str, root: str = "/") -> list[str]:
    """Return a warning for each module whose sysctls ``file`` cannot set at boot."""
    modules: dict[str, list[str]] = {}
    for path, module in late_keys(paths, root).items():
        modules.setdefault(module, []).append(name_of(path))
    return [
        f"sysctls: {', '.join(names)}: not kept for the next boot, as the module {module} is loaded after"
        f" {file} is read: list {module} in a file of /etc/modules-load.d"
        for module, names in modules.items()
    ]


def _early_modules(node: Host, release: str) -> set[str]:
    """Return the modules that are loaded before, dependencies included."""
    listed = {
        line.strip().replace("-", "_")
        for file in [*in_order(node, _FOLDERS), "/etc/modules"]
        for line in node.read(file).splitlines()
        if line.strip() and line.strip()[0] not in "#;"
    }
    for match in re.finditer(r"(?:^|\s)(?:rd\.)?modules[-_]load=(\S+)", node.read("/proc/cmdline")):
        listed |= {name.replace("-", "_") for name in match[1].split(",")}
    listed = {name.split()[0] for name in listed}
    early = set(listed)
    for line in node.read(f"/lib/modules/{release}/modules.dep").splitlines():
        module, dummy, needed = line.partition(":")
        if _module_name(module) in listed:
            early |= {_module_name(path) for path in needed.split()}
    return early


def _module_name(path: str) -> str:
    return os.path.basename(path).partition(".")[0].replace("-", "_")
