#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# ansible-test sanity on a copy of the working tree: it wants to stand in ansible_collections/podnet/datapath.
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$PODNET_CACHE/sanity/ansible_collections/podnet/datapath
mkdir -p "$copy"
# Keep tests/output, where ansible-test has its virtual environments: a second run takes seconds.
find "$copy" -mindepth 1 -maxdepth 1 ! -name tests -exec rm -rf {} +
find "$copy" -path "$copy/tests/output" -prune -o -type f -exec rm -f {} +
git ls-files -co --exclude-standard -z | while IFS= read -r -d '' file; do
	[[ -e $file || -L $file ]] && printf '%s\0' "$file"
done | xargs -0 cp -a --parents -t "$copy"

# ansible-test fetches pip's bootstrap script from a host of its own; the same pip is in Python's ensurepip.
bootstrap=$(python - <<-'PYTHON'
	import pathlib, re
	import ansible_test._internal.python_requirements as requirements
	source = pathlib.Path(requirements.__file__).read_text()
	print("get_pip_" + re.search(r"pip='([0-9.]+)'", source).group(1).replace(".", "_") + ".py")
PYTHON
)
mkdir -p ~/.ansible/test/cache
if [[ ! -e ~/.ansible/test/cache/$bootstrap ]]; then
	cat >~/.ansible/test/cache/"$bootstrap" <<-'PYTHON'
		import subprocess, sys
		subprocess.check_call([sys.executable, "-m", "ensurepip", "--upgrade"])
		arguments = [a for a in sys.argv[1:] if a not in ("--no-setuptools", "--no-wheel")]
		sys.exit(subprocess.call([sys.executable, "-m", "pip", "install", *arguments]))
	PYTHON
fi

cd "$copy"
# Nothing here is PowerShell, and pslint needs a container.
ansible-test sanity --venv --python "$(python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" --skip-test pslint
