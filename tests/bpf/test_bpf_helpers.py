# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Detection of BPF helpers, on the running kernel."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf, libbpf
from ansible_collections.podnet.datapath.plugins.module_utils._node import bpf_helpers
from tests.bpf import coverage

HEADER = Path("/usr/include/linux/bpf.h")
SOURCES = Path(__file__).resolve().parents[2] / "roles/bpf_datapath/files"
OLDER = 152  # bpf_redirect_neigh, of Linux 5.10


def test_helpers_lists_all_recent_helpers_of_the_programs() -> None:
    """In the kernel's header helpers are numbered from FN(unspec), or explicitly."""
    names = re.findall(r"^\s+FN\((\w+)[,)]", HEADER.read_text(), re.MULTILINE)
    numbers = {f"bpf_{name}": number for number, name in enumerate(names)}
    assert numbers["bpf_unspec"] == 0
    text = "".join(path.read_text() for path in SOURCES.glob("*.[ch]"))
    called = {name for name in re.findall(r"\b(bpf_\w+)\(", text) if numbers.get(name, 0) >= OLDER}
    assert {name: numbers[name] for name in called} == {**bpf.HELPERS, **bpf.SOCKET_HELPERS}


def test_has_helper() -> None:
    assert all(bpf.has_helper(number) for number in bpf.HELPERS.values())
    assert not bpf.has_helper(100000)
    assert bpf_helpers.missing() == []
    assert bpf.has_socket_programs()
    assert not bpf.has_helper(bpf.SOCKET_HELPERS["bpf_set_retval"])
    assert libbpf.has_socket_iterator()
    assert not bpf.has_iterator(1)


def test_pointer_checks() -> None:
    """Only checks of pointers that a global function gets, which the coverage does not count."""
    source = """\
static __noinline bool local(const struct tuple *t)
{
    return !t;
}

__noinline bool global(struct __sk_buff *skb, const struct tuple *t,
               __u32 place)
{
    struct connection *c = ct_find(t);

    if (!t || !place || !c)
        return false;
    return !t->proto;
}
"""
    assert coverage.pointer_checks(source) == {(11, "!t")}
