# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Validate the options of all roles for one host, on the controller."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

from ansible_collections.podnet.datapath.plugins.plugin_utils import content, options


class ActionModule(ActionBase):
    """Fail with all problems of the host's variables that belong to the collection."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _VALID_ARGS = frozenset(("playbook", "role"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result, which fails if there are problems."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        role = str(self._task.args.get("role") or "")
        problems: list[str] = []
        warnings: list[str] = []
        values: dict[str, Any] = {}
        if role and role not in options.roles():
            problems.append(f"role: {role!r} is not a role of this collection; correct it")
        elif role:
            problems += options.missing(role, "main", variables)
        playbook = str(self._task.args.get("playbook") or "")
        if playbook:
            problems += options.missing("", playbook, variables)
            for name, option in options.entry_points("").get(playbook, {}).items():
                problems += self._value(name, option, variables[name])[1] if name in variables else []
        for name in sorted(filter(options.is_reserved, map(str, variables))):
            spec = options.spec_of(name)
            if spec is None:
                problem, warning = options.unknown(name)
                problems += filter(None, [problem])
                warnings += filter(None, [warning])
            elif not options.is_default(name, variables[name]):
                found = self._value(name, spec, variables[name])
                values.update(found[0])
                problems += found[1]
        # Values of the wrong type would only cause misleading errors.
        problems = problems or content.problems(values)
        result.update(changed=False, problems=problems)
        if warnings:
            result["warnings"] = warnings
        if problems:
            result.update(failed=True, msg="Invalid options:\n" + "\n".join(problems))
        return result

    def _value(self, name: str, spec: options.Spec, raw: Any) -> tuple[dict[str, Any], list[str]]:
        """Return a variable's name and value, converted to its type, and the problems."""
        try:
            value = self._templar.template(raw)
        except AnsibleError as error:
            # A result of a later task, such as preflight_node, has no value yet. The role converts it then.
            if any(result in f"{raw} {error}" for result in options.RESULTS):
                return {}, []
            return {}, [f"{name}: the template cannot be evaluated: {error}; correct it"]
        converted, problems = options.convert(name, spec, value)
        return {name: converted}, problems
