# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the lab decides before it starts anything: mirrors, images, arguments, names, files."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

FILES = Path(__file__).resolve().parents[3] / "roles/lab_node/files"
sys.path.insert(0, str(FILES))

import lab as command_line  # noqa: E402
from lablib import access, common, debian, image, nodes, qemu, recipe  # noqa: E402
from lablib.common import LabError  # noqa: E402
from lablib.debian import Mirror, Source  # noqa: E402
from lablib.state import (  # noqa: E402
    PORTS,
    Node,
    State,
    alive,
    choose_port,
    process_start,
)

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
def test_both_styles_say_the_same(source: Source) -> None:
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
def test_no_text_breaks_the_parsers(text: str) -> None:
    for source in debian.parse_one_line(text) + debian.parse_deb822(text):
        assert source.uris


def test_deb822_with_all_its_liberties() -> None:
    text = """\
# the machine's own
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


def test_read_sources_takes_what_apt_takes(tmp_path: Path) -> None:
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
def test_debian_is_told_from_other_vendors(others: list[Source]) -> None:
    assert debian.choose_mirror([*others, SECURITY, ARCHIVE]) == Mirror(ARCHIVE, SECURITY)


def test_without_debian_there_is_no_mirror() -> None:
    assert debian.choose_mirror([SECURITY, vendor("https://x.example", "noble", "main")]) is None


def test_an_archive_of_old_days_is_an_archive() -> None:
    dated = vendor("http://snapshot.example/archive/debian/20250520T000000Z", "bookworm", "main")
    assert debian.choose_mirror([dated]) == Mirror(dated, None)


def test_the_environment_chooses_another_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODNET_DEBIAN_MIRROR", "http://near.example/debian")
    lines = debian.sources_lines(debian.machine_mirror(), "trixie", ["main"], backports=True)
    assert [line.split("] ")[1] for line in lines] == [
        f"http://near.example/debian {suite} main"
        for suite in ("trixie", "trixie-updates", "trixie-backports")
    ]


def test_sources_name_a_keyring_that_a_line_can_name() -> None:
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


def test_mirror_lists_are_followed(tmp_path: Path) -> None:
    listing = tmp_path / "debian.list"
    listing.write_text("# near\n\nhttp://near.example/debian priority:1\nhttp://far.example/debian\n")
    assert debian.resolve_uri(f"mirror+file:{listing}") == "http://near.example/debian"
    assert debian.resolve_uri(f"mirror+file://{listing}") == "http://near.example/debian"
    assert debian.resolve_uri("http://x.example/debian") == "http://x.example/debian"
    listing.write_text("# none\n")
    with pytest.raises(LabError, match="PODNET_DEBIAN_MIRROR"):
        debian.resolve_uri(f"mirror+file:{listing}")


def test_only_settings_that_reach_a_mirror_are_taken() -> None:
    dump = (
        'APT "";\nAcquire "";\nAcquire::http "";\nAcquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::Check-Valid-Until "false";\nDir::Etc "etc/apt";\nAcquire::Languages:: "none";\n'
    )
    assert debian.apt_settings(dump) == [
        'Acquire::http::Proxy "http://proxy.example:3128";',
        'Acquire::Check-Valid-Until "false";',
    ]


# -- images ------------------------------------------------------------------------------------------


def test_only_the_kernel_comes_from_backports() -> None:
    assert [name for name in recipe.packages("7.3") if "/" in name] == [
        "linux-image-amd64/trixie-backports",
        "linux-headers-amd64/trixie-backports",
    ]
    assert not [name for kernel in ("6.1", "6.12") for name in recipe.packages(kernel) if "/" in name]


def test_an_image_is_kept_by_its_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_newest_image_of_a_recipe_counts(cache: Path) -> None:
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


def test_the_first_boot_has_the_arguments_of_update_grub() -> None:
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
def test_qemu_versions_compare_as_numbers(text: str, number: int) -> None:
    assert qemu.major(text) == number


def argv(**changes: object) -> list[str]:
    values = {
        "title": "t",
        "index": 1,
        "cpus": 2,
        "memory": 1024,
        "port": 20001,
        "layer": "disk0.qcow2",
        "wire_fd": 7,
        **changes,
    }
    accelerator = str(values.pop("accelerator", "tcg"))
    return qemu.node_argv(qemu.Emulator(("qemu",), ("qemu-img",), "10.0"), accelerator, **values)  # type: ignore[arg-type]


def test_a_state_is_taken_in_by_the_same_machine_alone(made: nodes.Lab) -> None:
    state = made.need()
    emulator = qemu.Emulator(("loader", "qemu"), ("qemu-img",), "10.0")
    machine = made._machine(emulator, state)
    state.nodes[0].layer = "disk7.qcow2"
    assert made._machine(dataclasses.replace(emulator, system=("elsewhere/qemu",)), state) == machine
    assert made._machine(dataclasses.replace(emulator, version="10.1"), state) != machine
    assert made._machine(emulator, dataclasses.replace(state, memory=2048)) != machine


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_paths_are_relative(accelerator: str) -> None:
    words = " ".join(argv(accelerator=accelerator))
    assert not re.search(r"(file=|path=|unix:)/", words)
    assert ("-cpu host" in words) == (accelerator == "kvm")
    assert "hostfwd=tcp:127.0.0.1:20001-:22" in words and "tap,id=wire,fd=7" in words


@pytest.mark.parametrize("index", range(1, nodes.MAX_NODES + 1))
def test_names_of_interfaces_fit_the_macs(index: int) -> None:
    overlay = recipe.overlay_files()
    words = " ".join(argv(index=index))
    for name, mac in (("mgmt0", qemu.MGMT_MAC), ("wire0", qemu.WIRE_MAC)):
        link = overlay[f"etc/systemd/network/10-{name}.link"].decode()
        assert f"Name={name}" in link
        assert mac.format(index) in link and f"mac={mac.format(index)}" in words


# -- labs --------------------------------------------------------------------------------------------


@given(st.text(max_size=30))
@example("lab")
@example("-lab")
@example("lab\n")
@example("../lab")
def test_a_lab_has_a_name_fit_for_paths_and_namespaces(name: str) -> None:
    if re.fullmatch(r"(?!-)[a-z0-9-]{1,20}", name) and not name.endswith("\n"):
        assert len(nodes.Lab(name).namespace) < 40
    else:
        with pytest.raises(LabError, match="--name"):
            nodes.Lab(name)


def test_a_state_survives_its_file() -> None:
    state = State("6.1", "/image", 2, 1024, "tcg", "why", "10.0", nodes=[Node(1, 20001, "disk0.qcow2", 9, 8)])
    assert State.from_json(json.dumps(dataclasses.asdict(state))) == state


def test_a_process_is_known_by_its_start() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        node = Node(1, 20001, pid=child.pid, started=process_start(child.pid))
        assert alive(node)
        assert not alive(dataclasses.replace(node, started=node.started + 1))
    finally:
        child.kill()
    child.wait()
    assert not alive(node)
    assert not alive(Node(1, 20001))


def test_ports_stay_the_same_and_give_way() -> None:
    first = choose_port("seed", ())
    assert choose_port("seed", ()) == first
    second = choose_port("seed", {first})
    assert second != first and second in PORTS
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", second))
        taken.listen()
        assert choose_port("seed", {first}) not in (first, second)


def test_a_lab_that_is_not_there_is_told_as_such(cache: Path) -> None:
    assert nodes.Lab("x").report() == {"name": "x", "state": "absent", "nodes": []}
    with pytest.raises(LabError, match="up --name x"):
        nodes.Lab("x").need()


@pytest.fixture
def made(cache: Path) -> nodes.Lab:
    """A lab with its files, and no QEMU."""
    lab = nodes.Lab("x")
    lab.folder.mkdir(parents=True)
    access.make_key(lab.folder / "ssh_key")
    state = State("6.1", "/image", 2, 1024, "tcg", "why", "10.0", nodes=[Node(1, 20001), Node(2, 20002)])
    for node in state.nodes:
        lab.node_folder(node).mkdir()
        access.write_identity(node, lab.node_folder(node), (lab.folder / "ssh_key.pub").read_text())
    lab._save(state)
    return lab


def test_an_identity_has_keys_with_their_modes(made: nodes.Lab) -> None:
    with tarfile.open(made.folder / "node2/identity.tar") as archive:
        modes = {entry.name: entry.mode for entry in archive}
        texts = {name: archive.extractfile(name).read().decode() for name in modes}  # type: ignore[union-attr]
    assert modes["etc/ssh/ssh_host_ed25519_key"] == modes["root/.ssh/authorized_keys"] == 0o600
    assert texts["etc/hostname"] == "node2\n"
    assert "172.31.0.2/30" in texts["etc/systemd/network/20-wire0.network"]
    assert "fd31::2/64" in texts["etc/systemd/network/20-wire0.network"]
    key = texts["etc/ssh/ssh_host_ed25519_key.pub"].split()[1]
    line = access.known_hosts_line(made.need().nodes[1], made.folder / "node2")
    assert line == f"[127.0.0.1]:20002 ssh-ed25519 {key}\n"
    assert texts["root/.ssh/authorized_keys"] == (made.folder / "ssh_key.pub").read_text()


def test_ssh_and_ansible_read_the_same_from_their_files(made: nodes.Lab) -> None:
    lab_nodes = made.need().nodes
    (made.folder / "ssh_config").write_text(access.ssh_config_text(made.folder, lab_nodes))
    shown = subprocess.run(
        [*made.ssh_argv("node2")[:-1], "-G", "node2"], capture_output=True, text=True, check=True
    )
    settings = dict(line.split(" ", 1) for line in shown.stdout.splitlines())
    assert (settings["hostname"], settings["port"], settings["user"]) == ("127.0.0.1", "20002", "root")
    assert settings["stricthostkeychecking"] == "true"

    group = yaml.safe_load(access.inventory_text(made.folder, lab_nodes))["lab"]
    assert group["hosts"] == {"node1": {"ansible_port": 20001}, "node2": {"ansible_port": 20002}}
    assert group["vars"]["ansible_ssh_private_key_file"] == settings["identityfile"]
    assert f"UserKnownHostsFile={made.folder}/known_hosts" in shlex.split(
        group["vars"]["ansible_ssh_common_args"]
    )


def test_what_a_lab_is_made_of_does_not_change_under_way(made: nodes.Lab) -> None:
    same = {"kernel": "6.1", "count": 2, "memory": 1024, "cpus": 2}
    others = {"kernel": "7.3", "count": 1, "memory": 512, "cpus": 1, "nics": ["igb"]}
    for option, value in others.items():
        named = {"count": "nodes 1", "nics": "nic igb"}.get(option, f"{option} {value}")
        with pytest.raises(LabError, match=rf"--{named}.*lab.py down"):
            made.up(**{**same, option: value})  # type: ignore[arg-type]
    with pytest.raises(LabError, match="--nodes 3"):
        made.up(**{**same, "count": 3})  # type: ignore[arg-type]
    with pytest.raises(LabError, match="--nic 'igb,mac=1'"):
        made.up(**same, nics=["igb,mac=1"])  # type: ignore[arg-type]
    with pytest.raises(LabError, match="node1, node2 not running"):
        made.snapshot("s")
    with pytest.raises(LabError, match=r"no snapshot 's' \(it has: none\)"):
        made.restore("s")


def test_disk_layers_are_never_named_twice(made: nodes.Lab) -> None:
    node = made.need().nodes[0]
    assert made._next_layer(node) == "disk0.qcow2"
    for number in (0, 2, 10):
        (made.node_folder(node) / f"disk{number}.qcow2").touch()
    assert made._next_layer(node) == "disk11.qcow2"


# -- common things -----------------------------------------------------------------------------------


def test_a_folder_is_built_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "t"
    for text in ("one", "two"):
        with common.built_dir(target) as work:
            (work / "f").write_text(text)
    with pytest.raises(RuntimeError), common.built_dir(target) as work:
        (work / "f").write_text("three")
        raise RuntimeError
    assert (target / "f").read_text() == "two"
    assert os.listdir(tmp_path) == ["t"]


def test_long_steps_tell_of_themselves(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "HEARTBEAT", 0.02)
    for usual in (120, 1):
        with common.step("image", 120):
            time.sleep(0.1)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == f"image: usually {usual} s"
        assert lines[1].startswith("image: 0 s, usually") and lines[-1].startswith("image: done in 0.")


def test_failing_commands_say_what_they_said() -> None:
    with pytest.raises(LabError, match=r"exit 3 from sh -c .*\nwhy"):
        common.run(["sh", "-c", "echo why >&2; exit 3"])
    with pytest.raises(LabError, match="no-such-command is not installed"):
        common.run(["no-such-command"])
    assert common.run(["cat"], given="through") == "through"


def test_what_follows_the_dashes_is_for_the_node() -> None:
    options = command_line.parse_arguments(["ssh", "node1", "--name", "x", "--", "ls", "--name", "--"])
    assert (options.name, options.node, options.remote) == ("x", "node1", ["ls", "--name", "--"])
    with pytest.raises(SystemExit):
        command_line.parse_arguments(["down", "--", "ls"])


def test_packages_need_nothing_to_be_told() -> None:
    done = subprocess.run(
        [sys.executable, FILES / "lab.py", "packages"], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == set(common.PACKAGES)
