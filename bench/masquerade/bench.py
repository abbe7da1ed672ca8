# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare masquerading with netfilter's: connections to one destination, with the same ports for both.

One client opens and closes TCP connections, one after the other. Another holds connections open until one
fails. Prints a Markdown table. Needs nftables.

usage: python3 -m bench.masquerade.bench [--count 20000]
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from bench import programs
from tests.support.connection_checks import accepting, connect_often, open_in
from tests.support.namespaces import Namespaces
from tests.support.pod_nodes import Nodes
from tests.support.policy_lab import PODS, TCP, Lab, address_of

PORTS = "61000-65535"
RULES = f"""
table ip nat {{
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {PODS["front"].v4} meta l4proto tcp masquerade to :{PORTS}
  }}
}}
"""


def held_connections(lab: Nodes, count: int) -> int:
    """Open up to ``count`` connections and keep them; return how many succeed before the first fails."""
    with (
        open_in(lab, "world", TCP, port=7002) as listener,
        accepting(listener),
        contextlib.ExitStack() as open_,
    ):
        for number in range(count):
            client = open_.enter_context(open_in(lab, "front", TCP))
            client.settimeout(3)
            try:
                client.connect((address_of("world", 4), 7002))
            except TimeoutError:
                return number
    return count


def measure(lab: Nodes, count: int) -> tuple[int, float, int]:
    """Return successful connections one after the other, their number per second, and held connections."""
    began = time.monotonic()
    done = connect_often(lab, count)
    return done, done / (time.monotonic() - began), held_connections(lab, 5000)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=20000)
    options = parser.parse_args()
    if not shutil.which("nft"):
        raise SystemExit("nft is missing: install nftables (Debian: apt install nftables)")
    rows = []
    with tempfile.TemporaryDirectory(prefix="podnet-masquerade-") as work, contextlib.ExitStack() as stack:
        datapath, bpffs = programs.build(Path(work), stack)
        namespaces = Namespaces()
        stack.callback(namespaces.delete)
        lab = Lab(namespaces, bpffs, datapath)
        try:
            lab.ns.sysctl(lab.names["node1"], ipv4__ip_local_port_range="1024 60999")
            lab.declare(masqueraded=["front"])
            rows.append(("BPF programs", *measure(lab, options.count)))
        finally:
            lab.close()
        namespaces.delete()
        plain = Nodes(namespaces, PODS)
        with plain.ns.inside(plain.names["node1"]):
            subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
        rows.append(("netfilter", *measure(plain, options.count)))
    print("| masquerading | connections in succession | per second | held open |")
    print("|---|---:|---:|---:|")
    for name, done, rate, held in rows:
        print(f"| {name} | {done:,} | {rate:,.0f} | {held:,} |")


if __name__ == "__main__":
    main()
