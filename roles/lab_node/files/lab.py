# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Create and manage a lab of one or two connected QEMU nodes.

Prints one JSON object to standard output (plain text for ``root``, ``packages`` and ``ssh``) and progress
messages to standard error. Requires root and the packages that ``lab.py packages`` prints.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from lablib import common, image, recipe
from lablib.common import LabError
from lablib.lifecycle import Lab
from lablib.spec import LabSpec


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line; ``remote`` has the words after ``--``, unparsed."""
    words = sys.argv[1:] if argv is None else argv
    end = words.index("--") if "--" in words else len(words)
    parser = _parser()
    options = parser.parse_args(words[:end])
    options.remote = words[end + 1 :]
    if options.remote and options.command != "ssh":
        parser.error(f"{options.command} does not accept a command after --: {' '.join(options.remote)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lab.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add_command(
        name: str, text: str, *, lab: bool = True, kernel: bool = False
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        if lab:
            added.add_argument("--name", default="lab", help="name of the lab (default: %(default)s)")
        if kernel:
            kernel_help = "the nodes' kernel (default: %(default)s)"
            added.add_argument("--kernel", default="6.1", choices=recipe.KERNELS, help=kernel_help)
        return added

    up = add_command("up", "create the lab, or start its stopped nodes", kernel=True)
    up.add_argument("--nodes", type=int, default=2, help="1 or 2 (default: %(default)s)")
    up.add_argument("--memory", type=int, default=1024, help="MiB per node (default: %(default)s)")
    up.add_argument("--cpus", type=int, default=2, help="CPUs per node (default: %(default)s)")
    snapshot_help = "restore this snapshot if it exists, otherwise save it when the lab is created"
    up.add_argument("--snapshot", default="", help=snapshot_help)
    nic_help = "QEMU's model (e1000e, igb) of one more NIC per node, connected to the node's other --nic NICs"
    up.add_argument("--nic", action="append", default=[], metavar="MODEL", help=nic_help)
    disk_help = "a raw disk image that every node gets as a second disk, read-only"
    up.add_argument("--disk", default="", metavar="FILE", help=disk_help)
    durable_help = "flushed data survives the end of QEMU, for tests that kill it"
    up.add_argument("--durable", action="store_true", help=durable_help)
    add_command("down", "remove the lab with its processes, namespace, disks and snapshots")
    add_command("status", "print the lab's configuration and state")
    add_command("inventory", "like status, but fail if the lab does not exist")
    for name, text in (
        ("snapshot", "save memory and disks of all nodes"),
        ("restore", "restore all nodes to a snapshot"),
    ):
        add_command(name, text).add_argument("snapshot", metavar="NAME")
    ssh = add_command("ssh", "open a shell in a node or run a command: lab.py ssh node1 -- uname -r")
    ssh.add_argument("node")
    for name, text in (
        ("image", "build the node image if it is not in the cache"),
        ("root", "build the node image likewise, and print the path of its root folder"),
    ):
        added = add_command(name, text, lab=False, kernel=True)
        added.add_argument("--rebuild", action="store_true", help="rebuild it from current packages")
    add_command("packages", "print the required Debian packages, one per line", lab=False)
    return parser


def run_command(options: argparse.Namespace) -> dict[str, object]:
    """Run a command that prints JSON and return its result; ``ssh`` replaces this process instead."""
    if options.command == "image":
        common.require_root_and_commands()
        built, changed = image.ensure_image(options.kernel, rebuild=options.rebuild)
        return {"changed": changed, "kernel": options.kernel, "root": str(built.root)}
    lab = Lab(options.name)
    if options.command == "ssh":
        argv = lab.ssh_argv(options.node) + options.remote
        os.execvp(argv[0], argv)
    if options.command in ("status", "inventory"):
        if options.command == "inventory":
            lab.require_exists()
        return {"changed": False, **lab.report()}
    common.require_root_and_commands()
    with lab.locked():
        return {"changed": _change(lab, options), **lab.report()}


def _change(lab: Lab, options: argparse.Namespace) -> bool:
    """Run a command that changes the lab; return whether anything changed."""
    if options.command == "down":
        return lab.down()
    if options.command == "snapshot":
        return lab.snapshot(options.snapshot)
    if options.command == "restore":
        return lab.restore(options.snapshot)
    spec = LabSpec(
        kernel=options.kernel,
        nodes=options.nodes,
        memory=options.memory,
        cpus=options.cpus,
        nics=tuple(options.nic),
        durable=options.durable,
        disk=os.path.abspath(options.disk) if options.disk else "",
    )
    return lab.up(spec, options.snapshot)


def main() -> int:
    """Run the command line; return the exit status."""
    options = parse_arguments()
    os.umask(0o022)  # a stricter umask would make files in the image unreadable for the nodes' users
    try:
        if options.command == "packages":
            print("\n".join(common.PACKAGES))
        elif options.command == "root":
            common.require_root_and_commands()
            print(image.ensure_image(options.kernel, rebuild=options.rebuild)[0].root)
        else:
            print(json.dumps(run_command(options)))
    except LabError as error:
        print(f"lab.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
