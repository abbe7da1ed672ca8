# Copyright (c) 2026 podnet.datapath contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Send requests to HOST PORT, each by a connection of its own, until standard input ends.

The next one follows a tenth of a second, times PATIENCE, after a reply. A machine runs this file. It prints
the number of requests and the failures, each with its time.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time

INTERVAL = 0.1  # seconds
TIMEOUT = 3.0


def main() -> None:
    host, port, patience = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    requests, failures = 0, []
    while not select.select([sys.stdin], [], [], patience * INTERVAL)[0]:
        requests += 1
        connection = http.client.HTTPConnection(host, port, timeout=patience * TIMEOUT)
        try:
            connection.request("GET", "/hostname")
            status = connection.getresponse().status
            if status != http.client.OK:
                failures.append(f"{time.time():.1f} HTTP {status}")
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{time.time():.1f} {error!r}")
        finally:
            connection.close()
    print(json.dumps({"requests": requests, "failures": failures}))


main()
