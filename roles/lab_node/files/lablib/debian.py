# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian roots: select the mirror from the host's apt sources and run mmdebstrap."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lablib.common import LabError, run

APT_DIR = Path("/etc/apt")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Suites that distinguish Debian's archive from other repositories.
DEBIAN_SUITES = frozenset(
    ["bookworm", "trixie", "forky", "sid", "oldstable", "stable", "testing", "unstable"]
)
UNSTABLE = ("sid", "unstable")
# apt settings that affect access to a mirror; the root does not inherit others.
APT_SETTINGS = re.compile(r"Acquire::(https?::|Retries|ForceIPv|Check-Valid-Until|Check-Date|Max-FutureTime)")


@dataclass(frozen=True)
class Source:
    """One entry of apt's sources (sources.list(5))."""

    types: tuple[str, ...]
    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False


@dataclass(frozen=True)
class Mirror:
    """Debian's archive and its security archive, None if there is none."""

    archive: Source
    security: Source | None = None


def parse_one_line(text: str) -> list[Source]:
    """Parse the one-line style: ``deb [option=value ...] uri suite component ...``."""
    sources = []
    for line in text.splitlines():
        found = re.match(r"\s*(deb|deb-src)\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)", line)
        if not found:
            continue
        kind, options, uri, suite, components = found.groups()
        pairs = dict(re.findall(r"([\w-]+)\+?=(\S+)", options or ""))
        sources.append(
            Source(
                types=(kind,),
                uris=(uri,),
                suites=(suite,),
                components=tuple(components.split()),
                signed_by=pairs.get("signed-by", ""),
                trusted=pairs.get("trusted", "no") == "yes",
            )
        )
    return sources


def parse_deb822(text: str) -> list[Source]:
    """Parse the deb822 style: stanzas of ``Field: value`` with indented continuation lines."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    sources = []
    for stanza in re.split(r"\n[ \t]*\n", lines):
        fields = {
            name.lower(): value.strip()
            for name, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t]+.*)*)", stanza, re.MULTILINE)
        }
        if not fields.get("uris") or fields.get("enabled", "yes").lower() == "no":
            continue
        sources.append(
            Source(
                types=tuple(fields.get("types", "").split()),
                uris=tuple(fields["uris"].split()),
                suites=tuple(fields.get("suites", "").split()),
                components=tuple(fields.get("components", "").split()),
                signed_by=fields.get("signed-by", ""),
                trusted=fields.get("trusted", "no").lower() == "yes",
            )
        )
    return sources


def read_sources(apt_dir: Path = APT_DIR) -> list[Source]:
    """Return all entries of the host's apt sources, in apt's order."""
    sources = []
    for path in [apt_dir / "sources.list", *sorted((apt_dir / "sources.list.d").glob("*"))]:
        if not path.is_file() or path.suffix not in (".list", ".sources"):
            continue
        parse = parse_deb822 if path.suffix == ".sources" else parse_one_line
        sources += parse(path.read_text(errors="replace"))
    return sources


def choose_mirror(sources: Iterable[Source]) -> Mirror | None:
    """Return Debian's archive and its security archive, or None if the sources do not contain the archive.

    Other vendors use Debian's suite names too, so a URI that ends in /debian takes precedence.
    """
    usable = [source for source in sources if "deb" in source.types and "main" in source.components]
    archives = [source for source in usable if DEBIAN_SUITES.intersection(source.suites)]
    archives.sort(key=lambda source: not source.uris[0].rstrip("/").endswith("/debian"))
    if not archives:
        return None
    security = [source for source in usable if any(suite.endswith("-security") for suite in source.suites)]
    return Mirror(archives[0], security[0] if security else None)


def machine_mirror() -> Mirror:
    """Return the mirror from PODNET_DEBIAN_MIRROR or the host's apt sources; raise LabError without one."""
    uri = os.environ.get("PODNET_DEBIAN_MIRROR")
    if uri:
        security = os.environ.get("PODNET_DEBIAN_SECURITY_MIRROR")
        given = Source(("deb",), (uri,), (), ("main",))
        return Mirror(given, Source(("deb",), (security,), (), ("main",)) if security else None)
    mirror = choose_mirror(read_sources())
    if mirror is None:
        raise LabError(
            f"no Debian archive (a 'deb' entry with the component main) in {APT_DIR}/sources.list*; "
            "set PODNET_DEBIAN_MIRROR=http://MIRROR/debian"
        )
    return mirror


def resolve_uri(uri: str) -> str:
    """Return the first URI in the list of apt's ``mirror+file:`` method; return other URIs unchanged."""
    if not uri.startswith("mirror+file:"):
        return uri
    listing = Path(re.sub(r"^mirror\+file:/*", "/", uri))
    try:
        lines: list[str] = re.findall(r"^\s*([^#\s]+)", listing.read_text(), re.MULTILINE)
    except OSError as error:
        raise LabError(f"apt's mirror list {listing}: {error.strerror}; set PODNET_DEBIAN_MIRROR") from error
    if not lines:
        raise LabError(f"apt's mirror list {listing} is empty; set PODNET_DEBIAN_MIRROR")
    return lines[0]


def sources_lines(mirror: Mirror, suite: str, components: Sequence[str], *, backports: bool) -> list[str]:
    """Return a root's one-line sources: the suite, its updates, security (if any) and backports.

    Debian's unstable suite has no others beside it.
    """

    def line(source: Source, name: str) -> str:
        # A one-line source cannot contain an inline key; use Debian's keyring instead.
        keyring = source.signed_by if source.signed_by.startswith("/") else str(KEYRING)
        options = "trusted=yes" if source.trusted else f"signed-by={keyring}"
        return f"deb [{options}] {resolve_uri(source.uris[0])} {name} {' '.join(components)}"

    lines = [line(mirror.archive, suite)]
    if suite in UNSTABLE:
        return lines
    lines.append(line(mirror.archive, f"{suite}-updates"))
    if mirror.security:
        lines.append(line(mirror.security, f"{suite}-security"))
    if backports:
        lines.append(line(mirror.archive, f"{suite}-backports"))
    return lines


def apt_settings(dump: str) -> list[str]:
    """Return the settings of ``apt-config dump`` that affect access to a mirror, such as proxies."""
    return [line for line in dump.splitlines() if APT_SETTINGS.match(line) and not line.endswith(' "";')]


def make_root(
    target: Path,
    suite: str,
    packages: Sequence[str],
    *,
    variant: str,
    components: Sequence[str] = ("main",),
    backports: bool = False,
    options: Sequence[str] = (),
) -> None:
    """Create a Debian root with mmdebstrap from the mirror; the options are mmdebstrap's own."""
    settings = apt_settings(run(["apt-config", "dump"]))
    run(
        [
            "mmdebstrap",
            "--mode=root",
            "--format=directory",
            "--architectures=amd64",
            f"--variant={variant}",
            f"--include={','.join(packages)}",
            # The root need not survive a power failure, and needs no documentation.
            "--dpkgopt=force-unsafe-io",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            *(f"--aptopt={setting}" for setting in settings),
            *options,
            suite,
            target,
            *sources_lines(machine_mirror(), suite, components, backports=backports),
        ],
        env={"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
    )
    (target / "etc/apt/apt.conf.d/99mmdebstrap").unlink(missing_ok=True)
