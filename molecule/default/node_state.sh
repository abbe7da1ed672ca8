#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Prints every setting and object that the collection may change on a node, one per line. A rollback must restore all lines.
export LC_ALL=C
# Excluded: counters, timers and random values, which change by themselves, and the taint flags, which an out-of-tree
# module sets until the next boot.
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
# Only meta: the kernel loads modules for qdiscs automatically and keeps them.
lsmod | awk '$1 == "meta" { print "module", $1 }'
find /sys/fs/bpf /run/netns -mindepth 1 2>/dev/null | sort
# Checksums of files. For the kernel's own modules, which nothing modifies, sizes are sufficient (last line).
find /etc /usr/local /boot /var/lib/dkms /lib/modules/*/updates /lib/modules/*/modules.* \
	\( -type f -o -type l \) ! -path /etc/mtab ! -path /boot/grub/grub.cfg 2>/dev/null | sort | xargs -d '\n' sha256sum 2>/dev/null
# Only these arguments: update-grub generates grub.cfg, and its output differs from the file in the image.
grep -Eo 'iommu=[^ ]*' /boot/grub/grub.cfg | sort -u
find /lib/modules/*/kernel -type f -printf '%p %s\n' | sort
