# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Changes, problems, and how both are shown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Union

Value = Union[str, int, bool, None]


class Problem(Exception):
    """What is asked cannot be. The text names option, value and remedy, a line a problem."""


@dataclass(frozen=True)
class Change:
    """One thing that is to become ``after``. ``None`` stands for a thing that is not there."""

    name: str
    before: Value
    after: Value

    def as_dict(self) -> dict[str, Value]:
        """Return the change as the modules return it."""
        return {"name": self.name, "before": self.before, "after": self.after}


def shown(value: Value) -> str:
    """Return a value as people write it: on and off for flags."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def diff(header: str, changes: Iterable[Change]) -> dict[str, str]:
    """Return the diff that Ansible shows for changes of small values, a line each."""
    changes = list(changes)

    def lines(pairs: Iterable[tuple[str, Value]]) -> str:
        return "".join(f"{name} = {shown(value)}\n" for name, value in pairs if value is not None)

    return {
        "before_header": header,
        "after_header": header,
        "before": lines((change.name, change.before) for change in changes),
        "after": lines((change.name, change.after) for change in changes),
    }


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean ...?`` for the names most like ``name``, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.75)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def reason(error: OSError) -> str:
    """Return the kernel's words for an error."""
    return error.strerror or str(error)


def listed(names: Sequence[str] | Mapping[str, object]) -> str:
    """Return names for an error message."""
    return ", ".join(names) if names else "none"
