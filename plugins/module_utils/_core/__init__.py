# Copyright (c) 2026 podnet.datapath contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plans, changes and errors of every subsystem; files that are replaced atomically.

Callers: all
May import: nothing
"""

__all__ = ["arguments", "bundle", "command", "files", "lock", "plan", "ssh_origin"]
