#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# The kernel's own style check on the driver and the programs. checkpatch.pl is taken from Debian's
# linux-source package, unpacked once into the cache.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts=$PODNET_CACHE/checkpatch
if [[ ! -e $scripts/.complete ]]; then
	echo "checkpatch.pl from Debian's linux-source, once: about 40 s"
	rm -rf "$scripts"
	mkdir -p "$scripts"
	package=$(apt-cache depends linux-source | sed -n 's/.*Depends: \(linux-source-.*\)/\1/p')
	(cd "$scripts" && apt-get download -q "$package" && dpkg-deb --fsys-tarfile ./*.deb |
		tar -xO --wildcards '*.tar.xz' | tar -xJ --strip-components=1 --wildcards '*/scripts/checkpatch.pl' \
		'*/scripts/spelling.txt' '*/scripts/const_structs.checkpatch')
	rm -f "$scripts"/*.deb
	touch "$scripts/.complete"
fi

# No tree is at hand: MAINTAINERS and the like are not looked at. `const volatile` is how .rodata is declared.
git ls-files 'roles/*/files/*.[ch]' 'tests/*.[ch]' |
	xargs perl "$scripts/scripts/checkpatch.pl" --no-tree --strict --terse --show-types --quiet --file \
		--ignore FILE_PATH_CHANGES,SPDX_LICENSE_TAG,VOLATILE
