# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""The thread that ends UDP sockets of removed backends, so that no Pod waits for it."""

from __future__ import annotations

import logging
import threading
import time

from .._datapath.stale_sockets import Ended, end_stale_sockets

PAUSE = 1.0  # seconds

log = logging.getLogger("podnet-agent")


class StaleSockets:
    """Ends stale sockets after each request, and after the start: a former agent may have been killed."""

    def __init__(self, pin_path: str) -> None:
        self._pin_path = pin_path
        self._requested = threading.Event()
        self._requested.set()
        self._problem = ""

    def request(self, _pin_path: str) -> Ended:
        """Have the sockets ended soon."""
        self._requested.set()
        return Ended()

    def run(self) -> None:
        """End sockets, forever."""
        while True:
            self._requested.wait()
            self._requested.clear()
            self._end()
            # A connect() may have selected its backend before, and have set the socket's address since.
            time.sleep(PAUSE)
            self._end()

    def _end(self) -> None:
        try:
            count, problem = end_stale_sockets(self._pin_path)
        except Exception:  # The next change must be served nevertheless.
            log.exception("UDP sockets of removed backends cannot be ended")
            return
        if count:
            log.info("ended %d UDP sockets that were connected to removed backends", count)
        if problem and problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem
