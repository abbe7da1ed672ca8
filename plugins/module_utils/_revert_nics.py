# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way back for NICs. Private to this collection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.podnet.datapath.plugins.module_utils import _nic
from ansible_collections.podnet.datapath.plugins.module_utils._ethtool import Ethtool, Nic
from ansible_collections.podnet.datapath.plugins.module_utils._journal import Key
from ansible_collections.podnet.datapath.plugins.module_utils._plan import Problem, Value
from ansible_collections.podnet.datapath.plugins.module_utils._revert import GONE, Now


class Nics:
    """Settings of NICs."""

    def read(self, keys: Iterable[Key]) -> dict[Key, Now]:
        """Return what is."""
        ethtool = Ethtool()
        known: dict[str, Nic] = {}
        found: dict[Key, Now] = {}
        try:
            for key in keys:
                with contextlib.suppress(OSError):
                    known.setdefault(key.place, known.get(key.place) or _nic.read(ethtool, key.place))
                nic = known.get(key.place)
                found[key] = nic.values.get(key.name, GONE) if nic else GONE
        finally:
            ethtool.close()
        return found

    def write(self, wished: Mapping[Key, Value]) -> None:
        """Set NICs to former values; raises ``Problem``."""
        ethtool = Ethtool()
        try:
            for place in sorted({key.place for key in wished}):
                now = _nic.read(ethtool, place)
                former: dict[str, Any] = {key.name: v for key, v in wished.items() if key.place == place}
                wanted = {name: value for name, value in former.items() if name in now.wanted}
                as_it_was = replace(now, values={**now.values, **former}, wanted={**now.wanted, **wanted})
                said = _nic.restore(ethtool, [as_it_was])
                missed = _nic.missed(_nic.read(ethtool, place), former)
                if missed:
                    raise Problem("\n".join([*missed, said]))
        finally:
            ethtool.close()
