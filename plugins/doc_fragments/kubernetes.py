# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that use the Kubernetes API."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation fragment C(podnet.datapath.kubernetes): access to the API, a node, and Cilium."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Path of a kubeconfig file with a token, a C(tokenFile), a client certificate or an C(exec) credential
        plugin (C(client.authentication.k8s.io/v1) or C(v1beta1)). A YAML file requires PyYAML, a JSON file
        does not.
      - A plugin runs in check mode as well, without a terminal and for at most 60 seconds. It runs again when
        its credential expires or the API rejects it. C(auth-provider), which Kubernetes 1.26 removed, is an
        error.
      - By default the module uses the service account of the Pod in which it runs.
    type: path
  context:
    description: Context in the kubeconfig file. The default is the current context.
    type: str
  api_timeout:
    description: Seconds to repeat a request while the API server is unavailable.
    type: int
    default: 120
"""

    NODE = r"""
options:
  name:
    description: Name of the node in Kubernetes.
    type: str
    required: true
"""

    CILIUM = r"""
options:
  namespace:
    description: Namespace of Cilium's agents and of the ConfigMap C(cilium-config).
    type: str
    default: kube-system
"""
