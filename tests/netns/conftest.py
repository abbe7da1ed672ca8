# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fixtures for running modules in network namespaces of this machine, as root."""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

from tests.netns.bpf_node import Node, compiled
from tests.support.cgroup import cgroup
from tests.support.checkout import PROGRAMS
from tests.support.namespaces import Namespaces, command, enter

RunModule = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("tests/netns need root; run make test-netns")


@pytest.fixture(scope="session")
def run_module() -> RunModule:
    """Return a function that runs a module of this collection as Ansible does, in a child process.

    ``run_module(name, args, netns=None, check=False, fails=False)`` returns the module's result with its
    diff, and asserts that it fails if and only if ``fails``. ``netns`` is a name of /run/netns; the mounts
    are those of this machine.
    """

    def run(
        name: str,
        args: dict[str, Any],
        netns: str | None = None,
        check: bool = False,
        fails: bool = False,
    ) -> dict[str, Any]:
        module = importlib.import_module(f"ansible_collections.podnet.datapath.plugins.modules.{name}")
        request = {"ANSIBLE_MODULE_ARGS": {**args, "_ansible_check_mode": check, "_ansible_diff": True}}
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
        ):
            given.write(json.dumps(request).encode())
            given.seek(0)
            # A fork has the imports already: starting an interpreter would take most of the time.
            child = os.fork()
            if not child:
                _run_in_child(module.main, netns, given.fileno(), out.fileno(), err.fileno())
            os.waitpid(child, 0)
            out.seek(0)
            err.seek(0)
            printed, complained = out.read().decode(), err.read().decode()
        try:
            result: dict[str, Any] = json.loads(printed)
        except ValueError:
            raise AssertionError(f"{name} printed no JSON:\n{printed}\n{complained}") from None
        assert bool(result.get("failed")) == fails, result.get("msg", result)
        return result

    return run


def _run_in_child(main: Callable[[], None], netns: str | None, given: int, out: int, err: int) -> NoReturn:
    """Run a module's main() in this child, in a namespace and with its streams, for at most 120 seconds."""
    try:
        signal.alarm(120)
        for source, target in ((given, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        sys.argv = ["module"]
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
        if netns:
            enter(f"/run/netns/{netns}")
        main()
    except SystemExit:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


@pytest.fixture
def namespaces() -> Iterator[Namespaces]:
    """Yield network namespaces that are deleted after the test."""
    made = Namespaces()
    yield made
    made.delete()


@pytest.fixture(scope="module")
def module_namespaces() -> Iterator[Namespaces]:
    """Yield network namespaces that are deleted after the last test of the file."""
    made = Namespaces()
    yield made
    made.delete()


@pytest.fixture(scope="session")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Mount a private BPF file system; yield its path."""
    path = str(tmp_path_factory.mktemp("bpffs"))
    command("mount", "-t", "bpf", "bpf", path)
    yield path
    command("umount", path)


@pytest.fixture(scope="session")
def datapath_object(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the object with the compiled programs."""
    out = tmp_path_factory.mktemp("object")
    command("make", "-s", "-C", str(PROGRAMS), f"OUT={out}")
    return str(out / "datapath.o")


@pytest.fixture
def node(namespaces: Any, run_module: RunModule, bpffs: str, datapath_object: str) -> Iterator[Node]:
    """Yield a node for bpf_attach; remove its attachments afterwards."""
    made = Node(namespaces, run_module, bpffs, datapath_object)
    yield made
    made.attach(state="absent")


@pytest.fixture(scope="module")
def module_node(
    module_namespaces: Namespaces, run_module: RunModule, bpffs: str, datapath_object: str
) -> Iterator[Node]:
    """Yield a node of all tests of the file; remove its attachments after the last one."""
    made = Node(module_namespaces, run_module, bpffs, datapath_object)
    yield made
    made.attach(state="absent")


@pytest.fixture
def group() -> Iterator[str]:
    """Yield a cgroup with this process, for programs of sockets."""
    with cgroup("sockets") as path:
        yield path


@pytest.fixture(scope="module")
def module_group() -> Iterator[str]:
    """Yield a cgroup with this process until the last test of the file."""
    with cgroup("sockets-of-file") as path:
        yield path


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Return a function that compiles the programs with edits, each once; see ``bpf_node.compiled``."""
    return functools.cache(lambda *edits: compiled(tmp_path_factory.mktemp("build"), *edits))
