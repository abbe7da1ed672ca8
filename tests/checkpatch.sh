#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs the kernel's checkpatch.pl on the driver and the BPF programs. The script comes from Debian's package
# linux-source and is unpacked once into the cache.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts=$PODNET_CACHE/checkpatch
mkdir -p "$PODNET_CACHE"
exec 9>"$scripts.lock"
flock 9
if [[ ! -e $scripts/.complete ]]; then
	echo "Unpacking checkpatch.pl from Debian's linux-source, once: about 40 s"
	rm -rf "$scripts"
	mkdir -p "$scripts"
	package=$(apt-cache depends linux-source | sed -n 's/.*Depends: \(linux-source-.*\)/\1/p')
	(cd "$scripts" && apt-get download -q "$package" && dpkg-deb --fsys-tarfile ./*.deb |
		tar -xO --wildcards '*.tar.xz' | tar -xJ --strip-components=1 --wildcards '*/scripts/checkpatch.pl' \
		'*/scripts/spelling.txt' '*/scripts/const_structs.checkpatch')
	rm -f "$scripts"/*.deb
	touch "$scripts/.complete"
fi
flock -u 9

# FILE_PATH_CHANGES and SPDX_LICENSE_TAG apply to the kernel tree only. VOLATILE: libbpf declares .rodata const volatile.
git ls-files '*.[ch]' |
	xargs perl "$scripts/scripts/checkpatch.pl" --no-tree --strict --terse --show-types --no-summary --quiet --file \
		--ignore FILE_PATH_CHANGES,SPDX_LICENSE_TAG,VOLATILE
