# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Datagrams that several senders send to one receiver all the time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Sequence

from tests.support.namespaces import Namespaces

PORT = 7777


def udp_in(ns: Namespaces, netns: str, address: str = "", port: int = 0) -> socket.socket:
    """Return a socket in a network namespace."""
    with ns.inside(netns):
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, port))
    return made


class Flood:
    """Sends datagrams to a receiver until it is left; ``received`` counts them by the sender's address.

    It closes the sockets.
    """

    def __init__(self, senders: Sequence[socket.socket], receiver: socket.socket) -> None:
        self.received: Counter[str] = Counter()
        self._stopped = threading.Event()
        self._receiver, self._senders = receiver, senders
        self._receiver.settimeout(0.2)
        self._threads = [threading.Thread(target=self._receive)]
        self._threads += [threading.Thread(target=self._send, args=(one,)) for one in senders]

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        for one in (self._receiver, *self._senders):
            one.close()

    def _send(self, one: socket.socket) -> None:
        to = self._receiver.getsockname()
        while not self._stopped.wait(0.0005):
            with contextlib.suppress(OSError):  # an ICMP error, or no buffer
                one.sendto(b"x", to)

    def _receive(self) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                self.received[self._receiver.recvfrom(16)[1][0]] += 1
