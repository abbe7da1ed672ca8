# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What NICs are to be set to: options to settings, the plan, and the way there and back.

Private to this collection. Settings are named as in ``_kernel.ethtool.Nic``.
Sources: ethtool(8) for the names of options, netif_set_gso_max_size() of net/core/dev.h for the sizes.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from .._core import plan as _plan
from .._core.plan import Change, Plan, Problem
from .._kernel import qdisc
from .._kernel.ethtool import GROUPS, SIZES, Ethtool, Nic, Setting
from .._node.facts import Node
from . import header_split as _header_split
from . import sysfs as _nic_sysfs
from .select import Device, select
from .sysfs import Cpus

# The order of writing: a private flag can change what features there are, a number of queues what rings and
# coalescing are, and all of them which MTU fits. A new discipline is made for the queues that there are then.
# What is switched off goes first: it may need another feature or flag that goes too.
_SPLIT = "rings.tcp-data-split"
_ORDER = (
    "split_off", "features_off", "priv_flags", "features", "channels", "rings", "coalesce", "pause", "mtu",
    "sizes", "qdisc", "napi", "queues", "irqs",
)  # fmt: skip

# What ethtool(8) calls features, by patterns over the kernel's names.
_FEATURE_ALIASES = {
    "rx-checksum": ("rx", "rx-checksumming"),
    "tx-checksum-*": ("tx", "tx-checksumming"),
    "tx-scatter-gather*": ("sg", "scatter-gather"),
    "tx-tcp*-segmentation": ("tso", "tcp-segmentation-offload"),
    "tx-generic-segmentation": ("gso", "generic-segmentation-offload"),
    "rx-gro": ("gro", "generic-receive-offload"),
    "rx-lro": ("lro", "large-receive-offload"),
    "rx-vlan-hw-parse": ("rxvlan", "rx-vlan-offload"),
    "tx-vlan-hw-insert": ("txvlan", "tx-vlan-offload"),
    "rx-ntuple-filter": ("ntuple", "ntuple-filters"),
    "rx-hashing": ("rxhash", "receive-hashing"),
}
_ALIASES = {alias: pattern for pattern, aliases in _FEATURE_ALIASES.items() for alias in aliases}

_LINK = ("mtu", "sizes", "qdisc")  # settings that have no group in their name
_ONE_CPU = Cpus(frozenset({0}), frozenset({0}))
_LEGACY_SIZE = 65536  # GSO_LEGACY_MAX_SIZE


@dataclass(frozen=True)
class Wish:
    """What is asked of one NIC: values by setting as the user names it, and what may be unsupported."""

    nic: str
    settings: Mapping[str, object]
    optional: tuple[str, ...] = ()
    steering: Mapping[str, object] = field(default_factory=dict)
    header_split: str = ""
    limited: bool = False

    def is_optional(self, setting: str) -> bool:
        """Tell whether the setting, or its whole group, may be unsupported."""
        names = {_canonical(setting), setting.partition(".")[0]}
        return any(_canonical(name) in names for name in self.optional)


@dataclass(frozen=True)
class Resolved:
    """A wish in the settings of one NIC, what of it is left out and why, and what is wrong with it."""

    settings: Mapping[str, Setting]
    skipped: Mapping[str, str]
    problems: Sequence[str]
    limited: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What is to be done to one NIC."""

    nic: Nic
    resolved: Resolved
    changes: Sequence[Change]
    wish: Wish


@dataclass(frozen=True)
class NicPlan(Plan):
    """The plan for NICs; ``entries`` are the module's, with the names that they select."""

    jobs: Sequence[Job] = ()
    entries: Sequence[Mapping[str, Any]] = ()


class NotByItself(Problem):
    """The driver does not support the change; another one may bring it about."""


class _Unsupported(Exception):
    """A setting that driver or kernel does not have; the text ends a sentence that begins with it."""


def _dashed(word: str) -> str:
    return word.replace("_", "-")


def _canonical(name: str) -> str:
    """Return a setting's name with dashes: kernel and drivers have both, people mix them up."""
    group, dot, word = name.partition(".")
    return f"{group}.{_dashed(word)}" if dot else name


def parse(nics: Iterable[Mapping[str, Any]]) -> list[Wish]:
    """Return the wishes in the module's option ``nics``; raises ``Problem``."""
    wishes = []
    problems = []
    seen = set()
    for entry in nics:
        nic = entry["name"]
        if nic in seen:
            problems.append(f"nics: {nic} is listed twice: put all its settings into one entry")
        seen.add(nic)
        settings: dict[str, object] = {}
        for option in ("mtu", *SIZES, "qdisc"):
            if entry.get(option) is not None:
                settings[option] = entry[option]
        for group in ("priv_flags", "features", *GROUPS, "napi"):
            for word, value in (entry.get(group) or {}).items():
                settings[f"{group}.{word}"] = value
        steering = {word: value for word, value in (entry.get("steering") or {}).items() if value is not None}
        wish = Wish(
            nic,
            settings,
            tuple(entry.get("optional") or ()),
            steering,
            entry.get("header_split") or "",
            bool(entry.get("limit_to_maximum")),
        )
        named = [*settings, *(f"steering.{word}" for word in steering)]
        named += ["header_split"] if wish.header_split else []
        asked = {*map(_canonical, named), *(setting.partition(".")[0] for setting in named)}
        for name in wish.optional:
            if _canonical(name) not in asked:
                problems.append(
                    f"nics: {nic}: optional names {name}, which is not asked for"
                    + (_plan.suggestion(name, asked) or f"; asked for: {_plan.listed(sorted(named))}")
                )
        wishes.append(wish)
    if problems:
        raise Problem("\n".join(problems))
    return wishes


def _flag(value: object) -> bool:
    word = str(value).lower()
    if word in ("true", "yes", "on", "1", "y", "t"):
        return True
    if word in ("false", "no", "off", "0", "n", "f"):
        return False
    raise ValueError("is neither on nor off")


def _integer(value: object) -> int:
    if isinstance(value, bool) or not str(value).isdecimal():
        raise ValueError("is no whole number of at least 0")
    return int(str(value))


def _discipline(now: str, wanted: str) -> str:
    if wanted not in qdisc.PLAIN:
        raise ValueError(f"is none that can be set here: give one of {_plan.listed(sorted(qdisc.PLAIN))}")
    if wanted != now and not {*qdisc.kinds(now)} <= qdisc.PLAIN:
        raise ValueError(f"would replace {now}, which somebody set up: remove that first (tc qdisc del)")
    return wanted


def _checked(nic: Nic, setting: str, value: object) -> Setting:
    """Return the value for a setting that the NIC has; raises ``ValueError`` with what is wrong."""
    if setting == "qdisc":
        return _discipline(str(nic.values[setting]), str(value))
    if isinstance(nic.values[setting], bool):
        return _flag(value)
    number = _integer(value)
    if setting in nic.maximum and number > nic.maximum[setting]:
        raise ValueError(f"is above the maximum of {nic.maximum[setting]}")
    if number < nic.minimum.get(setting, 0):
        raise ValueError(f"is below the minimum of {nic.minimum[setting]}")
    if number >= 1 << 32:
        raise ValueError("does not fit into 32 bits")
    return number


def _members(nic: Nic, setting: str) -> list[str]:
    """Return the NIC's settings that a name stands for: one, or several for a name of ethtool(8).

    Raises ``_Unsupported`` where the NIC has none, ``ValueError`` for a name that means nothing.
    """
    group, word = [*_canonical(setting).split(".", 1), ""][:2]
    if group == "napi" and word not in map(_dashed, _nic_sysfs.NAPI):
        raise ValueError(f"is no setting of NAPI; there are: {', '.join(_nic_sysfs.NAPI)}")
    if group in GROUPS and word not in GROUPS[group].fields:
        near = _plan.suggestion(word, GROUPS[group].fields)
        raise ValueError(
            f"is no setting of ethtool{near or '; there are: ' + ', '.join(GROUPS[group].fields)}"
        )
    names = {_canonical(name): name for name in nic.values if name.partition(".")[0] == group}
    pattern = f"features.{_ALIASES.get(word, word)}" if group == "features" else setting
    found = [names[name] for name in sorted(fnmatch.filter(names, _canonical(pattern)))]
    if found:
        return found
    if group in ("features", "priv_flags"):
        words = [name.partition(".")[2] for name in names]
        near = _plan.suggestion(word, words)
        if group == "priv_flags":
            raise _Unsupported(
                f"is no private flag of the driver{near or '; it has: ' + _plan.listed(words)}"
            )
        raise _Unsupported(f"is no feature that this kernel knows{near}")
    if group == "napi":
        raise _Unsupported("cannot be seen: /sys shows no such thing of this NIC")
    if group == "qdisc":
        raise _Unsupported("is not to be seen while the interface is down")
    if group in SIZES:
        raise _Unsupported("is not known to this kernel")
    raise _Unsupported("is not supported by the driver")


def _limit(nic: Nic, setting: str, value: object) -> object:
    """Return the NIC's maximum for a number that is above it."""
    top = nic.maximum.get(setting)
    return top if top is not None and str(value).isdecimal() and int(str(value)) > top else value


def _strategy(nic: Nic, wish: Wish, skipped: dict[str, str]) -> tuple[dict[str, object], list[str]]:
    """Return all settings of a wish, those of its header split among them, and what is wrong with it."""
    asked: dict[str, object] = {}
    for setting, value in wish.settings.items():
        with contextlib.suppress(_Unsupported, ValueError):
            asked.update({member: _checked(nic, member, value) for member in _members(nic, setting)})
    if not wish.header_split:
        return dict(wish.settings), []
    more, problems = _header_split.choose(wish.header_split, nic.driver, nic.values, asked, nic.xdp)
    if problems and not more and wish.is_optional("header_split"):
        skipped["header_split"] = problems[0].partition(": ")[2]
        return dict(wish.settings), []
    if problems:
        return dict(wish.settings), [f"nics: {nic.name}: {problem}" for problem in problems]
    return {**wish.settings, **more}, []


def resolve(nic: Nic, wish: Wish, cpus: Cpus | None = None, balancer: bool = False) -> Resolved:
    """Return a wish in the settings of a NIC; checks support, limits and fixed features.

    ``cpus`` and ``balancer`` (irqbalance runs) are needed for steering.
    """
    settings: dict[str, Setting] = {}
    skipped: dict[str, str] = {}
    limited: dict[str, int] = {}
    driver = f"driver {nic.driver}" if nic.driver else "no driver"
    asked, problems = _strategy(nic, wish, skipped)
    for setting, value in asked.items():
        try:
            members = _members(nic, setting)
            if wish.limited and len(members) == 1 and value != _limit(nic, members[0], value):
                value = limited[members[0]] = nic.maximum[members[0]]
            checked = {member: _checked(nic, member, value) for member in members}
            free = {m: v for m, v in checked.items() if m not in nic.fixed}
            stuck = [m for m in checked if m in nic.fixed and nic.values[m] != checked[m]]
            if stuck and not free:
                fixed = _plan.shown(nic.values[stuck[0]])
                raise _Unsupported(f"is fixed {fixed}, so it cannot be {_plan.shown(_flag(value))}")
        except _Unsupported as unsupported:
            if wish.is_optional(setting):
                skipped[setting] = str(unsupported)
            else:
                problems.append(
                    f"nics: {nic.name} ({driver}): {setting} {unsupported}:"
                    " leave it out, or name it in optional"
                )
            continue
        except ValueError as error:
            problems.append(f"nics: {nic.name} ({driver}): {setting} = {value} {error}")
            continue
        for member, member_value in free.items():
            if settings.setdefault(member, member_value) != member_value:
                problems.append(
                    f"nics: {nic.name}: {setting} = {value} contradicts another entry for {member}"
                )
    if wish.steering:
        steered, wrong = _nic_sysfs.steer(nic.values, wish.steering, cpus or _ONE_CPU, balancer)
        settings.update(steered)
        for problem in wrong:
            option = ".".join(problem.split(": ")[:2])
            if wish.is_optional(option):
                skipped[option] = problem.split(": ")[2]
            else:
                problems.append(f"nics: {nic.name} ({driver}): {problem}")
    return Resolved(settings, skipped, problems, limited)


def _rank(setting: str, value: object) -> tuple[int, int, str]:
    group = "sizes" if setting in SIZES else setting.partition(".")[0]
    if value is False and group == "features":
        group = "features_off"
    if value is False and setting == _SPLIT:
        group = "split_off"
    # An IPv4 size after the size that it follows.
    return _ORDER.index(group), list(SIZES).index(setting) if setting in SIZES else 0, setting


def plan(nic: Nic, settings: Mapping[str, Setting]) -> list[Change]:
    """Return the changes that bring a NIC to ``settings``, in the order of writing.

    A feature that is off only for want of another one counts as a change, so that it is asked for.
    """
    return [
        Change(setting, nic.values[setting], settings[setting], nic.name)
        for setting in sorted(settings, key=lambda setting: _rank(setting, settings[setting]))
        if nic.values[setting] != settings[setting]
        or nic.wanted.get(setting, settings[setting]) != settings[setting]
    ]


Message = tuple[str, dict[str, Setting]]


def messages(nic: Nic, changes: Iterable[Change]) -> list[Message]:
    """Return the changes as messages: a group, and values by name within the group.

    Setting a size to 65536 or less sets the IPv4 size too; where that is not asked for, the message
    carries the present IPv4 size as well, which the kernel takes last.
    """
    found: list[Message] = []
    for change in changes:
        group, word = [*change.name.split(".", 1), change.name][:2]
        if change.name in SIZES:
            group = "sizes"
        # A split that goes off is a message of its own, before the other rings'.
        if not found or found[-1][0] != group or (group, {*found[-1][1]}) == ("rings", {"tcp-data-split"}):
            found.append((group, {}))
        found[-1][1][word] = cast(Setting, change.after)
    for group, values in found:
        if group == "sizes":
            for size in ("gso", "gro"):
                ipv4 = f"{size}_ipv4_max_size"
                if (
                    cast(int, values.get(f"{size}_max_size", _LEGACY_SIZE + 1)) <= _LEGACY_SIZE
                    and ipv4 in nic.values
                ):
                    values.setdefault(ipv4, nic.values[ipv4])
    return found


def way_back(now: Nic, former: Nic, wanted: bool = True) -> dict[str, Setting]:
    """Return the settings in which a NIC differs from what it was, as they were.

    ``wanted``: features as they were asked for, otherwise as they really were.
    """
    return {
        setting: former.wanted.get(setting, value) if wanted else value
        for setting, value in former.values.items()
        if setting in now.values
        and setting not in now.fixed
        and (now.values[setting], now.wanted.get(setting)) != (value, former.wanted.get(setting))
    }


def missed(nic: Nic, settings: Mapping[str, Setting]) -> list[str]:
    """Return a sentence for each setting that the kernel accepted and did not carry out."""
    sentences = []
    for setting, value in settings.items():
        now = nic.values.get(setting)
        if now != value:
            cause = "it may need another feature" if setting in nic.wanted else "ask for that or leave it out"
            sentences.append(
                f"nics: {nic.name} (driver {nic.driver}): {setting} = {_plan.shown(value)} was accepted, but"
                f" is {_plan.shown(now)} now: {cause}"
            )
    return sentences


def _write(ethtool: Ethtool, nic: Nic, message: Message) -> None:
    """Write one message; raises ``Problem`` with the kernel's words."""
    group, values = message
    link = group in _LINK
    try:
        if group == "qdisc":
            qdisc.write(nic.index, str(values["qdisc"]))
        elif group in _nic_sysfs.GROUPS:
            _nic_sysfs.Sysfs().write(nic.name, {f"{group}.{word}": value for word, value in values.items()})
        else:
            ethtool.write(nic.index, "link" if link else group, values)
    except OSError as error:
        asked = ", ".join(f"{word} = {_plan.shown(value)}" for word, value in values.items())
        kind = NotByItself if error.errno == errno.EOPNOTSUPP else Problem
        raise kind(
            f"nics: {nic.name} (driver {nic.driver}): the kernel refuses"
            f" {asked if link else f'{group}: {asked}'}: {_plan.reason(error)}"
        ) from None


def put_back(look: Callable[[], Nic], write: Callable[[Message], None], former: Nic) -> list[str]:
    """Set a NIC as it was; return what failed."""
    failed: list[str] = []
    # First what was really on and off, then what was wanted besides: a feature that was wanted in vain has to
    # be off again before the setting can go that it needs.
    for wanted in (False, True):
        now = look()
        failed.clear()
        for message in messages(now, plan(now, way_back(now, former, wanted))):
            try:
                write(message)
            except Problem as problem:
                failed.append(str(problem))
    return failed


def restore(ethtool: Ethtool, nics: Iterable[Nic]) -> str:
    """Set NICs as they were; return a sentence on how that went."""
    failed = []
    for former in nics:
        try:
            look = functools.partial(read, ethtool, former.name)
            failed += put_back(look, functools.partial(_write, ethtool, former), former)
        except OSError as error:
            failed.append(f"{former.name}: {_plan.reason(error)}")
    return f"Not put back: {'; '.join(failed)}." if failed else "Every NIC is set as it was before."


def read(ethtool: Ethtool, name: str) -> Nic:
    """Return everything about a NIC: what ethtool, tc and sysfs know; raises ``OSError``."""
    nic = ethtool.read(name)
    values: dict[str, Setting] = {**nic.values, **_nic_sysfs.Sysfs().read(name, nic.index)}
    discipline = qdisc.read(nic.index)
    if discipline:
        values["qdisc"] = discipline
    return replace(nic, values=values)


def _resolved(nic: Nic, wish: Wish) -> Resolved:
    sysfs = _nic_sysfs.Sysfs()
    return resolve(nic, wish, sysfs.cpus(nic.name), sysfs.balancer()) if wish.steering else resolve(nic, wish)


def of_queue(setting: str) -> bool:
    """Tell whether a setting comes and goes with a queue."""
    return setting.startswith("queues.")


def _late(setting: str) -> bool:
    """Tell whether a setting belongs to queues or an interrupt: other settings make and unmake these."""
    return of_queue(setting) or setting.startswith("irqs.") or setting == "qdisc"


def _steer(ethtool: Ethtool, job: Job) -> dict[str, Setting]:
    """Set the queues and interrupts that there are now; return what they are to be."""
    nic = read(ethtool, job.nic.name)
    settings = {s: value for s, value in _resolved(nic, job.wish).settings.items() if _late(s)}
    for message in messages(nic, plan(nic, settings)):
        _write(ethtool, nic, message)
    return settings


def _named(message: Message) -> dict[str, Setting]:
    """Return a message's values by setting."""
    group, values = message
    return dict(values) if group in _LINK else {f"{group}.{word}": value for word, value in values.items()}


def carry_out(look: Callable[[], Nic], write: Callable[[Message], None], due: Iterable[Message]) -> None:
    """Write messages one after the other, without what an earlier one has brought about.

    mlx5 for one splits headers with HW-GRO, and up to Linux 6.12 refuses to be asked for it: what a driver
    does not support by itself is tried again once all others are written.
    """
    waiting = [(message, False) for message in due]
    while waiting:
        message, again = waiting.pop(0)
        now = look()
        left = plan(now, _named(message))
        for part in [message] if left and message[0] == "sizes" else messages(now, left):
            try:
                write(part)
            except NotByItself:
                if again:
                    raise
                waiting.append((part, True))


def apply(ethtool: Ethtool, jobs: Sequence[Job]) -> None:
    """Change NICs one after the other, then look whether it came true.

    Raises ``Problem`` where the kernel refuses or clamps; everything is set as before then.
    """
    touched: list[Nic] = []
    wrong: list[str] = []
    try:
        for job in jobs:
            if job.changes:
                touched.append(job.nic)
            early = [change for change in job.changes if not _late(change.name)]
            carry_out(
                functools.partial(read, ethtool, job.nic.name),
                functools.partial(_write, ethtool, job.nic),
                messages(job.nic, early),
            )
        for job in jobs:
            if job.changes:
                wished = job.resolved.settings.items()
                settings = {s: value for s, value in wished if s == "qdisc" or not _late(s)}
                settings.update(_steer(ethtool, job))
                wrong += missed(read(ethtool, job.nic.name), settings)
        if wrong:
            raise Problem("\n".join(wrong))
    except (OSError, Problem) as problem:
        raise Problem(f"{problem}\n{restore(ethtool, reversed(touched))}") from None


def differing(nics: Iterable[Nic]) -> list[Change]:
    """Return, by NIC, what is not as it was: more than was asked for where settings hang together.

    The settings of a queue that there is no more became ``None``: they have to be set when it is there again.
    """
    ethtool = Ethtool()
    try:
        pairs = [(former, read(ethtool, former.name)) for former in nics]
    finally:
        ethtool.close()
    return [
        Change(setting, value, now.values.get(setting), now.name)
        for former, now in pairs
        for setting, value in former.values.items()
        if (setting in now.values or of_queue(setting)) and now.values.get(setting) != value
    ]


def devices(ethtool: Ethtool) -> list[Device]:
    """Return the interfaces that there are, by what they can be selected by."""
    routes = Node("/").default_routes()
    return [
        Device(name, *ethtool.driver(name), name in routes)
        for name in sorted(name for dummy, name in socket.if_nameindex())
    ]


def plan_nics(ethtool: Ethtool, nics: Sequence[Mapping[str, Any]]) -> NicPlan:
    """Return what brings NICs to their settings; raises ``Problem`` if one cannot be selected.

    Fewer channels remove queues with all their settings, so those are part of the plan.
    """
    entries = select(nics, devices(ethtool))
    jobs = []
    for wish in parse(entries):
        nic = read(ethtool, wish.nic)
        resolved = _resolved(nic, wish)
        jobs.append(Job(nic, resolved, [] if resolved.problems else plan(nic, resolved.settings), wish))
    changes = [change for job in jobs for change in job.changes]
    for job in jobs:
        planned = {change.name for change in job.changes}
        if any(name.startswith("channels.") for name in planned):
            changes += [
                Change(setting, value, None, job.nic.name)
                for setting, value in job.nic.values.items()
                if of_queue(setting) and setting not in planned
            ]
    problems = [problem for job in jobs for problem in job.resolved.problems]
    return NicPlan(subsystem="nics", changes=changes, problems=problems, jobs=jobs, entries=entries)


def set_up(nics: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Bring NICs to their settings, without a journal, as at boot; return what was done to each.

    Raises ``Problem``; then every NIC has its former settings.
    """
    ethtool = Ethtool()
    try:
        found = plan_nics(ethtool, nics)
        found.require_valid()
        apply(ethtool, found.jobs)
    finally:
        ethtool.close()
    return report(found)


def report(found: NicPlan) -> list[dict[str, Any]]:
    """Return what the plan changes of each NIC, as the module returns it."""
    return [
        {
            "name": job.nic.name,
            "driver": job.nic.driver,
            "changes": [change.as_dict() for change in job.changes],
            "skipped": dict(job.resolved.skipped),
            "limited": dict(job.resolved.limited),
        }
        for job in found.jobs
    ]
