#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Installs the Debian packages that the tests and the lab's controller need, if any is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
	clang libbpf-dev libc6-dev llvm                 # BPF programs
	libbpf1 bpftool iproute2 iputils-ping ethtool   # tests in network namespaces
	nftables                                        # tests beside kube-proxy
	openssl                                         # keys of the cluster for the tests
	procps                                          # sysctl, which a minimal Debian does not have
	python3-venv openssh-client                     # Ansible
	libssl-dev                                      # tcp_mmap
	containernetworking-plugins                     # host-local and portmap, for the agent
	systemd dbus                                    # nodes that systemd boots in namespaces
	gcc make kmod shellcheck perl xz-utils          # checks, with checkpatch, and the CNI plugin
)
mapfile -t lab < <(python3 roles/lab_node/files/lab.py packages)
packages+=("${lab[@]}")

missing=()
for package in "${packages[@]}"; do
	[[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null) == *" installed" ]] || missing+=("$package")
done
((${#missing[@]})) || exit 0

echo "== Installing Debian packages, about 1 min: ${missing[*]}"
exec 9>/run/lock/podnet-datapath-packages
flock 9
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
