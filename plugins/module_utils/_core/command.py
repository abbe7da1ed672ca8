# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run programs with a fixed environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

SEARCH_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")

# Takes the words of a command; returns exit status, standard output and standard error.
RunCommand = Callable[[Sequence[str]], "tuple[int, str, str]"]


def clean(run: RunCommand) -> RunCommand:
    """Return ``run`` with an environment that does not depend on the caller.

    The PATH of su(1) has no sbin directories, and the caller's locale and variables change what programs do.
    """
    env = ("/usr/bin/env", "-i", f"PATH={':'.join(SEARCH_PATH)}", "LC_ALL=C")
    return lambda words: run([*env, *words])
