# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Functions that run in threads while a test does something else."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def background(*functions: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run functions in threads during the block; they return when the event that they get is set.

    Raises the first error of a function at the end of the block.
    """
    stop = threading.Event()
    errors: list[Exception] = []

    def run(function: Callable[[threading.Event], None]) -> None:
        try:
            function(stop)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
