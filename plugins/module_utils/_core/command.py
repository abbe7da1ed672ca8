# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Type of a function that runs a program, as ``AnsibleModule.run_command`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# Takes the words of a command; returns exit status, standard output and standard error.
RunCommand = Callable[[Sequence[str]], "tuple[int, str, str]"]
