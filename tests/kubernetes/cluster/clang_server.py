# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compile for emulated nodes at ADDRESS PORT; a machine runs this file, see compiler.py.

A request is an archive of all folders with headers and of the file ``arguments``; the reply is the output.
"""

from __future__ import annotations

import http.server
import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path


class Handler(http.server.BaseHTTPRequestHandler):
    """The folders of all nodes have the same paths, so the server handles one request after the other."""

    def do_POST(self) -> None:
        content = io.BytesIO(self.rfile.read(int(self.headers["Content-Length"])))
        with tarfile.open(fileobj=content) as archive:
            archive.extractall("/", filter="data")
        arguments = Path("/arguments").read_text().splitlines()
        done = subprocess.run(["clang-19", *arguments], capture_output=True, check=False)
        for argument in arguments:
            if argument.startswith("-I"):
                shutil.rmtree(argument.removeprefix("-I"), ignore_errors=True)
        body = done.stderr if done.returncode else done.stdout
        self.send_response(500 if done.returncode else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
