#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Prints what of a node this collection may touch, a line a thing: the way back is to bring back each of them.
export LC_ALL=C
# What counts, ages or is drawn by lot differs by itself; a module that is not the kernel's own taints until the next boot.
sysctl -a 2>/dev/null | grep -Ev 'random|\.nr_|-nr|-state|ns_last_pid|uuid|printk|perf_|mtu_expires|discard|nonce|pty|keys|tainted|quota|reserve' |
	sed 's/^/sysctl /'
for nic in wire0 mgmt0; do
	ip -details link show dev "$nic" | grep -Eo 'mtu [0-9]+|qdisc [a-z_]+|g[sr]o_(ipv4_)?max_size [0-9]+' | sed "s/^/$nic /"
	for what in -g -l -k -c; do
		ethtool "$what" "$nic" 2>/dev/null | sed "s/^/$nic $what /"
	done
	tc filter show dev "$nic" ingress | sed "s/^/$nic ingress /"
	tc qdisc show dev "$nic" | grep -E 'clsact|ingress' | sed "s/^/$nic /"
done
ip -brief link | awk '{ print "link", $1 }'
ip route show | sed 's/^/route /'
# The kernel loads modules of its own where somebody asks for a qdisc, and keeps them.
lsmod | awk '$1 == "meta" { print "module", $1 }'
find /sys/fs/bpf /run/netns -mindepth 1 2>/dev/null | sort
# The contents of files; of a kernel's own modules, which nothing writes to, the sizes.
find /etc /usr/local /boot /var/lib/dkms /lib/modules/*/updates /lib/modules/*/modules.* \
	\( -type f -o -type l \) ! -path /etc/mtab ! -path /boot/grub/grub.cfg 2>/dev/null | sort | xargs -d '\n' sha256sum 2>/dev/null
# GRUB writes it anew from the files above, and not as the image's maker did.
grep -Eo 'iommu=[^ ]*' /boot/grub/grub.cfg | sort -u
find /lib/modules/*/kernel -type f -printf '%p %s\n' | sort
