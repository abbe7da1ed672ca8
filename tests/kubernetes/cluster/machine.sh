#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Usage: machine.sh NAME FOLDER LAYERS
#
# Runs in new mount, PID, UTS and IPC namespaces. Mounts a root of the layers with its changes in FOLDER, prints
# the ID that this process has in the first PID namespace, and becomes the machine's init.
set -eu

name=$1 folder=$2 layers=$3

# /proc is still the one of the first PID namespace.
read -r pid _ </proc/self/stat

cgroup2=$(findmnt --noheadings --output TARGET --types cgroup2 --first-only) || {
	echo 'no cgroup v2 is mounted; mount it: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified' >&2
	exit 1
}

cd "$folder"
mkdir -p upper work root state sysctl
mount -t overlay -o "lowerdir=$layers,upperdir=upper,workdir=work" overlay root
mount -t proc proc root/proc
mount -t sysfs sysfs root/sys
mount --rbind /sys/fs/cgroup root/sys/fs/cgroup
mount -t bpf bpf root/sys/fs/bpf
mount --rbind /dev root/dev
mount -t tmpfs -o mode=755 tmpfs root/run
mkdir root/run/cgroup2
mount --bind "$cgroup2" root/run/cgroup2
# crun refuses controllers of cgroup v1 beside those of cgroup v2.
[ "$cgroup2" = /sys/fs/cgroup ] || umount "root$cgroup2"

# The state of containerd, etcd and kubelet must not be on an overlay.
for state in containerd etcd kubelet; do
	mkdir -p "state/$state" "root/var/lib/$state"
	mount --bind "state/$state" "root/var/lib/$state"
done

# kubelet sets these sysctls of the whole kernel, unless they have its values already.
while read -r key value; do
	file=sysctl/$(basename "$key")
	echo "$value" >"$file"
	mount --bind "$file" "root/proc/sys/$key"
done <<-EOF
	kernel/keys/root_maxbytes 25000000
	kernel/keys/root_maxkeys 1000000
	kernel/panic 10
	kernel/panic_on_oops 1
	vm/overcommit_memory 1
	vm/panic_on_oom 0
EOF

hostname "$name"
echo "$name" >root/etc/hostname
printf '127.0.0.1 localhost\n::1 localhost\n' >root/etc/hosts
# Names outside of the cluster are not resolved.
echo 'nameserver 127.0.0.1' >root/etc/resolv.conf

# After chroot, setns(2) to the mount namespace of a container would enter the root of this computer.
cd root
pivot_root . mnt
umount -l /mnt
mount --make-rshared /
echo "$pid"
exec tini -- sleep infinity >/dev/null
