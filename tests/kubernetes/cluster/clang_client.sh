#!/bin/sh
# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Compile on the machine SERVER, which clang_server.py listens on: send it the arguments and all headers.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '%s\n' "$@" >"$work/arguments"
# Directories of headers have no blanks in their names.
# shellcheck disable=SC2046
tar -cf "$work/request" -C / $(sed -n 's|^-I/||p' "$work/arguments") -C "$work" arguments
if curl -sS --fail-with-body --data-binary "@$work/request" -o "$work/reply" http://SERVER/; then
    cat "$work/reply"
else
    cat "$work/reply" >&2
    exit 1
fi
