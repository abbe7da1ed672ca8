# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records of attached Pods, one file each, which survive restarts of the agent and of the node.

A record is written before anything is created and deleted after everything is removed, so that what a kill
or a reboot leaves behind is found by it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .._core.files import Metadata, replace_file
from .._kernel import netns
from .protocol import Request, uid_in

FOLDER = "/var/lib/podnet-datapath/agent/attachments"
_SUFFIX = ".json"

log = logging.getLogger("podnet-agent")


def name_of(container: str, interface: str) -> str:
    """Return the name of an attachment: 32 characters, as container IDs may be longer than names of Pods."""
    return hashlib.sha256(f"{container}/{interface}".encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Attachment:
    """An interface of a container.

    ``namespace`` identifies the network namespace, whose path ``netns`` may be of another one later.
    ``config`` is the network configuration, which the IPAM plugin needs to release the addresses. ``uid`` is
    that of the Pod, and was not recorded by former versions. The datapath serves ``host_ports``. ``result``
    is empty until the Pod is complete.
    """

    container: str
    interface: str
    network: str
    netns: str
    pod: str
    config: Mapping[str, Any]
    variables: Mapping[str, str]
    namespace: str = ""
    rate: str = ""
    uid: str = ""
    addresses: Sequence[str] = ()
    host_ports: Sequence[Mapping[str, Any]] = ()
    result: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the name of the Pod in devices and maps."""
        return name_of(self.container, self.interface)

    @property
    def shown(self) -> str:
        """Return the name of the Pod for messages."""
        return self.pod or self.container

    @property
    def pod_uid(self) -> str:
        """Return the UID of the Pod."""
        return self.uid or uid_in(self.variables)

    def is_live(self) -> bool:
        """Return whether the namespace exists, and its path is still of this namespace."""
        try:
            return netns.is_namespace(self.netns) and netns.identity(self.netns) == self.namespace
        except OSError:
            return False

    @classmethod
    def of(cls, request: Request, config: Mapping[str, Any], namespace: str) -> Attachment:
        """Return the attachment that a request adds."""
        return cls(
            request.container,
            request.interface,
            request.network,
            request.netns,
            request.pod,
            {key: value for key, value in config.items() if key != "prevResult"},
            dict(request.variables),
            namespace,
            f"{request.egress_rate}bit" if request.egress_rate else "",
            request.uid,
        )


_FIELDS = {one.name for one in fields(Attachment)}


class Attachments:
    """All records, in memory and in ``folder``.

    ``unreadable`` has the names of the records that cannot be read: their Pods may be running.
    """

    def __init__(self, folder: str = FOLDER) -> None:
        self._folder = folder
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self._found: dict[str, Attachment] = {}
        self.unreadable: set[str] = set()
        for name in os.listdir(folder):
            if name.endswith(_SUFFIX) and not name.startswith("."):
                self._read(name[: -len(_SUFFIX)])

    def _read(self, name: str) -> None:
        try:
            with open(self._path(name), encoding="utf-8") as file:
                raw = json.load(file)
            # A newer agent may have written more.
            self._found[name] = Attachment(**{key: value for key, value in raw.items() if key in _FIELDS})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("%s: cannot read the record: %s; its Pod is kept until DEL", self._path(name), error)
            self.unreadable.add(name)

    def remove_unfinished(self) -> None:
        """Remove files that a killed agent was writing. Only the agent may do this, as it writes them."""
        for name in os.listdir(self._folder):
            if name.startswith("."):
                os.unlink(os.path.join(self._folder, name))

    def _path(self, name: str) -> str:
        return os.path.join(self._folder, name + _SUFFIX)

    def __iter__(self) -> Iterator[Attachment]:
        return iter(list(self._found.values()))

    def __len__(self) -> int:
        return len(self._found)

    def get(self, name: str) -> Attachment | None:
        """Return an attachment by its name."""
        return self._found.get(name)

    def write(self, attachment: Attachment) -> None:
        """Add or replace a record. Raises ``OSError``."""
        # Without fsync(), which takes longer than everything else: after a power failure, no Pod is left.
        data = json.dumps(vars(attachment)).encode()
        replace_file(self._path(attachment.name), data, like=Metadata(0o600), sync=False)
        self._found[attachment.name] = attachment
        self.unreadable.discard(attachment.name)

    def delete(self, name: str) -> None:
        """Delete a record, which need not exist. Raises ``OSError``."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(name))
        self._found.pop(name, None)
        self.unreadable.discard(name)
