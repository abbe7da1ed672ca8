# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Load, pin and attach the programs of one object, and remove them.

All managed objects are pinned below one directory of a BPF file system; no other objects are changed::

    progs/<program>                   the programs, all of one object
    maps/<map>                        their maps
    links/<owner>/<device>-<hook>     an attachment: the bpf_link (tcx, netkit), or the attached program if
                                      the hook has no links (clsact, meta)
    links/<owner>/<device>-qdisc<N>   a clsact qdisc created for the device with index N

A name that ends in ``~`` is a replacement in progress; the next run removes what a killed run leaves.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from .._core.plan import Problem, Result
from .._datapath import apply, verify
from .._datapath.store import Store
from .._kernel import bpf, libbpf
from .._kernel.bpf import DEFAULT_OWNER
from . import origin
from .change import execute, remove_all
from .connections import COMPUTED, CONNECTIONS, connections_problem, copy_connections, replaced_maps
from .pins import Pins, locked
from .plan import ProgramPlan, State, Step, layout_text, program_text, steps_between
from .record import Recorder, program_plan
from .resolve import Request, resolve


@dataclass(frozen=True)
class Desired:
    """The desired attachments of one owner, with pins below ``pin_path``.

    With ``close``, Pods' devices are set down before their programs are detached.
    """

    pin_path: str
    attachments: Sequence[Request] = ()
    owner: str = DEFAULT_OWNER
    allow_connection_loss: bool = False
    close: bool = False


def parse_rodata(values: Mapping[str, Any]) -> dict[str, int]:
    """Return the values as integers; accepts text, as templates return, and booleans. Raises ``Problem``."""
    numbers = {}
    for name, value in values.items():
        try:
            numbers[name] = int(value, 0) if isinstance(value, str) else int(value)
        except (TypeError, ValueError):
            raise Problem(f"rodata: {name}={value!r} is not an integer") from None
    return numbers


def check_pin_path(path: str) -> None:
    """Raise ``Problem`` if ``path`` is not in a BPF file system."""
    if not bpf.is_bpffs(path):
        raise Problem(
            f"pin_path: '{path}' is not in a BPF file system: mount one (mount -t bpf bpf /sys/fs/bpf);"
            " note that 'ip netns exec' hides it with another /sys"
        )


class Installation:
    """Loads the programs of an opened object, plans and applies their attachment; a context manager.

    The plan needs the program tags that the kernel computes on load. Loaded programs that are neither pinned
    nor attached have no effect. Programs that were loaded from the same object are not loaded again.
    """

    def __init__(self, desired: Desired, obj: libbpf.BpfObject) -> None:
        """Load the object and plan; raises ``Problem``."""
        self._desired, self._obj = desired, obj
        self._files = contextlib.ExitStack()
        with contextlib.ExitStack() as on_failure:
            on_failure.push(self._files)
            self._pins = Pins(desired.pin_path)
            self._attachments = resolve(self._pins, desired.attachments, list(obj._programs), desired.owner)
            verify.check(obj)
            self._load()
            self._tags = {name: info.tag for name, info in self._pins.programs.items()}
            if obj.loaded:
                self._tags = {name: bpf.program_info(fd).tag for name, fd in obj.programs.items()}
            steps = steps_between(self._pins.state(), self._state(), desired.owner, self._replaced)
            self.plan: ProgramPlan = program_plan(self._pins, steps)
            on_failure.pop_all()

    def __enter__(self) -> Installation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def _load(self) -> None:
        pinned = {name: info.layout for name, info in self._pins.maps.items()}
        self._replaced = replaced_maps(pinned, self._obj.layouts)
        problem = connections_problem(pinned, self._obj.layouts)
        if problem and not self._desired.allow_connection_loss:
            raise Problem(problem)
        connections = {*CONNECTIONS}
        self._keep_connections = connections <= self._replaced & pinned.keys() and not problem
        if not self._obj.loaded and not self._is_pinned():
            reused = {}
            for name in self._obj.layouts.keys() - self._replaced:
                reused[name] = bpf.obj_get(self._pins.at("maps", name))
                self._files.callback(os.close, reused[name])
            self._obj.load(reused)

    def _is_pinned(self) -> bool:
        """Return whether the pinned programs, with their maps, were loaded from this object."""
        current = self._pins.state()
        return (
            not self._replaced
            and current.programs.keys() == {*self._obj._programs}
            and all(current.programs.values())
            and current.rodata == self._obj.rodata
            and origin.read(self._pins) == self._obj.digest
        )

    def _state(self) -> State:
        return State(self._tags, self._obj.rodata, self._obj.layouts, self._attachments)

    def apply(self) -> None:
        """Execute the plan and read the state again; raises ``Problem``, and then everything is restored."""
        if self.plan.steps:
            if not self._pins.maps:  # The stored declarations belong to maps that no longer exist.
                Store(self._desired.pin_path).forget()
            execute(
                self._pins,
                self._obj,
                self.plan.steps,
                self._attachments,
                self._filled(),
                self._desired.close,
            )
        pins = Pins(self._desired.pin_path)
        left = steps_between(pins.state(), self._state(), self._desired.owner)
        if left:
            raise Problem(
                "attachments: the kernel accepted every step, but reading back shows a different state for "
                + ", ".join(f"{step.kind} {step.name}" for step in left)
            )
        origin.write(pins, self._obj.digest)

    @contextlib.contextmanager
    def _filled(self) -> Iterator[None]:
        """Fill new maps before they are used, and copy connections again that appeared meanwhile."""
        new = {step.name for step in self.plan.steps if step.kind == "map" and step.after}
        if new & COMPUTED:
            apply.refill(self._obj.maps, self._pins.path)
        if not self._keep_connections:
            yield
            return
        with contextlib.ExitStack() as files:
            old = {
                name: files.enter_context(bpf.closing(bpf.obj_get(self._pins.at("maps", name))))
                for name in CONNECTIONS
            }
            copy_connections(old, self._obj.maps)
            yield
            copy_connections(old, self._obj.maps, only_missing=True)

    def result(self, check: bool = False) -> Result:
        """Return the changes made, or with ``check`` the planned ones."""
        pinned = self._pins.programs if check else Pins(self._desired.pin_path).programs
        reloaded = check and any(step.kind == "program" for step in self.plan.steps)
        programs = [
            {
                "name": name,
                "tag": tag,
                "id": pinned[name].id if name in pinned and not reloaded else None,
                "path": self._pins.at("progs", name),
            }
            for name, tag in sorted(self._tags.items())
        ]
        attachments = [
            {"program": a.program, "device": a.device, "hook": a.hook, "type": a.type}
            for a in self._attachments.values()
        ]
        return result_of(self.plan.steps, programs, attachments)


def result_of(
    steps: Sequence[Step],
    programs: Sequence[Mapping[str, Any]] = (),
    attachments: Sequence[Mapping[str, Any]] = (),
) -> Result:
    """Return the module's result for steps."""

    def text(side: str) -> str:
        lines = (f"{step.kind} {step.name}: {getattr(step, side)}" for step in steps if getattr(step, side))
        return "".join(line + "\n" for line in lines)

    return Result(
        bool(steps),
        {
            "changes": [f"{step.action} {step.kind} {step.name}" for step in steps],
            "programs": list(programs),
            "attachments": list(attachments),
        },
        diff=[{"before": text("before"), "after": text("after")}] if steps else [],
    )


def present(
    desired: Desired,
    object_path: str,
    rodata: Mapping[str, int],
    check: bool = False,
    recorder: Recorder | None = None,
) -> Result:
    """Load, pin and attach the programs of an object; ``recorder`` writes the change to the journal.

    Raises ``Problem``; then nothing has changed.
    """
    check_pin_path(desired.pin_path)
    with (
        contextlib.nullcontext() if check else locked(desired.pin_path),
        libbpf.BpfObject(object_path, rodata) as obj,
    ):
        return install(desired, obj, check, recorder)


def install(
    desired: Desired, obj: libbpf.BpfObject, check: bool = False, recorder: Recorder | None = None
) -> Result:
    """Pin and attach the programs of an open object, as ``present`` does; load it if it is not loaded."""
    with Installation(desired, obj) as installation:
        installation.plan.require_valid()
        if not check:
            with recorder.transaction(installation.plan) if recorder else contextlib.nullcontext():
                installation.apply()
        return installation.result(check)


def absent(path: str, check: bool = False, recorder: Recorder | None = None) -> Result:
    """Detach and unpin everything below ``path``; raises ``Problem``.

    Pods' devices are set down first.
    """
    if not os.path.isdir(path):
        return result_of(())
    check_pin_path(path)
    with contextlib.nullcontext() if check else locked(path):
        return _remove(path, check, recorder)


def _remove(path: str, check: bool, recorder: Recorder | None) -> Result:
    pins = Pins(path)
    steps = [Step("attachment", key, str(a)) for key, a in sorted(pins.attachments.items())]
    steps += [Step("program", n, program_text(i.tag, pins.rodata)) for n, i in pins.programs.items()]
    steps += [Step("map", n, layout_text(i.layout)) for n, i in pins.maps.items()]
    if not check:
        plan = program_plan(pins, steps)
        with recorder.transaction(plan) if recorder else contextlib.nullcontext():
            remove_all(pins, close=True)
    return result_of(steps)
