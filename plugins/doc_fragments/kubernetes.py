# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of modules that use the API of a cluster with Cilium."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation fragment C(podnet.datapath.kubernetes)."""

    DOCUMENTATION = r"""
options:
  kubeconfig:
    description:
      - Path of a kubeconfig file, as for O(podnet.datapath.kube_node#module:kubeconfig).
      - By default the module uses the service account of the Pod in which it runs.
    type: path
  context:
    description: Context in the kubeconfig file. The default is the current context.
    type: str
  namespace:
    description: Namespace of Cilium's agents and of the ConfigMap C(cilium-config).
    type: str
    default: kube-system
  api_timeout:
    description: Seconds to repeat a request while the API server is unavailable.
    type: int
    default: 120
"""
