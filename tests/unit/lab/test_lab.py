# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab without a running node: mirrors, images, QEMU's arguments, names and files."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import lab as command_line
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from lablib import access, common, debian, disks, image, machine, qemu, recipe, spec
from lablib.common import LabError
from lablib.debian import Mirror, Source
from lablib.files import LabFiles
from lablib.lifecycle import Lab
from lablib.ports import PORTS, choose_port
from lablib.process import is_running, start_time
from lablib.spec import LabSpec
from lablib.state import Node, State

FILES = Path(__file__).resolve().parents[3] / "roles/lab_node/files"
TOKEN = st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True)
TOKENS = st.lists(TOKEN, min_size=1, max_size=3).map(tuple)
URI = st.builds("{}://{}/{}".format, st.sampled_from(["http", "https"]), TOKEN, TOKEN)
SIGNED_BY = st.one_of(st.just(""), TOKEN.map("/usr/share/keyrings/{}.gpg".format))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PODNET_CACHE", str(tmp_path / "a cache"))
    return tmp_path / "a cache"


# -- apt's sources -----------------------------------------------------------------------------------


@given(
    st.builds(
        Source, st.just(("deb",)), URI.map(lambda uri: (uri,)), TOKENS, TOKENS, SIGNED_BY, st.booleans()
    )
)
def test_both_styles_parse_equally(source: Source) -> None:
    options = [f"signed-by={source.signed_by}"] * bool(source.signed_by) + ["trusted=yes"] * source.trusted
    bracket = f"[ {' '.join(options)} ] " if options else ""
    one_line = [
        f"deb {bracket}{source.uris[0]} {suite} {' '.join(source.components)}  # comment"
        for suite in source.suites
    ]
    stanza = (
        f"Types: deb\nURIs: {source.uris[0]}\nSuites: {' '.join(source.suites)}\n"
        f"Components: {' '.join(source.components)}\n"
        + f"Signed-By: {source.signed_by}\n" * bool(source.signed_by)
        + "Trusted: yes\n" * source.trusted
    )
    assert debian.parse_deb822(stanza) == [source]
    assert debian.parse_one_line("\n".join(one_line)) == [
        dataclasses.replace(source, suites=(suite,)) for suite in source.suites
    ]


@given(st.text())
@example("deb [signed-by=/x http://no.bracket/debian bookworm main")
@example("URIs:\nTypes: deb")
@example("Types: deb\n\n\nURIs: http://x")
def test_parsers_accept_any_text(text: str) -> None:
    for source in debian.parse_one_line(text) + debian.parse_deb822(text):
        assert source.uris


def test_deb822_continuation_lines_comments_and_disabled_entries() -> None:
    text = """\
# the host's archive
Types: deb deb-src
URIs: http://mirror.example/debian
 http://other.example/debian
# a comment in a stanza
Suites: trixie trixie-updates
Components: main
 contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://off.example/debian
Suites: trixie
Components: main
Enabled: no
"""
    (source,) = debian.parse_deb822(text)
    assert source.types == ("deb", "deb-src")
    assert source.uris == ("http://mirror.example/debian", "http://other.example/debian")
    assert source.components == ("main", "contrib")
    assert source.signed_by.startswith("-----BEGIN")


def test_read_sources_reads_the_same_files_as_apt(tmp_path: Path) -> None:
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (tmp_path / "sources.list").write_text(
        "#deb http://off/debian bookworm main\ndeb http://a/ bookworm main\n"
    )
    (folder / "b.sources").write_text("Types: deb\nURIs: http://b/\nSuites: bookworm\nComponents: main\n")
    (folder / "c.list").write_text("deb http://c/ bookworm main\n")
    (folder / "d.list.save").write_text("deb http://d/ bookworm main\n")
    assert [source.uris[0] for source in debian.read_sources(tmp_path)] == [
        "http://a/",
        "http://b/",
        "http://c/",
    ]


def vendor(uri: str, suite: str, *components: str, kind: str = "deb") -> Source:
    return Source((kind,), (uri,), (suite,), components)


ARCHIVE = vendor("http://mirror.example/debian/", "bookworm", "main")
SECURITY = vendor("http://mirror.example/debian-security", "bookworm-security", "main")


@pytest.mark.parametrize(
    "others",
    [
        [],
        [vendor("https://apt.vendor.example", "bookworm", "main")],
        [vendor("https://download.vendor.example/linux/debian", "bookworm", "stable")],
        [vendor("https://vendor.example/apt", "bookworm-pgdg", "main")],
        [vendor("http://mirror.example/sources/debian", "bookworm", "main", kind="deb-src")],
    ],
)
def test_debian_is_distinguished_from_other_vendors(others: list[Source]) -> None:
    assert debian.choose_mirror([*others, SECURITY, ARCHIVE]) == Mirror(ARCHIVE, SECURITY)


def test_no_mirror_without_a_debian_archive() -> None:
    assert debian.choose_mirror([SECURITY, vendor("https://x.example", "noble", "main")]) is None


def test_snapshot_archive_is_accepted() -> None:
    dated = vendor("http://snapshot.example/archive/debian/20250520T000000Z", "bookworm", "main")
    assert debian.choose_mirror([dated]) == Mirror(dated, None)


def test_environment_overrides_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODNET_DEBIAN_MIRROR", "http://near.example/debian")
    lines = debian.sources_lines(debian.machine_mirror(), "trixie", ["main"], backports=True)
    assert [line.split("] ")[1] for line in lines] == [
        f"http://near.example/debian {suite} main"
        for suite in ("trixie", "trixie-updates", "trixie-backports")
    ]


def test_unstable_has_only_one_source() -> None:
    (line,) = debian.sources_lines(Mirror(ARCHIVE, SECURITY), "sid", ["main"], backports=False)
    assert line.endswith(" http://mirror.example/debian/ sid main")


def test_sources_use_a_keyring_file_or_the_default() -> None:
    keyring = dataclasses.replace(ARCHIVE, signed_by="/etc/apt/keyrings/own.gpg")
    inline = dataclasses.replace(SECURITY, signed_by="-----BEGIN PGP PUBLIC KEY BLOCK-----")
    main, _updates, security = debian.sources_lines(
        Mirror(keyring, inline), "bookworm", ["main", "non-free"], backports=False
    )
    assert (
        main
        == "deb [signed-by=/etc/apt/keyrings/own.gpg] http://mirror.example/debian/ bookworm main non-free"
    )
    assert security.startswith(f"deb [signed-by={debian.KEYRING}] http://mirror.example/debian-security ")
    trusting = Mirror(dataclasses.replace(ARCHIVE, trusted=True))
    assert all(
        "[trusted=yes]" in line
        for line in debian.sources_lines(trusting, "trixie", ["main"], backports=False)
    )


def test_mirror_lists_are_resolved(tmp_path: Path) -> None:
    listing = tmp_path / "debian.list"
    listing.write_text("# near\n\nhttp://near.example/debian priority:1\nhttp://far.example/debian\n")
    assert debian.resolve_uri(f"mirror+file:{listing}") == "http://near.example/debian"
    assert debian.resolve_uri(f"mirror+file://{listing}") == "http://near.example/debian"
    assert debian.resolve_uri("http://x.example/debian") == "http://x.example/debian"
    listing.write_text("# none\n")
    with pytest.raises(LabError, match="PODNET_DEBIAN_MIRROR"):
        debian.resolve_uri(f"mirror+file:{listing}")


def test_apt_settings_keeps_only_settings_for_the_mirror() -> None:
    dump = (
        'APT "";\nAcquire "";\nAcquire::http "";\nAcquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::Check-Valid-Until "false";\nDir::Etc "etc/apt";\nAcquire::Languages:: "none";\n'
    )
    assert debian.apt_settings(dump) == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::Check-Valid-Until "false";',
    ]


# -- images ------------------------------------------------------------------------------------------


def test_only_kernel_packages_use_backports() -> None:
    assert [name for name in recipe.packages("7.3") if "/" in name] == [
        "linux-image-amd64/trixie-backports",
        "linux-headers-amd64/trixie-backports",
    ]
    assert not [name for kernel in ("6.1", "6.12") for name in recipe.packages(kernel) if "/" in name]


def test_image_key_depends_on_kernel_and_overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {kernel: image.image_key(kernel) for kernel in recipe.KERNELS}
    assert len(set(keys.values())) == len(keys)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/fstab").write_text("one")
    monkeypatch.setattr(recipe, "OVERLAY", tmp_path)
    first = image.image_key("6.1")
    assert first != keys["6.1"]
    (tmp_path / "etc/fstab").write_text("two")
    assert image.image_key("6.1") != first
    (tmp_path / "etc/fstab").write_text("one")
    assert image.image_key("6.1") == first


def test_newest_image_of_the_current_recipe(cache: Path) -> None:
    assert image.newest_image("6.1") is None
    for name in (
        "6.1-{}-20260101T000000Z",
        "6.1-{}-20260201T000000Z",
        "6.12-{}-20260301T000000Z",
        ".6.1-{}-x",
    ):
        (cache / "images" / name.format(image.image_key("6.1"))).mkdir(parents=True)
    newest = image.newest_image("6.1")
    assert newest and newest.folder.name.endswith("20260201T000000Z")


def test_first_boot_uses_the_arguments_of_default_grub() -> None:
    text = 'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="a=1 b"\n'
    assert recipe.kernel_command_line(text) == "a=1 b quiet"
    own = recipe.kernel_command_line(recipe.overlay_files()["etc/default/grub"].decode()).split()
    assert "console=ttyS0,115200" in own and "quiet" in own
    assert recipe.kernel_command_line('GRUB_CMDLINE_LINUX=""\n') == ""


# -- QEMU --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7+deb12u15)\nCopyright", 7),
        ("QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", 10),
        ("", 0),
    ],
)
def test_major_version(text: str, number: int) -> None:
    assert qemu.major_version(text) == number


EMULATOR = qemu.Emulator(("loader", "qemu"), ("qemu-img",), "10.0")


def state_of_two_nodes(accelerator: str = "tcg") -> State:
    nodes = [Node(1, 20001, "disk0.qcow2"), Node(2, 20002, "disk0.qcow2")]
    return State("6.1", "/image", 2, 1024, accelerator, "why", "10.0", nodes=nodes)


def test_fingerprint_covers_version_and_arguments() -> None:
    state = state_of_two_nodes()
    fingerprint = machine.fingerprint(EMULATOR, "x", state)
    state.nodes[0].layer = "disk7.qcow2"
    elsewhere = dataclasses.replace(EMULATOR, system=("elsewhere/qemu",))
    assert machine.fingerprint(elsewhere, "x", state) == fingerprint
    newer = dataclasses.replace(EMULATOR, version="10.1")
    assert machine.fingerprint(newer, "x", state) != fingerprint
    assert machine.fingerprint(EMULATOR, "x", dataclasses.replace(state, memory=2048)) != fingerprint


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_qemu_paths_are_relative(accelerator: str) -> None:
    state = state_of_two_nodes(accelerator)
    words = " ".join(machine.node_argv(EMULATOR, "x", state, state.nodes[0], 7))
    assert not re.search(r"(file=|path=|unix:)/", words)
    assert ("-cpu host" in words) == (accelerator == "kvm")
    assert "hostfwd=tcp:127.0.0.1:20001-:22" in words and "tap,id=wire,fd=7" in words


def test_nodes_share_a_second_disk() -> None:
    state = dataclasses.replace(state_of_two_nodes(), disk="/a disk")
    for node in state.nodes:
        argv = machine.node_argv(EMULATOR, "x", state, node, 7)
        assert "if=none,id=second,file=/a disk,format=raw,readonly=on" in argv


@pytest.mark.parametrize("index", range(1, spec.MAX_NODES + 1))
def test_link_files_match_the_mac_addresses(index: int) -> None:
    overlay = recipe.overlay_files()
    state = state_of_two_nodes()
    words = " ".join(machine.node_argv(EMULATOR, "x", state, state.nodes[index - 1], 7))
    for name, mac in (("mgmt0", machine.MGMT_MAC), ("wire0", machine.WIRE_MAC)):
        link = overlay[f"etc/systemd/network/10-{name}.link"].decode()
        assert f"Name={name}" in link
        assert mac.format(index) in link and f"mac={mac.format(index)}" in words


# -- labs --------------------------------------------------------------------------------------------


@given(st.text(max_size=30))
@example("lab")
@example("-lab")
@example("lab\n")
@example("../lab")
def test_lab_names_are_valid_in_paths_and_namespaces(name: str) -> None:
    if re.fullmatch(r"(?!-)[a-z0-9-]{1,20}", name) and not name.endswith("\n"):
        assert len(LabFiles(name).namespace) < 40
    else:
        with pytest.raises(LabError, match="--name"):
            LabFiles(name)


def test_state_round_trip() -> None:
    state = State("6.1", "/image", 2, 1024, "tcg", "why", "10.0", nodes=[Node(1, 20001, "disk0.qcow2", 9, 8)])
    assert State.from_json(state.to_json()) == state


def test_is_running_compares_the_start_time() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        node = Node(1, 20001, pid=child.pid, started=start_time(child.pid))
        assert is_running(node)
        assert not is_running(dataclasses.replace(node, started=node.started + 1))
    finally:
        child.kill()
    child.wait()
    assert not is_running(node)
    assert not is_running(Node(1, 20001))


def test_choose_port_is_stable_and_skips_used_ports() -> None:
    first = choose_port("seed", ())
    assert choose_port("seed", ()) == first
    second = choose_port("seed", {first})
    assert second != first and second in PORTS
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", second))
        taken.listen()
        assert choose_port("seed", {first}) not in (first, second)


def test_absent_lab_is_reported(cache: Path) -> None:
    assert Lab("x").report() == {"name": "x", "state": "absent", "nodes": []}
    with pytest.raises(LabError, match="up --name x"):
        Lab("x").require_exists()


@pytest.fixture
def files(cache: Path) -> LabFiles:
    """Return the files of a lab that has no QEMU process."""
    files = LabFiles("x")
    files.folder.mkdir(parents=True)
    access.create_key(files.folder / "ssh_key")
    state = state_of_two_nodes()
    for node in state.nodes:
        files.node_folder(node).mkdir()
        login_key = (files.folder / "ssh_key.pub").read_text()
        access.write_identity(node, files.node_folder(node), login_key)
    access.write_access_files(files, state.nodes)
    files.save_state(state)
    return files


def test_identity_contains_keys_with_their_modes(files: LabFiles) -> None:
    with tarfile.open(files.folder / "node2/identity.tar") as archive:
        modes = {entry.name: entry.mode for entry in archive}
        texts = {name: archive.extractfile(name).read().decode() for name in modes}  # type: ignore[union-attr]
    assert modes["etc/ssh/ssh_host_ed25519_key"] == modes["root/.ssh/authorized_keys"] == 0o600
    assert texts["etc/hostname"] == "node2\n"
    assert "172.31.0.2/30" in texts["etc/systemd/network/20-wire0.network"]
    assert "fd31::2/64" in texts["etc/systemd/network/20-wire0.network"]
    key = texts["etc/ssh/ssh_host_ed25519_key.pub"].split()[1]
    known_hosts = (files.folder / "known_hosts").read_text().splitlines()
    assert known_hosts[1] == f"[127.0.0.1]:20002 ssh-ed25519 {key}"
    assert texts["root/.ssh/authorized_keys"] == (files.folder / "ssh_key.pub").read_text()


def test_ssh_config_and_inventory_agree(files: LabFiles) -> None:
    command = [*Lab("x").ssh_argv("node2")[:-1], "-G", "node2"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    settings = dict(line.split(" ", 1) for line in shown.stdout.splitlines())
    assert (settings["hostname"], settings["port"], settings["user"]) == ("127.0.0.1", "20002", "root")
    assert settings["stricthostkeychecking"] == "true"

    group = yaml.safe_load(files.inventory.read_text())["lab"]
    assert group["hosts"] == {"node1": {"ansible_port": 20001}, "node2": {"ansible_port": 20002}}
    assert group["vars"]["ansible_ssh_private_key_file"] == settings["identityfile"]
    assert f"UserKnownHostsFile={files.folder}/known_hosts" in shlex.split(
        group["vars"]["ansible_ssh_common_args"]
    )


def test_existing_lab_rejects_another_configuration(files: LabFiles) -> None:
    lab, same = Lab("x"), LabSpec(kernel="6.1", nodes=2, memory=1024, cpus=2)
    others = {"kernel": "7.3", "nodes": 1, "memory": 512, "cpus": 1, "durable": True, "nics": ("igb",)}
    others["disk"] = str(Path(__file__).resolve())
    for field, value in others.items():
        option = {"nics": "nic igb", "durable": "durable yes"}.get(field, f"{field} {value}")
        with pytest.raises(LabError, match=rf"--{option}: .*lab.py down"):
            lab.up(dataclasses.replace(same, **{field: value}))  # type: ignore[arg-type]


def test_invalid_requests_are_rejected(files: LabFiles) -> None:
    lab, valid = Lab("x"), LabSpec(kernel="6.1", nodes=2, memory=1024, cpus=2)
    with pytest.raises(LabError, match="--nodes 3"):
        lab.up(dataclasses.replace(valid, nodes=3))
    with pytest.raises(LabError, match="--nic 'igb,mac=1'"):
        lab.up(dataclasses.replace(valid, nics=("igb,mac=1",)))
    for disk, error in (("/none", "--disk /none: there is no such file"), ("/", "--disk /")):
        with pytest.raises(LabError, match=error):
            lab.up(dataclasses.replace(valid, disk=disk))
    with pytest.raises(LabError, match="snapshot '-s'"):
        lab.up(valid, "-s")
    with pytest.raises(LabError, match="node1, node2 not running"):
        lab.snapshot("s")
    with pytest.raises(LabError, match=r"no snapshot 's' \(available: none\)"):
        lab.restore("s")
    with pytest.raises(LabError, match=r"no node 'node3' \(available: node1, node2\)"):
        lab.ssh_argv("node3")


def test_next_layer_is_numbered_above_existing_ones(files: LabFiles) -> None:
    node = files.require_state().nodes[0]
    assert disks.next_layer(files.node_folder(node)) == "disk0.qcow2"
    for number in (0, 2, 10):
        (files.node_folder(node) / f"disk{number}.qcow2").touch()
    assert disks.next_layer(files.node_folder(node)) == "disk11.qcow2"


# -- common functions --------------------------------------------------------------------------------


def test_built_dir_is_atomic(tmp_path: Path) -> None:
    target = tmp_path / "t"
    for text in ("one", "two"):
        with common.built_dir(target) as work:
            (work / "f").write_text(text)
    with pytest.raises(RuntimeError), common.built_dir(target) as work:
        (work / "f").write_text("three")
        raise RuntimeError
    assert (target / "f").read_text() == "two"
    assert os.listdir(tmp_path) == ["t"]


def test_step_reports_its_progress(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "HEARTBEAT", 0.02)
    for usual in (120, 1):
        with common.step("image", 120):
            time.sleep(0.1)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == f"image: usually {usual} s"
        assert lines[1].startswith("image: 0 s, usually") and lines[-1].startswith("image: done in 0.")


def test_error_contains_the_output_of_the_command() -> None:
    with pytest.raises(LabError, match=r"exit 3 from sh -c .*\nwhy"):
        common.run(["sh", "-c", "echo why >&2; exit 3"])
    with pytest.raises(LabError, match="no-such-command is not installed"):
        common.run(["no-such-command"])
    assert common.run(["cat"], given="through") == "through"


def test_words_after_the_dashes_are_passed_to_the_node() -> None:
    options = command_line.parse_arguments(["ssh", "node1", "--name", "x", "--", "ls", "--name", "--"])
    assert (options.name, options.node, options.remote) == ("x", "node1", ["ls", "--name", "--"])
    with pytest.raises(SystemExit):
        command_line.parse_arguments(["down", "--", "ls"])


def test_packages_command_needs_no_options() -> None:
    done = subprocess.run(
        [sys.executable, FILES / "lab.py", "packages"], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == set(common.PACKAGES)
