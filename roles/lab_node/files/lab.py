# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's command line: QEMU nodes joined back to back, from one command.

Prints one JSON object on standard output (``root``, ``packages`` and ``ssh``: plain text) and progress on
standard error. Needs root and the packages that ``lab.py packages`` lists; nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from lablib import common, image, recipe
from lablib.common import LabError
from lablib.nodes import Lab


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the command line's values; what follows ``--`` is for the node, as it stands."""
    given = sys.argv[1:] if argv is None else argv
    end = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(prog="lab.py", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("--name", default="lab", help="name of the lab (default: %(default)s)")
        return added

    def kernel(added: argparse.ArgumentParser) -> argparse.ArgumentParser:
        added.add_argument("--kernel", default="6.1", choices=recipe.KERNELS, help="default: %(default)s")
        return added

    def image_command(name: str, text: str) -> None:
        added = kernel(commands.add_parser(name, help=text, description=text))
        added.add_argument("--rebuild", action="store_true", help="build anew from today's packages")

    up = kernel(command("up", "make the lab, or start what of it does not run"))
    up.add_argument("--nodes", type=int, default=2, help="1 or 2 (default: %(default)s)")
    up.add_argument("--memory", type=int, default=1024, help="MiB a node (default: %(default)s)")
    up.add_argument("--cpus", type=int, default=2, help="processors a node (default: %(default)s)")
    up.add_argument("--snapshot", default="", help="restore this snapshot, or take it once made")
    nic_help = "one more NIC a node, as QEMU names it (e1000e, igb), joined with the node's others of these"
    up.add_argument("--nic", action="append", default=[], metavar="MODEL", help=nic_help)
    durable_help = "what a node has flushed outlives its QEMU, for tests that kill it"
    up.add_argument("--durable", action="store_true", help=durable_help)
    command("down", "remove the lab with its processes, wire, disks and snapshots")
    command("status", "tell what there is")
    command("inventory", "tell where the lab's Ansible inventory is")
    for name, text in (
        ("snapshot", "save memory and disks of all nodes under a name"),
        ("restore", "put all nodes back to a snapshot"),
    ):
        command(name, text).add_argument("snapshot", metavar="NAME")
    ssh = command("ssh", "run a command in a node, or a shell: lab.py ssh node1 -- uname -r")
    ssh.add_argument("node")
    image_command("image", "build a node's image if the cache lacks it")
    image_command("root", "the same, and print the path of the image's root folder")
    commands.add_parser("packages", help="print the Debian packages that this program needs, one a line")
    options = parser.parse_args(given[:end])
    options.remote = given[end + 1 :]
    if options.remote and options.command != "ssh":
        parser.error(f"{options.command} takes no command for a node: {' '.join(options.remote)}")
    return options


def act(options: argparse.Namespace) -> dict[str, object]:
    """Carry out a command and return what to print."""
    if options.command == "image":
        common.require_root_and_commands()
        built, changed = image.ensure_image(options.kernel, rebuild=options.rebuild)
        return {"changed": changed, "kernel": options.kernel, "root": str(built.root)}
    lab = Lab(options.name)
    if options.command == "ssh":
        names = [node.name for node in lab.need().nodes]
        if options.node not in names:
            raise LabError(f"lab {options.name!r} has no {options.node!r}; it has: {', '.join(names)}")
        argv = lab.ssh_argv(options.node) + options.remote
        os.execvp(argv[0], argv)
    if options.command in ("status", "inventory"):
        if options.command == "inventory":
            lab.need()
        return {"changed": False, **lab.report()}
    common.require_root_and_commands()
    with lab.locked():
        if options.command == "up":
            changed = lab.up(
                kernel=options.kernel,
                count=options.nodes,
                memory=options.memory,
                cpus=options.cpus,
                snapshot=options.snapshot,
                nics=options.nic,
                durable=options.durable,
            )
        elif options.command == "down":
            changed = lab.down()
        elif options.command == "snapshot":
            changed = lab.snapshot(options.snapshot)
        else:
            changed = lab.restore(options.snapshot)
        return {"changed": changed, **lab.report()}


def main() -> int:
    options = parse_arguments()
    os.umask(0o022)  # the nodes' files are made by this process, too
    try:
        if options.command == "packages":
            print("\n".join(common.PACKAGES))
        elif options.command == "root":
            common.require_root_and_commands()
            print(image.ensure_image(options.kernel, rebuild=options.rebuild)[0].root)
        else:
            print(json.dumps(act(options)))
    except LabError as error:
        print(f"lab.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
