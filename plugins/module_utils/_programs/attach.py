# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs pinned and attached as declared. Private to this collection.

What is ours is pinned below one folder of a BPF file system, and nothing else is ever touched::

    progs/<program>                   the programs, all of one object
    maps/<map>                        their maps
    links/<owner>/<device>-<hook>     each attachment: the bpf_link (tcx, netkit), or, where the hook
                                      has no links (clsact, meta), the program that was put there
    links/<owner>/<device>-qdisc<N>   a clsact qdisc that was made for the device with index N

``plan`` compares two states and says what to change; check mode, diff and ``apply`` share its answer.
A name that ends in ``~`` is a replacement under way; a run that was killed leaves it to the next one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .._core.files import replace_file
from .._datapath import apply, command, verify
from .._datapath import layout as _datapath_layout
from .._datapath.maps import kept_at
from .._datapath.store import Store
from .._kernel import bpf, libbpf
from .._kernel.bpf import DEFAULT_OWNER, BpfError, Layout
from .change import Applier, unlink
from .hooks import (
    CLSACT_PRIORITY,
    Device,
    choose_type,
    is_inward,
    is_our_place,
    link_attach_type,
    read_clsact_kind,
    read_filters,
)
from .pins import Pins
from .plan import PENDING, Attachment, Change, State, _layout_text, _program_text, plan, split_pin_name

# What is around the steps of a change: gets the pins that it was planned for, and the changes.
Guard = Callable[[Pins, "Sequence[Change]"], "contextlib.AbstractContextManager[None]"]


# ---------------------------------------------------------------- maps that go on


CONNECTIONS = "ct"  # written by programs only; what is lost of it, connections lose


def renewed_maps(current: Mapping[str, Layout], desired: Mapping[str, Layout]) -> set[str]:
    """Return the maps that are made anew: they are not there as they should be.

    Those that are computed from declarations come as a whole, filled from the declarations.
    """
    changed = {name for name, layout in desired.items() if current.get(name) != layout}
    computed = desired.keys() & _COMPUTED
    return changed | computed if changed & computed else changed


_COMPUTED = {*_datapath_layout.SIZES, "layout"}


def connections_problem(current: Mapping[str, Layout], desired: Mapping[str, Layout]) -> str:
    """Say why the connections cannot be taken over; empty where they can."""
    has, wants = current.get(CONNECTIONS), desired.get(CONNECTIONS)
    if has is None or wants is None:
        return ""

    def form(layouts: Mapping[str, Layout], own: Layout) -> tuple[int, int, int]:
        return layouts["layout"].max_entries if "layout" in layouts else 0, own.key_size, own.value_size

    if form(current, has) == form(desired, wants):
        return ""
    return (
        "object: its programs keep connections in another form (layout, key and value size"
        f" {form(desired, wants)}) than the running ones ({form(current, has)}): established connections to"
        " services and of masqueraded Pods would break; set allow_connection_loss: true to replace them"
    )


def copy_connections(source: int, target: int, only_missing: bool = False) -> None:
    """Copy entries from map to map; with ``only_missing`` those that the target's programs do not know."""
    entries = bpf.map_read(source)
    if not only_missing:
        bpf.map_update(target, entries)
        return
    known = bpf.map_read(target)
    for key, value in entries.items():
        if key not in known:
            with contextlib.suppress(FileExistsError):
                bpf.map_update_one(target, key, value, bpf.BPF_NOEXIST)


# ---------------------------------------------------------------- what shall be


@dataclass(frozen=True)
class Wish:
    """An attachment as the user writes it."""

    program: str
    device: str
    hook: str
    type: str = "auto"


def resolve(pins: Pins, wishes: Sequence[Wish], programs: Iterable[str], owner: str) -> dict[str, Attachment]:
    """Return the wished attachments by key.

    Raises BpfError, naming all that is wrong, where a device is missing, a hook does not fit, a program
    is not there, two wishes want one place, or someone else's program has the place.
    """
    if not re.fullmatch(r"[\w-]+", owner, re.ASCII):
        raise BpfError(f"owner: '{owner}' has other characters than letters, digits, '_' and '-'")
    known = sorted(programs)
    found: dict[str, Attachment] = {}
    wrong = []
    for wish in wishes:
        where = f"attachments: {wish.device}, hook {wish.hook}"
        device = pins.devices.get(wish.device)
        if wish.program not in known:
            wrong.append(f"{where}: there is no program '{wish.program}'; there are {', '.join(known)}")
        if device is None:
            wrong.append(f"attachments: there is no device '{wish.device}' in this network namespace")
            continue
        try:
            has_tcx = bpf.has_hook(device.ifindex, link_attach_type("tcx", wish.hook))
            kind = choose_type(device, wish.hook, wish.type, has_tcx)
        except BpfError as e:
            wrong.append(str(e))
            continue
        attachment = Attachment(owner, wish.device, wish.hook, kind, device.ifindex, wish.program)
        place = [a for a in found.values() if _place(a) == _place(attachment)]
        if place:
            wrong.append(f"{where}: {place[0].program} is to be there already (hook {place[0].hook})")
        wrong.extend(_foreign(pins, device, attachment))
        found[attachment.key] = attachment
    if wrong:
        raise BpfError("; ".join(wrong))
    return found


def _place(a: Attachment) -> tuple[str, bool]:
    return a.device, is_inward(a.hook)


def _foreign(pins: Pins, device: Device, a: Attachment) -> list[str]:
    """Say who has the place, where it is not us and there is room for one only."""
    where = f"attachments: {a.device}, hook {a.hook}"
    for other in pins.attachments.values():
        if other.owner not in ("", a.owner) and other.ifindex and _place(other) == _place(a):
            return [f"{where}: {other} is attached by owner '{other.owner}'"]
    if a.type == "meta":
        program = device.program_ids.get(a.hook, 0)
        if program and program not in pins.ours:
            return [f"{where}: {bpf.describe_program(program)} is attached and not ours; detach it first"]
    if a.type == "clsact":
        # Its filters are one list, and the kernel takes egress filters into it without a word.
        if not is_inward(a.hook) and read_clsact_kind(device.ifindex) == "ingress":
            return [
                f"{where}: the device has an ingress qdisc, which has no egress; use type tcx, or remove it"
                f" (tc qdisc del dev {a.device} ingress)"
            ]
        for f in read_filters(device.ifindex, a.hook):
            if f.priority == CLSACT_PRIORITY and not (is_our_place(f) and f.program_id in pins.ours):
                who = bpf.describe_program(f.program_id) if f.program_id else f"a filter of kind {f.kind}"
                return [
                    f"{where}: {who} has clsact priority {f.priority}, handle {f.handle:#x}, and is not ours;"
                    " remove it or give it another priority"
                ]
    return []


# ---------------------------------------------------------------- the way back


def keep(path: str) -> None:
    """Pin the programs and maps that there are once more, for ``back``."""
    kept = kept_at(path)
    shutil.rmtree(kept, ignore_errors=True)
    for folder in ("progs", "maps"):
        os.makedirs(os.path.join(kept, folder), 0o700)
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(os.path.join(path, folder)):
                if not name.endswith(PENDING):
                    with bpf.closing(bpf.obj_get(os.path.join(path, folder, name))) as fd:
                        bpf.obj_pin(fd, os.path.join(kept, folder, name))


@dataclass
class _Kept:
    programs: Mapping[str, int]
    maps: Mapping[str, int]


def back(path: str, former: Mapping[str, tuple[str, str] | None]) -> None:
    """Bring programs, maps and the attachments of these keys back to what they were at ``keep``.

    ``former`` has program and type of each attachment, ``None`` for one that there was not.
    Raises OSError and BpfError.
    """
    pins, kept = Pins(path), Pins(kept_at(path))
    pins.find_strays(former)
    if not kept.programs:
        if any(former.values()):
            raise BpfError(f"the former programs of '{path}' are no longer in the kernel: run site.yml")
        _remove(pins)
        return
    attachments = {key: a for key, a in pins.attachments.items() if key not in former}
    for key, there in former.items():
        owner, dummy, name = key.partition("/")
        device, hook = split_pin_name(name)
        if there and device in pins.devices:  # with a device, what was attached to it has gone
            program, kind = there
            attachments[key] = Attachment(owner, device, hook, kind, pins.devices[device].ifindex, program)
    current, desired = pins.state(), replace(kept.state(), attachments=attachments)
    there_now = {name: info.id for name, info in pins.maps.items()}
    renewed = [name for name, info in kept.maps.items() if there_now.get(name) != info.id]
    with contextlib.ExitStack() as files:

        def opened(folder: str, names: Iterable[str]) -> dict[str, int]:
            found = {name: bpf.obj_get(kept.at(folder, name)) for name in names}
            for fd in found.values():
                files.callback(os.close, fd)
            return found

        obj = _Kept(opened("progs", kept.programs), opened("maps", kept.maps))
        changes = plan(current, desired, None, renewed)
        if changes:
            # The maps hold what they held; an older version's may have values that this code does not know.
            _apply(pins, files, obj, changes, current.attachments, attachments)


# ---------------------------------------------------------------- the module


@dataclass
class Outcome:
    """What ``present`` and ``absent`` did, or would do."""

    changes: list[Change] = field(default_factory=list)
    programs: list[dict[str, Any]] = field(default_factory=list)
    attachments: list[dict[str, Any]] = field(default_factory=list)

    @property
    def diff(self) -> dict[str, str]:
        """The changes as Ansible's --diff shows them."""

        def text(side: str) -> str:
            lines = (f"{c.kind} {c.name}: {getattr(c, side)}" for c in self.changes if getattr(c, side))
            return "".join(line + "\n" for line in lines)

        return {"before": text("before"), "after": text("after")}


def parse_rodata(values: Mapping[str, Any]) -> dict[str, int]:
    """Return the values as numbers: templates hand over text, and a switch may come as a boolean."""
    numbers = {}
    for name, value in values.items():
        try:
            numbers[name] = int(value, 0) if isinstance(value, str) else int(value)
        except (TypeError, ValueError):
            raise BpfError(f"rodata: {name}={value!r} is no whole number") from None
    return numbers


def check_pin_path(path: str) -> None:
    """Raise BpfError where ``path`` is in no BPF file system."""
    if not bpf.is_bpffs(path):
        raise BpfError(
            f"pin_path: '{path}' lies in no BPF file system; mount one (mount -t bpf bpf /sys/fs/bpf), and"
            " mind that 'ip netns exec' hides it behind a /sys of its own"
        )


def present(
    path: str,
    object_path: str,
    rodata: Mapping[str, int],
    wishes: Sequence[Wish],
    owner: str = DEFAULT_OWNER,
    check: bool = False,
    allow_connection_loss: bool = False,
    guard: Guard | None = None,
) -> Outcome:
    """Load, pin and attach as declared; with ``check`` only say what would change.

    What changes is changed, and looked at, inside of ``guard``, which gets all changes, or none.
    Raises BpfError with a remedy, having changed nothing.
    """
    check_pin_path(path)
    with libbpf.BpfObject(object_path, rodata) as obj:
        return install(path, obj, wishes, owner, check, allow_connection_loss, guard)


def install(
    path: str,
    obj: libbpf.BpfObject,
    wishes: Sequence[Wish],
    owner: str = DEFAULT_OWNER,
    check: bool = False,
    allow_connection_loss: bool = False,
    guard: Guard | None = None,
) -> Outcome:
    """Do so with an object that is open, and loaded already where its maps are those that are pinned."""
    with contextlib.ExitStack() as files:
        pins = Pins(path)
        attachments = resolve(pins, wishes, list(obj._programs), owner)

        verify.check(obj)
        # Loading is how the wanted tags come to be known; until it is pinned it changes nothing.
        layouts, data = obj.layouts, obj.rodata
        pinned_layouts = {name: info.layout for name, info in pins.maps.items()}
        renewed = renewed_maps(pinned_layouts, layouts)
        problem = connections_problem(pinned_layouts, layouts)
        if problem and not allow_connection_loss:
            raise BpfError(problem)
        if not obj.loaded:
            reused = {}
            for name in layouts.keys() - renewed:
                reused[name] = bpf.obj_get(pins.at("maps", name))
                files.callback(os.close, reused[name])
            obj.load(reused)
        loaded = {name: bpf.program_info(fd) for name, fd in obj.programs.items()}
        tags = {name: info.tag for name, info in loaded.items()}

        current = pins.state()
        outcome = Outcome(plan(current, State(tags, data, layouts, attachments), owner, renewed))
        if not check:
            with guard(pins, outcome.changes) if guard else contextlib.nullcontext():
                if outcome.changes:
                    keep = CONNECTIONS in renewed and CONNECTIONS in pins.maps and not problem
                    new = {c.name for c in outcome.changes if c.kind == "map" and c.after}
                    if not pins.maps:  # what was declared for maps that are gone, is gone with them
                        Store(path).forget()
                    refill = bool(new & _COMPUTED)
                    _apply(pins, files, obj, outcome.changes, current.attachments, attachments, refill, keep)
                pins = Pins(path)
                left = plan(pins.state(), State(tags, data, layouts, attachments), owner)
                if left:
                    raise BpfError(
                        "attachments: the kernel took every step, yet these are not as declared: "
                        + ", ".join(f"{c.kind} {c.name}" for c in left)
                    )
        pinned = pins.programs
        for name, tag in sorted(tags.items()):
            known = name in pinned and (not check or not any(c.kind == "program" for c in outcome.changes))
            number = pinned[name].id if known else None
            outcome.programs.append({"name": name, "tag": tag, "id": number, "path": pins.at("progs", name)})
        for a in attachments.values():
            outcome.attachments.append(
                {"program": a.program, "device": a.device, "hook": a.hook, "type": a.type}
            )
        return outcome


class Loaded(Protocol):
    """Descriptors of programs and maps, by name."""

    @property
    def programs(self) -> Mapping[str, int]: ...

    @property
    def maps(self) -> Mapping[str, int]: ...


def _apply(
    pins: Pins,
    files: contextlib.ExitStack,
    obj: Loaded,
    changes: Sequence[Change],
    current: Mapping[str, Attachment],
    desired: Mapping[str, Attachment],
    refill: bool = False,
    keep_connections: bool = False,
) -> None:
    for leftover in pins.leftovers():
        unlink(leftover)
    reload = any(change.kind == "program" for change in changes)
    applier = Applier(pins, files)
    change = changes[0]
    try:
        with applier.transaction:
            applier.folder("progs")
            applier.folder("maps")
            if reload:
                programs = obj.programs
            else:
                programs = {}
                for name in pins.programs:
                    programs[name] = bpf.obj_get(pins.at("progs", name))
                    files.callback(os.close, programs[name])
            if refill:
                apply.refill(obj.maps, pins.path)
            if keep_connections:
                old = bpf.obj_get(pins.at("maps", CONNECTIONS))
                files.callback(os.close, old)
                copy_connections(old, obj.maps[CONNECTIONS])
            for change in changes:
                if change.kind == "attachment":
                    was, shall = current.get(change.name), desired.get(change.name)
                    if was and change.after and not shall:  # another owner's keeps its place
                        shall = replace(was, program=was.program.rstrip(PENDING))
                    applier.change(was, shall, programs[shall.program] if shall else -1)
                    continue
                folder = change.kind[:4] + "s"  # maps, progs
                if not change.after:
                    applier.unpin(folder, change.name)
                elif change.kind == "map":
                    applier.pin(obj.maps[change.name], folder, change.name)
                else:
                    applier.pin(obj.programs[change.name], folder, change.name)
            if keep_connections:  # those that the former programs saw since
                copy_connections(old, obj.maps[CONNECTIONS], only_missing=True)
    except OSError as e:
        raise BpfError(
            f"{change.kind} {change.name}: cannot {change.action}: {e.strerror}; everything is as it was"
        ) from e


def absent(path: str, check: bool = False, guard: Guard | None = None) -> Outcome:
    """Detach and unpin everything of ours; with ``check`` only say what would change."""
    if not os.path.isdir(path):
        return Outcome()
    check_pin_path(path)
    pins = Pins(path)
    changes = [Change("attachment", key, str(a)) for key, a in sorted(pins.attachments.items())]
    changes += [Change("program", n, _program_text(i.tag, pins.rodata)) for n, i in pins.programs.items()]
    changes += [Change("map", n, _layout_text(i.layout)) for n, i in pins.maps.items()]
    if not check:
        with guard(pins, changes) if guard else contextlib.nullcontext():
            _remove(pins)
    return Outcome(changes)


def _remove(pins: Pins) -> None:
    with contextlib.ExitStack() as files:
        applier = Applier(pins, files)
        with applier.transaction:
            for a in pins.attachments.values():
                applier.change(a, None, -1)
    for folder, _folders, names in os.walk(pins.path, topdown=False):
        inside = os.path.relpath(folder, pins.path).split(os.sep)[0]
        if inside in ("progs", "maps", "links"):
            for name in names:
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)
    with contextlib.suppress(OSError):  # someone else keeps pins beside ours
        os.rmdir(pins.path)
    Store(pins.path).forget()


def install_command(path: str, check: bool = False) -> list[Change]:
    """Leave the command podnet-datapath at ``path``; with ``check`` only say whether that is a change."""
    wanted = command.program()
    try:
        with open(path, "rb") as f:
            found = f.read()
    except FileNotFoundError:
        found = b""
    if found == wanted:
        return []
    if found and not re.match(rb"#!\S*python\S*\nPK", found):
        raise BpfError(f"command: '{path}' is not ours; move it away, or give another path")
    if not os.path.isdir(os.path.dirname(path)):
        raise BpfError(f"command: there is no folder for '{path}'; make it, or give another path")
    if not check:
        replace_file(path, wanted, 0o755)
    return [Change("command", path, "another version" if found else "", "this version")]
