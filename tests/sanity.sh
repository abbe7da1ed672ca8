#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs ansible-test sanity on a copy of the working tree, because ansible-test accepts a collection only below
# ansible_collections/podnet/datapath. Several checkouts can run this at the same time: each has its own copy,
# and they share only the virtual environments of the tests, which one of them creates under a lock.
set -euo pipefail
cd "$(dirname "$0")/.."

checkout=$PODNET_CACHE/sanity/$(pwd -P | sha256sum | cut -c1-8)
copy=$checkout/ansible_collections/podnet/datapath
# ansible-test keeps its state in ~/.ansible/test and reads no variable for another place.
home=$PODNET_CACHE/sanity/home
mkdir -p "$copy" "$home/.ansible/test/cache" "$home/.cache" "$home/.config"
exec 8>"$checkout/lock"
flock 8

# Keep tests/output: ansible-test has a virtual environment there, so that a second run is fast.
find "$copy" -mindepth 1 -maxdepth 1 ! -name tests -exec rm -rf {} +
find "$copy" -path "$copy/tests/output" -prune -o -type f -exec rm -f {} +
git ls-files -co --exclude-standard -z | while IFS= read -r -d '' file; do
	[[ -e $file || -L $file ]] && printf '%s\0' "$file"
done | xargs -0 cp -a --parents -t "$copy"

# Share pip's settings, credentials and cache with the temporary home directory.
for path in .config/pip .pip .netrc .cache/pip; do
	ln -sfnT ~/"$path" "$home/$path"
done
export HOME=$home

# ansible-test downloads a bootstrap script for pip from its own server; use Python's ensurepip instead.
bootstrap=$(python - <<-'PYTHON'
	import pathlib, re
	import ansible_test._internal.python_requirements as requirements
	source = pathlib.Path(requirements.__file__).read_text()
	print("get_pip_" + re.search(r"pip='([0-9.]+)'", source).group(1).replace(".", "_") + ".py")
PYTHON
)
exec 9>"$home/lock"
flock 9
cat >"$home/.ansible/test/cache/$bootstrap" <<-'PYTHON'
	import subprocess, sys
	subprocess.check_call([sys.executable, "-m", "ensurepip", "--upgrade"])
	arguments = [a for a in sys.argv[1:] if a not in ("--no-setuptools", "--no-wheel")]
	sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *arguments]))
PYTHON

cd "$copy"
# The collection has no PowerShell, and pslint needs a container.
sanity=(ansible-test sanity --venv --python "$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
	--skip-test pslint)
primed=$home/primed-$(basename "$(python -c 'import sys; print(sys.prefix)')")
if [[ ! -e $primed ]]; then
	echo "Virtual environments of ansible-test, once: about 1 min"
	"${sanity[@]}" --prime-venvs >"$home/prime.log" 2>&1 || { cat "$home/prime.log"; exit 1; }
	touch "$primed"
fi
flock -u 9

"${sanity[@]}"
