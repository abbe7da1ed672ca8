# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Count the instructions that the running kernel's verifier processes for each program.

usage: python3 -m bench.verifier.guest datapath.o
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import sys

from ansible_collections.podnet.datapath.plugins.module_utils._kernel import bpf, libbpf

MARK = "VERIFIED "
# struct bpf_prog_info (include/uapi/linux/bpf.h)
BPF_OBJ_GET_INFO_BY_FD = 15
INFO_SIZE, VERIFIED_INSNS = 224, 216


def verified(path: str) -> dict[str, int]:
    """Load the object; return the processed instructions by program."""
    found = {}
    with libbpf.BpfObject(path) as programs:
        programs.load()
        for name, fd in programs.programs.items():
            info = ctypes.create_string_buffer(INFO_SIZE)
            attributes = struct.pack("=IIQ", fd, INFO_SIZE, ctypes.addressof(info))
            bpf.bpf(BPF_OBJ_GET_INFO_BY_FD, attributes)
            found[name] = struct.unpack_from("=I", info, VERIFIED_INSNS)[0]
    return found


if __name__ == "__main__":
    print(MARK + json.dumps([os.uname().release, verified(sys.argv[1])]), flush=True)
