# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The third-party suites, and the specs that they exclude, each with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

CYCLONUS = "cyclonus"
_CONFORMANCE, _POLICIES = "[Conformance]", "[sig-network] Netpol "
# The network specs of Kubernetes' end-to-end suite: a regular expression, and parts of the names of specs
# that are left to the other suites
SPECS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "conformance": (r"\[sig-network\].*\[Conformance\]", ()),
    "policies": (r"\[sig-network\] Netpol ", ()),
    "services": (r"\[sig-network\]", (_CONFORMANCE, _POLICIES)),
}
SUITES = (*SPECS, CYCLONUS)

ALL, WITHOUT_PROXY, WITHOUT_SCTP, TWO_NODES = "all", "without kube-proxy", "without SCTP", "two guests"
_THREE_NODES = "require three nodes, and run natively"
# Reasons by the nodes that they apply to, and by a part of the names of specs. docs/kubernetes.md lists them.
EXCLUDED: Mapping[str, Mapping[str, str]] = {
    ALL: {
        "[Feature:LoadBalancer]": "require the load balancer of a cloud",
        "[Disruptive]": "restart kube-proxy or the API server by SSH, or as Pods",
        "[Feature:Networking-DNS]": "requires names of the Internet",
        "[Feature:Networking-IPv4]": "requires the Internet",
        "[Feature:Networking-IPv6]": "requires the Internet",
        "[Feature:PerformanceDNS]": "measures the DNS server with 10,000 services",
        "[Provider:GCE]": "requires the metadata of a cloud",
        "Forward PTR lookup ": "requires a name server of the Internet",
        "between pods on multiple nodes": "require six nodes",
        "or fall back to same zone": "requires six nodes",
    },
    WITHOUT_PROXY: {
        "KubeProxy should ": "read metrics and connections of kube-proxy",
        "should check kube-proxy urls": "reads the health of kube-proxy",
    },
    WITHOUT_SCTP: {
        "[Feature:SCTPConnectivity]": "require SCTP in the nodes' kernel, as guests have it",
    },
    TWO_NODES: {
        "[Feature:Networking-Performance]": "measure throughput, which stops an emulated node for minutes",
        "Topology Hints ": _THREE_NODES,
        "Traffic Distribution ": _THREE_NODES,
        "HealthCheckNodePort correctly": _THREE_NODES,
    },
}


def skip_expression(names: Iterable[str]) -> str:
    """Return a regular expression, of Go as of Python, for specs whose names contain one of ``names``."""
    return "|".join(re.sub(r"([][().*+?|])", r"\\\1", name) for name in names)
