# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan which steps bring a module's source into DKMS, build, install and load it. Pure.

Source: dkms(8) and its script, versions 2.8 to 3.2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from .loading import (
    KmodPlan,
    Loaded,
    Step,
    autoload_file,
    autoload_text,
    kmod_plan,
    plan_autoload,
    plan_loading,
)

SOURCES = "/usr/src"
SIGNING = "/etc/dkms/framework.conf.d/podnet.conf"


@dataclass(frozen=True)
class Signing:
    """The key that DKMS signs with, as paths on the node; ``serial`` is the certificate's serial number."""

    key: str
    certificate: str
    serial: str

    @property
    def text(self) -> str:
        """Return the settings for DKMS without the final newline."""
        return (
            "# Written by podnet.datapath.\n"
            f'mok_signing_key="{self.key}"\nmok_certificate="{self.certificate}"'
        )


@dataclass(frozen=True)
class Desired:
    """One version of a module, built from ``files`` for one kernel release."""

    name: str
    version: str
    kernel: str
    files: Mapping[str, str]
    reload: str = "idle"
    signing: Signing | None = None


@dataclass(frozen=True)
class Entry:
    """One line of ``dkms status``; ``kernel`` is empty if the version is only added."""

    version: str
    kernel: str
    state: str
    intact: bool


@dataclass(frozen=True)
class Current:
    """The state of the node.

    ``source`` is that of the desired version. ``versions`` are all versions in DKMS or /usr/src, ``broken``
    those whose source DKMS cannot find. ``srcversion``, ``filename`` and ``signed_by`` describe the module
    that modprobe would load. ``delivered`` are modules that ``delivery`` installed.
    """

    running: str
    source: Mapping[str, str] | None
    versions: tuple[str, ...]
    broken: tuple[str, ...]
    entries: tuple[Entry, ...]
    srcversion: str
    filename: str
    loaded: Loaded | None
    autoload: str
    signed_by: str = ""
    signing: str = ""
    delivered: tuple[str, ...] = ()


def source_folder(name: str, version: str) -> str:
    """Return the directory where DKMS expects the source."""
    return f"{SOURCES}/{name}-{version}"


def conf_value(conf: str, key: str) -> str:
    """Return a variable of a dkms.conf, empty if it is not set."""
    match = re.search(rf"^\s*{key}=[\"']?([^\"'\s]*)", conf, re.MULTILINE)
    return match.group(1) if match else ""


def option_problems(desired: Desired) -> list[str]:
    """Return the problems of the options."""
    found = []
    if not re.fullmatch(r"[a-z0-9_]+", desired.name):
        found.append(f"name: {desired.name!r} is not a module name: use lower case letters, digits and _")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+~_]*", desired.version):
        found.append(f"version: {desired.version!r} is not a version: use letters, digits and . + ~ _")
    for path in desired.files:
        if not path or path.startswith("/") or ".." in path.split("/") or path != os.path.normpath(path):
            found.append(f"files: {path!r} must be a relative path below the source directory")
    conf = desired.files.get("dkms.conf")
    if conf is None:
        return [*found, "files: dkms.conf is missing: add it"]
    for key, wanted in (("PACKAGE_NAME", desired.name), ("PACKAGE_VERSION", desired.version)):
        if conf_value(conf, key) != wanted:
            found.append(
                f"files: dkms.conf has {key} {conf_value(conf, key)!r}, but the option says {wanted!r}"
            )
    return found


def parse_status(text: str, name: str) -> tuple[Entry, ...]:
    """Parse ``dkms status``. Versions before 2.8.5 print ``name, version``, later ones ``name/version``."""
    line_format = re.compile(
        rf"^{re.escape(name)}(?:/|, )(?P<version>[^,:/\s]+)"
        r"(?:, (?P<kernel>[^,\s]+), (?P<arch>[^:\s]+))?: (?P<state>[\w-]+)(?P<notes>.*)$"
    )
    found = []
    for line in text.splitlines():
        match = line_format.match(line.strip())
        if match:
            # "(original_module exists)" is not an error; "Diff...", "Missing..." and "...missing..." are.
            intact = not re.search(r"\b(diff|missing)", match["notes"], re.IGNORECASE)
            found.append(Entry(match["version"], match["kernel"] or "", match["state"], intact))
    return tuple(found)


def signing_output(output: str) -> str:
    """Return the lines of ``dkms build`` about signing."""
    words = [line for line in output.splitlines() if re.search(r"sign|key|certificate", line, re.IGNORECASE)]
    return "; ".join(words[-3:]) or "nothing"


def differing(source: Mapping[str, str] | None, files: Mapping[str, str]) -> list[str]:
    """Return the paths whose contents differ."""
    have = source or {}
    return sorted(path for path in {*have, *files} if have.get(path) != files.get(path))


def plan(current: Current, desired: Desired) -> KmodPlan:
    """Return the plan from ``current`` to ``desired``."""
    steps = []
    paths = differing(current.source, desired.files)
    entry = next(
        (e for e in current.entries if e.version == desired.version and e.kernel == desired.kernel), None
    )
    signing = desired.signing
    if signing and current.signing != signing.text:
        steps.append(Step("sign", f"{SIGNING} does not name the key {signing.key}"))
    if current.source is None:
        steps.append(Step("deploy", f"version {desired.version} is not installed"))
    elif paths:
        steps.append(Step("deploy", f"the source differs: {', '.join(paths)}"))
    elif entry is None:
        steps.append(Step("deploy", f"not built for kernel {desired.kernel}"))
    elif signing and current.filename and current.signed_by != signing.serial:
        steps.append(Step("deploy", f"not signed for {signing.certificate}"))
    elif entry.state != "installed" or not entry.intact:
        state = entry.state if entry.intact else "different from what was built"
        steps.append(Step("install", f"the module for kernel {desired.kernel} is {state}"))
    steps += [Step("retire", f"{path} was built on another node") for path in current.delivered]
    steps += plan_autoload(desired.name, current.autoload)
    loading = kmod_plan(())
    if desired.kernel == current.running:
        other = bool(paths) or differs(current.srcversion, current.loaded)
        loading = plan_loading(desired.name, current.loaded, other, desired.reload)
    versions = [
        Step("retire", f"version {version} is superseded") for version in superseded(current, desired.version)
    ]
    return kmod_plan([*steps, *loading.steps, *versions], loading.pending)


def differs(srcversion: str, loaded: Loaded | None) -> bool:
    """Return whether the loaded module differs from the installed one, if one is installed."""
    return bool(srcversion and loaded and srcversion != loaded.srcversion)


def superseded(current: Current, version: str) -> list[str]:
    """Return the other versions of this module."""
    return sorted({*current.versions} - {version})


def plan_absent(current: Current, name: str) -> KmodPlan:
    """Return the plan that removes all versions of the module."""
    steps = []
    if current.loaded is not None:
        steps.append(Step("unload", "loaded"))
    steps += [Step("retire", f"version {version} is present") for version in superseded(current, "")]
    steps += [Step("retire", f"{path} is present") for path in current.delivered]
    for path, text in ((autoload_file(name), current.autoload), (SIGNING, current.signing)):
        if text:
            steps.append(Step("remove", f"{path} is present"))
    return kmod_plan(steps)


def state_text(name: str, current: Current) -> str:
    """Return the state as lines for the diff."""
    lines = [
        f"{name}/{entry.version}{f' for {entry.kernel}' if entry.kernel else ''}: {entry.state}"
        for entry in current.entries
    ]
    lines += [f"{name}/{version}: broken" for version in current.broken]
    if current.loaded:
        lines.append(f"loaded: {current.loaded.srcversion or 'yes'}")
    lines += [f"{path}: present" for path in current.delivered]
    if current.autoload:
        lines.append(f"{autoload_file(name)}: present")
    return "".join(f"{line}\n" for line in sorted(lines))


def diff(current: Current, desired: Desired, planned: KmodPlan) -> list[dict[str, str]]:
    """Return the diff: the state, then each source file that differs."""
    before = state_text(desired.name, current)
    kept = tuple(
        entry
        for entry in current.entries
        if entry.version == desired.version and entry.kernel not in ("", desired.kernel)
    )
    loaded = current.loaded
    if planned.wants("load", "reload"):
        known = "" if planned.wants("deploy") else current.srcversion
        loaded = Loaded(known or "the module as built")
    after = Current(
        running=current.running,
        source=desired.files,
        versions=(desired.version,),
        broken=(),
        entries=(*kept, Entry(desired.version, desired.kernel, "installed", True)),
        srcversion=current.srcversion,
        filename=current.filename,
        loaded=loaded,
        autoload=autoload_text(desired.name),
    )
    parts = [
        {
            "before_header": "state",
            "after_header": "state",
            "before": before,
            "after": state_text(desired.name, after),
        }
    ]
    for path in differing(current.source, desired.files):
        header = f"{source_folder(desired.name, desired.version)}/{path}"
        parts.append(
            {
                "before_header": header,
                "after_header": header,
                "before": (current.source or {}).get(path, ""),
                "after": desired.files.get(path, ""),
            }
        )
    return parts
