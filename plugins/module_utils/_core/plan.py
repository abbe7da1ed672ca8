# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""One protocol for all subsystems: ``plan(current, desired)`` returns a Plan, ``apply(plan)`` executes it.

A module reads the current state, calls ``plan``, which is pure, and rejects the request if the plan has
problems. Check mode stops there; the diff is the plan. Otherwise ``_rollback.journal.transaction`` writes the
plan to the journal, ``apply`` makes the changes inside it, and the module reads the state again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Union

Value = Union[str, int, bool, None]


class Problem(Exception):
    """An invalid or failed request. Each line of the message names an option, its value and the remedy."""


class TransientProblem(Problem):
    """A problem that ends by itself, such as another run that holds a lock: repeat the same request later."""


@dataclass(frozen=True)
class Change:
    """A setting or object that changes to ``after``; ``None`` means that it does not exist.

    ``scope`` is its NIC, network namespace or pin directory, empty for the node itself.
    """

    name: str
    before: Value
    after: Value
    scope: str = ""

    def as_dict(self) -> dict[str, Value]:
        """Return the change as modules return it."""
        return {"name": self.name, "before": self.before, "after": self.after}


@dataclass(frozen=True)
class Plan:
    """All changes of one subsystem that a request needs.

    ``files`` maps each file to its text before and after, ``None`` if there is none. A subsystem whose
    ``apply`` needs more than this derives a class with further fields. Pass all fields of such a class by
    keyword: the pylint of ansible-test does not know inherited fields of dataclasses.
    """

    subsystem: str
    changes: Sequence[Change] = ()
    files: Mapping[str, tuple[str | None, str | None]] = field(default_factory=dict)
    problems: Sequence[str] = ()
    warnings: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.changes or self.files)

    def require_valid(self) -> None:
        """Raise ``Problem`` with a line for each problem."""
        if self.problems:
            raise Problem("\n".join(dict.fromkeys(self.problems)))


@dataclass
class Result:
    """What a module returns: ``values`` as its RETURN documents them."""

    changed: bool
    values: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return what the module returns."""
        return {**self.values, "changed": self.changed, "diff": self.diff}

    def exit(self, module: Any) -> NoReturn:
        """End an AnsibleModule with this result and its warnings."""
        for warning in self.warnings:
            module.warn(warning)
        module.exit_json(**self.as_dict())
        raise AssertionError("exit_json() does not return")


def shown(value: Value) -> str:
    """Return a value as users write it: on and off for flags."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


def diff(header: str, changes: Iterable[Change]) -> dict[str, str]:
    """Return the diff of small values, one line each, as Ansible shows it."""
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
    """Return ``; did you mean ...?`` with the known names most similar to ``name``, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.75)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def reason(error: OSError) -> str:
    """Return the kernel's message for an error."""
    return error.strerror or str(error)


def listed(names: Sequence[str] | Mapping[str, object]) -> str:
    """Return names for an error message."""
    return ", ".join(names) if names else "none"
