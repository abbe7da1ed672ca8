# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole of sysctl_zc: a node's own sysctls, those of its running Pods, the file, and who else sets them.

Private to this collection. What a network namespace has for itself, and what it begins with, differs from
kernel to kernel; this module observes it in a new one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._core.files import DropIn, read_file
from .._core.plan import Change, Plan, Problem, Result, diff, reason
from .._kernel import netns, sock_diag
from .._node import pod_netns
from .._rollback import journal
from .keys import FORWARDING6, Tree, name_of, order, parse, path_of, plan
from .window import MAX_SCALE, RMEM_MAX, TCP_RMEM, TCP_WMEM, solve_window, window_bounds
from .writers import MARKER, render, writer_warnings, writers

# Keys that do nothing in newer kernels, by Documentation/networking/ip-sysctl.rst.
WITHOUT_EFFECT = {
    "net/ipv4/tcp_adv_win_scale": "since Linux 6.6 the kernel measures what a buffer holds",
    "net/ipv4/tcp_low_latency": "since Linux 4.14 there is no prequeue",
    "net/ipv4/tcp_fack": "since Linux 4.15 RACK has taken its place",
    "net/ipv4/tcp_tw_recycle": "removed in Linux 4.12, as it broke connections through NAT",
}


@dataclass(frozen=True)
class Place:
    """A network namespace to tune: this process's (no name), or a Pod's, held open by ``path``."""

    name: str = ""
    path: str = ""

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Have the calling thread there for the length of a block."""
        return netns.entered(self.path) if self.path else contextlib.nullcontext()


@dataclass
class Job:
    """What is to be done in one place."""

    place: Place
    desired: Mapping[str, str] = field(default_factory=dict)
    changes: Sequence[Change] = ()


# A router that would be lost


def learned_routers(ipv6_route: str) -> set[str]:
    """Return the interfaces whose default route the kernel learned from a router advertisement.

    ``ipv6_route`` is the text of /proc/net/ipv6_route; RTF_DEFAULT marks such a route (linux/ipv6_route.h).
    """
    found = set()
    for line in ipv6_route.splitlines():
        words = line.split()
        if len(words) == 10 and words[1] == "00" and int(words[8], 16) & 0x10000:
            found.add(words[9])
    return found


def _forwarding_problems(tree: Tree, current: Mapping[str, str], desired: Mapping[str, str]) -> list[str]:
    """Return why IPv6 forwarding must not be switched on yet: a learned default route would expire."""
    if desired.get(FORWARDING6, "0") == "0" or current[FORWARDING6] != "0":
        return []
    with open("/proc/net/ipv6_route", encoding="utf-8") as file:
        interfaces = learned_routers(file.read())
    problems = []
    for interface in sorted(interfaces):
        path = f"net/ipv6/conf/{interface}/accept_ra"
        if tree.exists(path) and desired.get(path, tree.read(path)) == "1":
            problems.append(
                f"sysctls: {name_of(FORWARDING6)} = {desired[FORWARDING6]} makes the kernel ignore router"
                f" advertisements on {interface}, which has its default route from one: set"
                f" {name_of(path)} to 2 as well"
            )
    return problems


# Plans


def _write_problems(tree: Tree, job: Job) -> list[str]:
    """Return which changes cannot be written at all."""
    where = f"pods: {job.place.name}" if job.place.name else "sysctls"
    return [
        f"{where}: {change.name} is read-only here (it is {change.before}): run as root (become), outside of"
        " a container, and in the initial network namespace if the key is global"
        for change in job.changes
        if not tree.writable(path_of(change.name))
    ]


def _rmem_max(tree: Tree, desired: Mapping[str, str], scale: int) -> tuple[dict[str, str], list[str]]:
    """Return the node's net.core.rmem_max, which bounds the window of Pods too, and a warning without it."""
    if RMEM_MAX in desired:
        return {RMEM_MAX: desired[RMEM_MAX]}, []
    if tree.exists(RMEM_MAX):
        return {RMEM_MAX: tree.read(RMEM_MAX)}, []
    high = window_bounds(min(max(scale, 0), MAX_SCALE))[1]
    return {}, [
        f"{name_of(RMEM_MAX)} cannot be seen in this network namespace: if the node's is above {high}, the"
        f" window scale will not be {scale}"
    ]


def _plan_host(tree: Tree, asked: Mapping[str, str], scale: int | None) -> tuple[Job, list[str]]:
    """Return what is to be done in this network namespace, and warnings; raises ``Problem``."""
    gone = [
        f"sysctls: {name_of(path)} does nothing in newer kernels ({cause}): leave it out"
        for path, cause in WITHOUT_EFFECT.items()
        if path in asked
    ]
    absent = [path for path in asked if path in WITHOUT_EFFECT and not tree.exists(path)]
    if absent:
        raise Problem("\n".join(gone))
    desired, warnings = dict(asked), gone
    tree.current(asked)  # Names what the kernel does not have before anything is solved.
    if scale is not None:
        ceiling, more = _rmem_max(tree, asked, scale)
        warnings += more
        desired |= solve_window(scale, asked, tree.current({TCP_RMEM, TCP_WMEM}) | ceiling)
    current = tree.current(desired)
    job = Job(Place(), desired, plan(current, desired))
    problems = _write_problems(tree, job) + _forwarding_problems(tree, current, desired)
    if problems:
        raise Problem("\n".join(problems))
    return job, warnings


def new_namespace(tree: Tree, paths: Iterable[str]) -> dict[str, str]:
    """Return those keys that a new network namespace has for itself, with the values that it begins with.

    Of the keys below net, it does not show those of the whole node, or not as writable.
    """
    asked = [path for path in paths if path.startswith("net/")]
    if not asked:
        return {}
    try:
        with netns.fresh():
            return {path: tree.read(path) for path in asked if tree.exists(path) and tree.writable(path)}
    except OSError as error:
        raise Problem(
            "pods: no network namespace can be made here to look which keys a Pod has for itself"
            f" ({reason(error)}): run as root (become), outside of a container"
        ) from None


def split(
    asked: Mapping[str, str], own: Iterable[str], host: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """Return what of ``asked`` each Pod is to have, and what is wrong with the rest.

    ``own`` are the keys that a namespace has for itself. The others hold for the whole node: they need no
    writing where ``host`` gives them the same value.
    """
    own = set(own)
    problems = [
        f"pods: sysctls: {name_of(path)} is one for the whole node in this kernel, and sysctls "
        + (f"sets it to {host[path]}" if path in host else "does not set it")
        + f": set it to {value} there"
        for path, value in asked.items()
        if path not in own and host.get(path) != value
    ]
    return {path: value for path, value in asked.items() if path in own}, problems


def _plan_pods(
    tree: Tree, asked: Mapping[str, str], scale: int | None, host: Job, places: Iterable[Place]
) -> list[Job]:
    """Return what is to be done in the namespaces of Pods; raises ``Problem``."""
    tree.current(asked)
    wanted, problems = split(asked, new_namespace(tree, asked), host.desired)
    ceiling = _rmem_max(tree, host.desired, scale)[0] if scale is not None else {}
    jobs = []
    for place in places:
        with place.entered():
            desired = dict(wanted)
            if scale is not None:
                basis = tree.current({TCP_RMEM, TCP_WMEM}) | ceiling
                desired |= solve_window(scale, wanted, basis)
            job = Job(place, desired, plan(tree.current(desired), desired))
            problems += _write_problems(tree, job)
        jobs.append(job)
    if problems:
        raise Problem("\n".join(problems))
    return jobs


@contextlib.contextmanager
def places(pods: Mapping[str, Any] | None) -> Iterator[tuple[list[Place], dict[str, str]]]:
    """Yield the Pods that are meant, kept open so that they cannot end meanwhile, and why not the others."""
    if pods is None:
        yield [], {}
        return
    meant, left = pod_netns.choose(pod_netns.found(), pods["select"], pods["names"], pods["except"])
    with contextlib.ExitStack() as stack:
        found = []
        for one in meant:
            try:
                descriptor = os.open(one.path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                left[one.name] = "ended meanwhile"
                continue
            stack.callback(os.close, descriptor)
            found.append(Place(one.name, f"/proc/self/fd/{descriptor}"))
        yield found, left


# Deeds


def _restore(tree: Tree, done: Sequence[tuple[Job, dict[str, str]]]) -> str:
    """Bring every place back to what it was; return a sentence on how that went."""
    failed = []
    for job, former in reversed(done):
        with job.place.entered():
            sentence = tree.restore(former)
            if sentence != tree.RESTORED:
                failed.append(f"{job.place.name}: {sentence}" if job.place.name else sentence)
    return " ".join(failed) or tree.RESTORED


def _apply(tree: Tree, jobs: Iterable[Job]) -> list[tuple[Job, dict[str, str]]]:
    """Carry out all jobs, and return what everything touched was before.

    Raises ``Problem``; every sysctl of every place has its former value then.
    """
    done: list[tuple[Job, dict[str, str]]] = []
    for job in jobs:
        try:
            with job.place.entered():
                done.append((job, tree.apply(job.changes, job.desired)))
        except Problem as problem:
            where = f"pods: {job.place.name}: " if job.place.name else ""
            elsewhere = _restore(tree, done)
            raise Problem(f"{where}{problem}" + (f" Elsewhere: {elsewhere}" if done else "")) from None
    return done


# What is reported


def _scale_warnings(scale: int, own: str, root: str) -> list[str]:
    """Return a sentence for each file that will break the window scale at the next boot."""
    high = window_bounds(scale)[1]
    return [
        f"{writer.file} sets {name_of(RMEM_MAX)} = {writer.value}, with which the window scale will not be"
        f" {scale} after a boot: make it {high} at most there"
        for writer in writers({RMEM_MAX: ""}, own, root)
        if writer.value.isdecimal() and int(writer.value) > high
    ]


def _connections(places: Iterable[Place], scale: int) -> tuple[list[dict[str, object]], list[str]]:
    """Return the connections that announce another scale, and a warning where they cannot be listed."""
    listed: list[dict[str, object]] = []
    try:
        for place in places:
            with place.entered():
                others = sock_diag.by_scale(sock_diag.connections(), scale)
            listed += [{"netns": place.name, **other} for other in others]
    except OSError as error:
        return [], [f"window_scale: this kernel does not list TCP connections: {reason(error)}"]
    return listed, []


def _new_pods(tree: Tree, jobs: Sequence[Job]) -> dict[str, str]:
    """Return the keys that Pods have, with what a Pod that is made now begins with where that differs."""
    wanted = {path: value for job in jobs for path, value in job.desired.items()}
    begins = new_namespace(tree, wanted)
    return {name_of(path): begins[path] for path in sorted(begins) if begins[path] != wanted[path]}


def _named(values: Mapping[str, str]) -> dict[str, str]:
    return {name_of(path): values[path] for path in sorted(values, key=order)}


def _diffs(jobs: Iterable[Job]) -> list[dict[str, str]]:
    return [
        diff(f"running sysctls of {job.place.name}" if job.place.name else "running sysctls", job.changes)
        for job in jobs
        if job.changes
    ]


# The journal


def _journalled(
    tree: Tree, jobs: Sequence[Job], files: Mapping[str, tuple[str | None, str | None]]
) -> tuple[Plan, journal.Observe]:
    """Return the plan for the journal, and what observes the sysctls that it touches."""
    former = []
    for job in jobs:
        with job.place.entered():
            former.append((job.place, tree.touched(job.changes, job.desired)))

    def observe() -> list[Change]:
        found = []
        for place, values in former:
            with place.entered():
                now = {path: tree.read(path) for path in values if tree.exists(path)}
            found += [Change(name_of(p), values[p], now[p], place.name) for p in now if now[p] != values[p]]
        return found

    changes = [replace(change, scope=job.place.name) for job in jobs for change in job.changes]
    return Plan("sysctls", changes, files), observe


# The module


def _checked(params: Mapping[str, Any]) -> None:
    own = params["file"]
    if own and not (os.path.isabs(own) and own.endswith(".conf")):
        raise Problem(
            f"file: {own!r} is not an absolute path that ends in .conf; only such files are read at boot"
        )
    if params["state"] == "absent" and not own:
        raise Problem("state: absent removes the file, but file is empty")


def run(params: Mapping[str, Any], check: bool, root: str = "/") -> Result:
    """Bring sysctls to the values of the module's options; searches other writers below ``root``.

    Raises ``Problem``; then neither the kernel nor the file has changed.
    """
    _checked(params)
    own, scale, tree = params["file"], params["window_scale"], Tree()
    if params["state"] == "absent":
        result = _result(Job(Place()), [], [])
        _settle(tree, DropIn(own, MARKER), [], result, check)
        return result
    with places(params["pods"]) as (meant, left):
        host, warnings = _plan_host(tree, parse(params["sysctls"]), scale)
        asked = parse(params["pods"]["sysctls"], "pods: sysctls") if params["pods"] else {}
        jobs = [host, *_plan_pods(tree, asked, scale, host, meant)]
        others = writers(host.desired, own, root)
        warnings += writer_warnings(others, own)
        if scale is not None and RMEM_MAX not in host.desired:
            warnings += _scale_warnings(scale, own, root)
        result = _result(host, jobs[1:], warnings)
        result.values["other_writers"] = [writer.as_dict() for writer in others]
        result.values["pods_skipped"] = left
        _settle(tree, DropIn(own, MARKER) if own else None, jobs, result, check)
        if scale is not None:
            result.values["connections"], more = _connections((job.place for job in jobs), scale)
            result.warnings += more
        result.values["new_pod_defaults"] = _new_pods(tree, jobs[1:]) if meant else {}
    return result


def _result(host: Job, pods: Sequence[Job], warnings: list[str]) -> Result:
    values = {
        "changes": [change.as_dict() for change in host.changes],
        "values": _named(host.desired),
        "pods": [
            {
                "netns": job.place.name,
                "changes": [change.as_dict() for change in job.changes],
                "values": _named(job.desired),
            }
            for job in pods
        ],
        "pods_skipped": {},
        "new_pod_defaults": {},
        "connections": [],
        "other_writers": [],
    }
    jobs = (host, *pods)
    return Result(any(job.changes for job in jobs), values, warnings, _diffs(jobs))


def _settle(tree: Tree, drop_in: DropIn | None, jobs: Sequence[Job], result: Result, check: bool) -> None:
    """Write the sysctls and the file, or only say so."""
    before = drop_in.read() if drop_in else None
    after = render(jobs[0].desired) if drop_in and jobs and jobs[0].desired else None
    if drop_in and before != after:
        drop_in.check_writable()
        result.changed = True
        headers = {"before_header": drop_in.path, "after_header": drop_in.path}
        result.diff.append({**headers, "before": before or "", "after": after or ""})
    if check:
        return
    # As it is, byte for byte: what the journal has comes back.
    files = {drop_in.path: (read_file(drop_in.path), after)} if drop_in and before != after else {}
    with journal.transaction(*_journalled(tree, jobs, files)):
        done = _apply(tree, jobs)
        if drop_in and files:
            try:
                drop_in.write(after)
            except OSError as error:
                raise Problem(
                    f"{drop_in.path} cannot be written: {reason(error)}. {_restore(tree, done)}"
                ) from None
