# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Kubernetes on this computer: control plane, nodes and DNS, dual stack, with a CNI to choose.

``cluster.Cluster`` starts and removes one, ``node.Node`` runs commands and daemons on a node, ``cni`` has the
CNIs. ``python3 -m tests.kubernetes.cluster`` is the command of ``make kube``.
"""
