# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write log records with fields to journald, to standard error where there is none.

Source: systemd.io, "Native Journal Protocol"; systemd.journal-fields(7).
"""

from __future__ import annotations

import logging
import socket
import struct

SOCKET = "/run/systemd/journal/socket"
FIELDS = ("pod", "container", "command")  # of log records, given by ``extra``

_PRIORITIES = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


def encode(record: logging.LogRecord, message: str) -> bytes:
    """Return the datagram for a record."""
    values = {
        "MESSAGE": message,
        "PRIORITY": str(_PRIORITIES.get(record.levelno, 5)),
        "SYSLOG_IDENTIFIER": "podnet-agent",
    }
    for field in FIELDS:
        value = getattr(record, field, "")
        if value:
            values[f"PODNET_{field.upper()}"] = str(value)
    parts = []
    for name, text in values.items():
        raw = text.encode(errors="replace")
        # A value may contain line breaks, so its length precedes it.
        parts.append(name.encode() + b"\n" + struct.pack("<Q", len(raw)) + raw + b"\n")
    return b"".join(parts)


class Handler(logging.StreamHandler):  # type: ignore[type-arg]
    """Sends records to journald, or writes them to standard error if that fails."""

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self._socket.sendto(encode(record, self.format(record)), SOCKET)
        except OSError:
            super().emit(record)
