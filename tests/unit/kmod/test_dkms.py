# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The parsed output of DKMS, and the plan for a module that it builds."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.podnet.datapath.plugins.module_utils._kmod import (
    dkms,
    dkms_plan,
    files,
    loading,
    module,
)
from ansible_collections.podnet.datapath.plugins.module_utils._node import facts

KERNEL, OTHER = "6.1.0-56-amd64", "6.1.0-57-amd64"
CONF = 'PACKAGE_NAME="meta"\nPACKAGE_VERSION="0.1.0"\n'
FILES = {"dkms.conf": CONF, "meta.c": "int x;\n"}
DESIRED = dkms_plan.Desired("meta", "0.1.0", KERNEL, FILES)
INSTALLED = dkms_plan.Entry("0.1.0", KERNEL, "installed", True)
THERE = dkms_plan.Current(
    running=KERNEL,
    source=FILES,
    versions=("0.1.0",),
    broken=(),
    entries=(INSTALLED,),
    srcversion="NEW",
    filename=f"/lib/modules/{KERNEL}/updates/dkms/meta.ko",
    loaded=loading.Loaded("NEW"),
    autoload=loading.autoload_text("meta"),
)
NOTHING = dkms_plan.Current(KERNEL, None, (), (), (), "", "", None, "")


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("", []),
        (
            "Error! Could not locate dkms.conf file.\n"
            "File: /var/lib/dkms/meta/1/source/dkms.conf does not exist.",
            [],
        ),
        # 2.8.1 to 2.8.4
        ("meta, 0.1.0: added", [("0.1.0", "", "added", True)]),
        ("meta, 0.1.0, 5.4.0-26-generic, x86_64: built", [("0.1.0", "5.4.0-26-generic", "built", True)]),
        (
            "meta, 0.1.0, 4.18.0-80.el8.x86_64, x86_64: installed-weak from 4.18.0-80.el8.x86_64",
            [("0.1.0", "4.18.0-80.el8.x86_64", "installed-weak", True)],
        ),
        # 2.8.5 to 3.0
        ("meta/0.1.0: added", [("0.1.0", "", "added", True)]),
        ("meta/0.1.0, 6.1.0-56-amd64, x86_64: installed", [("0.1.0", KERNEL, "installed", True)]),
        (
            "meta/0.1.0, 6.1.0-56-amd64, x86_64: installed (original_module exists)",
            [("0.1.0", KERNEL, "installed", True)],
        ),
        (
            "meta/0.1.0, 6.1.0-56-amd64, x86_64: installed "
            "(WARNING! Diff between built and installed module!)",
            [("0.1.0", KERNEL, "installed", False)],
        ),
        (
            "meta/0.1.0, 6.1.0-56-amd64, x86_64: built (WARNING! Missing some built modules!)",
            [("0.1.0", KERNEL, "built", False)],
        ),
        # 3.1 and 3.2
        ("meta/0.1.0: broken", [("0.1.0", "", "broken", True)]),
        (
            "meta/0.1.0, 6.1.0-56-amd64, x86_64: installed (Original modules exist)"
            " (Differences between built and installed modules)\n"
            "meta/0.0.9, 6.1.0-57-amd64, x86_64: built "
            "(Built modules are missing in the kernel modules folder)",
            [("0.1.0", KERNEL, "installed", False), ("0.0.9", OTHER, "built", False)],
        ),
        # Other packages whose names begin with or contain the name of the driver.
        ("metal/1, 6.1.0-56-amd64, x86_64: installed\nnft-meta/2: added", []),
    ],
)
def test_status_is_parsed_in_each_format(text: str, entries: list[tuple[str, str, str, bool]]) -> None:
    assert dkms_plan.parse_status(text, "meta") == tuple(dkms_plan.Entry(*entry) for entry in entries)


def actions(current: dkms_plan.Current, desired: dkms_plan.Desired = DESIRED) -> list[str]:
    return [step.action for step in dkms_plan.plan(current, desired).steps]


def changed(**values: object) -> dkms_plan.Current:
    return dataclasses.replace(THERE, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        (THERE, []),
        (NOTHING, ["deploy", "autoload", "load"]),
        (changed(source={**FILES, "old.h": ""}), ["deploy", "reload"]),
        (changed(source={"dkms.conf": CONF}), ["deploy", "reload"]),
        # DKMS has the source but no build; the loaded module was built from it.
        (
            changed(entries=(dkms_plan.Entry("0.1.0", "", "added", True),), srcversion="", filename=""),
            ["deploy"],
        ),
        # The node booted another kernel.
        (
            changed(
                entries=(dkms_plan.Entry("0.1.0", OTHER, "installed", True),), srcversion="", loaded=None
            ),
            ["deploy", "load"],
        ),
        (changed(entries=(dkms_plan.Entry("0.1.0", KERNEL, "built", True),)), ["install"]),
        (changed(entries=(dkms_plan.Entry("0.1.0", KERNEL, "installed", False),)), ["install"]),
        (changed(autoload="meta\n"), ["autoload"]),
        (changed(loaded=None), ["load"]),
        (changed(loaded=loading.Loaded("OLD")), ["reload"]),
        (changed(versions=("0.0.9", "0.1.0")), ["retire"]),
    ],
)
def test_plan_has_only_steps_for_differences(current: dkms_plan.Current, expected: list[str]) -> None:
    assert actions(current) == expected


@pytest.mark.parametrize(
    "loaded",
    [
        loading.Loaded("OLD", 1),
        loading.Loaded("OLD", 0, ("pn0",)),
        loading.Loaded("OLD", 0, (), ("x in /run/netns/y",)),
    ],
)
def test_module_in_use_stays_and_is_reported(loaded: loading.Loaded) -> None:
    planned = dkms_plan.plan(changed(loaded=loaded), DESIRED)
    assert planned.steps == () and "until the next boot" in planned.pending
    for name in (*loaded.managed, *loaded.foreign):
        assert name in planned.pending
    planned = dkms_plan.plan(changed(loaded=loaded, source={}), DESIRED)
    assert planned.wants("deploy") and not planned.wants("reload") and planned.pending


def test_managed_devices_are_removed_only_on_request_and_without_foreign_ones() -> None:
    asked = dataclasses.replace(DESIRED, reload="managed")
    planned = dkms_plan.plan(changed(loaded=loading.Loaded("OLD", 0, ("pn0", "pn1"))), asked)
    assert [step.action for step in planned.steps] == ["reload"] and not planned.pending
    assert "pn0, pn1" in planned.steps[0].reason
    planned = dkms_plan.plan(changed(loaded=loading.Loaded("OLD", 0, ("pn0",), ("guest0",))), asked)
    assert not planned.steps and "guest0" in planned.pending and "pn0" not in planned.pending
    planned = dkms_plan.plan(changed(loaded=loading.Loaded("OLD", 1, ("pn0",))), asked)
    assert not planned.steps and planned.pending


SIGNING = dkms_plan.Signing("/etc/keys/mok.key", "/etc/keys/mok.pem", "4CFE")
SIGNED = dataclasses.replace(DESIRED, signing=SIGNING)


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        (THERE, ["sign", "deploy"]),
        (changed(signing=SIGNING.text), ["deploy"]),
        (changed(signing=SIGNING.text, signed_by="4CFF"), ["deploy"]),
        (changed(signing=SIGNING.text, signed_by="4CFE"), []),
    ],
)
def test_module_is_rebuilt_for_another_key(current: dkms_plan.Current, expected: list[str]) -> None:
    assert actions(current, SIGNED) == expected


def test_delivered_module_is_removed() -> None:
    path = files.delivered_file("meta", KERNEL)
    planned = dkms_plan.plan(changed(delivered=(path,)), DESIRED)
    assert [str(change) for change in planned.steps] == [f"retire: {path} was built on another node"]


def test_module_for_another_kernel_is_not_loaded() -> None:
    desired = dataclasses.replace(DESIRED, kernel=OTHER)
    assert actions(changed(loaded=None), desired) == ["deploy"]
    assert actions(changed(loaded=loading.Loaded("OLD")), desired) == ["deploy"]


ENTRIES = st.builds(
    dkms_plan.Entry,
    st.sampled_from(["0.0.9", "0.1.0"]),
    st.sampled_from([KERNEL, OTHER]),
    st.sampled_from(["built", "installed"]),
    st.booleans(),
)
CURRENTS = st.builds(
    dkms_plan.Current,
    running=st.sampled_from([KERNEL, OTHER]),
    source=st.none()
    | st.just(FILES)
    | st.dictionaries(st.sampled_from([*FILES, "x.h"]), st.text(max_size=3)),
    versions=st.lists(st.sampled_from(["0.0.9", "0.1.0"]), unique=True).map(tuple),
    broken=st.just(()),
    entries=st.lists(ENTRIES, max_size=3, unique_by=lambda e: (e.version, e.kernel)).map(tuple),
    srcversion=st.sampled_from(["", "OLD", "NEW"]),
    filename=st.just(""),
    loaded=st.none() | st.builds(loading.Loaded, st.sampled_from(["OLD", "NEW"]), st.integers(0, 1)),
    autoload=st.sampled_from(["", "meta", loading.autoload_text("meta")]),
)


def carry_out(
    current: dkms_plan.Current, desired: dkms_plan.Desired, planned: loading.KmodPlan
) -> dkms_plan.Current:
    """Return the state after the steps, in a model of a node."""
    state = current
    if planned.wants("deploy", "install"):
        rest = [e for e in state.entries if (e.version, e.kernel) != (desired.version, desired.kernel)]
        new = dkms_plan.Entry(desired.version, desired.kernel, "installed", True)
        state = dataclasses.replace(
            state,
            source=desired.files,
            versions=tuple({*state.versions, desired.version}),
            entries=(*rest, new),
            srcversion="NEW",
        )
    if planned.wants("autoload"):
        state = dataclasses.replace(state, autoload=loading.autoload_text(desired.name))
    # Whether to load a module is decided after the build, when its srcversion is known.
    again = dkms_plan.plan(state, desired)
    if again.wants("load", "reload"):
        state = dataclasses.replace(state, loaded=loading.Loaded(state.srcversion, 0, ()))
    return dataclasses.replace(state, versions=(desired.version,))


@given(CURRENTS, st.sampled_from([KERNEL, OTHER]))
def test_plan_is_empty_after_its_steps(current: dkms_plan.Current, kernel: str) -> None:
    desired = dataclasses.replace(DESIRED, kernel=kernel)
    planned = dkms_plan.plan(current, desired)
    after = carry_out(current, desired, planned)
    assert not dkms_plan.plan(after, desired).steps
    if current.loaded and current.loaded.used:
        assert after.loaded == current.loaded
    parts = dkms_plan.diff(current, desired, planned)
    assert [part["after_header"].rsplit("/", 1)[-1] for part in parts[1:]] == dkms_plan.differing(
        current.source, FILES
    )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "Meta"}, "name"),
        ({"name": "../x"}, "name"),
        ({"version": "../1"}, "version"),
        ({"version": ""}, "version"),
        ({"version": "0.2.0"}, "PACKAGE_VERSION '0.1.0'"),
        ({"files": {"meta.c": ""}}, "dkms.conf"),
        ({"files": {**FILES, "/etc/passwd": ""}}, "/etc/passwd"),
        ({"files": {**FILES, "a/../../b": ""}}, "a/../../b"),
        ({"files": {**FILES, "dkms.conf": "PACKAGE_NAME=beta\nPACKAGE_VERSION=0.1.0\n"}}, "'beta'"),
    ],
)
def test_invalid_option_is_reported_with_its_value(change: Mapping[str, object], word: str) -> None:
    found = dkms_plan.option_problems(dataclasses.replace(DESIRED, **change))  # type: ignore[arg-type]
    assert any(word in mistake for mistake in found)


def test_valid_options_have_no_problem() -> None:
    assert dkms_plan.option_problems(DESIRED) == []


SECURITY: facts.Security = {
    "secure_boot": True,
    "lockdown": "integrity",
    "signature_required": True,
    "certificate": "/var/lib/dkms/mok.pub",
    "key_enrolled": False,
}
OPEN: facts.Security = {**SECURITY, "secure_boot": False, "lockdown": "none", "signature_required": False}


@pytest.mark.parametrize(
    ("said", "security", "words"),
    [
        (
            "modprobe: ERROR: could not insert 'meta': Key was rejected by service",
            SECURITY,
            ["Secure Boot is on", "mokutil --import /var/lib/dkms/mok.pub"],
        ),
        (
            "could not insert 'meta': Required key not available",
            OPEN,
            ["signature", "meta_driver_signing_key"],
        ),
        ("could not insert 'meta': Operation not permitted", SECURITY, ["lockdown is integrity"]),
        ("could not insert 'meta': Operation not permitted", OPEN, ["Operation not permitted"]),
        ("could not insert 'meta': Exec format error", OPEN, ["Exec format error", "headers"]),
        ("could not insert 'meta': Unknown symbol in module", OPEN, ["Unknown symbol", "newest installed"]),
        (
            "could not insert 'meta': Device or resource busy",
            OPEN,
            ["Device or resource busy", "kernel log"],
        ),
        ("", OPEN, ["no output"]),
    ],
)
def test_rejection_by_the_kernel_is_explained(said: str, security: facts.Security, words: list[str]) -> None:
    text = loading.explain_refusal("meta", said, security)
    for word in words:
        assert word in text


def test_snapshot_restores_files_and_folders(tmp_path: Path) -> None:
    folder, file, absent = tmp_path / "tree", tmp_path / "file", tmp_path / "absent"
    (folder / "1.0").mkdir(parents=True)
    (folder / "1.0/a").write_text("old")
    (folder / "link").symlink_to("1.0")
    file.write_text("old")
    (tmp_path / "saved").mkdir()
    snapshot = files.Snapshot(str(tmp_path / "saved"), [str(folder), str(file), str(absent)])
    (folder / "1.0/a").write_text("new")
    (folder / "1.0/b").write_text("new")
    (folder / "link").unlink()
    file.unlink()
    absent.mkdir()
    snapshot.restore()
    assert dkms.read_tree(str(folder / "1.0")) == {"a": "old"}
    assert os.readlink(folder / "link") == "1.0"
    assert file.read_text() == "old" and not absent.exists()


NAMES = st.from_regex(r"[a-z]{1,4}(/[a-z]{1,4}\.c)?", fullmatch=True)
TREES = st.dictionaries(NAMES, st.text(st.characters(codec="utf-8"), max_size=20), max_size=4)


@settings(max_examples=30)
@given(TREES.filter(lambda files: not any(f"{a}/" in b for a in files for b in files)))
def test_written_tree_reads_back_equal(files: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        dkms.write_tree(folder, files)
        assert dkms.read_tree(folder) == files


def test_scripts_become_executable(tmp_path: Path) -> None:
    dkms.write_tree(str(tmp_path), {"configure": "#!/bin/sh\n", "a.c": "int a;\n"})
    assert os.access(tmp_path / "configure", os.X_OK) and not os.access(tmp_path / "a.c", os.X_OK)


def test_missing_folder_reads_as_none(tmp_path: Path) -> None:
    assert dkms.read_tree(str(tmp_path / "none")) is None


def test_only_one_run_changes_a_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "LOCKS", str(tmp_path))
    with dkms.DkmsModule("meta").locked():
        with pytest.raises(loading.ModuleError, match="another run"), dkms.DkmsModule("meta").locked():
            pass
        with dkms.DkmsModule("other").locked():
            pass


def test_role_sends_the_driver_without_build_artefacts(tmp_path: Path) -> None:
    role = Path(__file__).resolve().parents[3] / "roles/meta_driver"
    tracked = ["git", "ls-files", "."]
    names = subprocess.run(
        tracked, cwd=role / "files", capture_output=True, text=True, check=True
    ).stdout.split()
    copy = tmp_path / "roles/meta_driver"
    (copy / "files").mkdir(parents=True)
    (copy / "tasks").mkdir()
    (copy / "vars").symlink_to(role / "vars")
    for name in names:
        (copy / "files" / name).write_text((role / "files" / name).read_text())
    for left in ("meta.ko", "meta.o", "meta.mod.c", "meta_config.h", ".meta.o.cmd", "Module.symvers"):
        (copy / "files" / left).write_text("left by a build")
    (copy / "tasks/main.yml").write_text(
        "- ansible.builtin.copy:\n"
        "    dest: '{{ playbook_dir }}/sent.json'\n"
        '    content: "{{ dict(version=__meta_driver_version, files=__meta_driver_files) | to_json }}"\n'
    )
    (tmp_path / "play.yml").write_text(
        "- {hosts: localhost, connection: local, gather_facts: false, roles: [meta_driver]}\n"
    )
    run = subprocess.run(
        ["ansible-playbook", "play.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    sent = json.loads((tmp_path / "sent.json").read_text())
    assert sent["files"] == {name: (role / "files" / name).read_text() for name in names}
    assert dkms_plan.option_problems(dkms_plan.Desired("meta", sent["version"], KERNEL, sent["files"])) == []
