"""Whether this container's process does its work: what a container engine's health check asks.

    python -m api.alive web
    python -m api.alive worker

Standard library only: it is started anew every few seconds.
"""

from __future__ import annotations

import http.client
import os
import socket
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

# A worker gives four signs of life per lease; a machine that is busy may delay some of them.
SILENCE_SECONDS = 60.0


def web(port: int = 8000) -> str:
    """Why the web process on this machine's port cannot serve; empty where it can."""
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
        with closing(connection):
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            said = answer.read(2000).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"nothing answers on port {port}: {error}"
    return "" if answer.status == http.client.OK else f"it answers {answer.status}: {said}"


def worker(data_dir: Path) -> str:
    """Why no worker of this host works on a data folder; empty where one does."""
    host = socket.gethostname()
    ledger = data_dir / "ledger.sqlite3"
    query = "SELECT max(seen_at) FROM workers WHERE id LIKE ? || '-%'"
    try:
        with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True, timeout=4)) as opened:
            (seen_at,) = opened.execute(query, (host,)).fetchone()
    except sqlite3.Error as error:
        return f"{ledger} cannot be read: {error}"
    if seen_at is None:
        return f"no worker of {host} has given a sign of life"
    silent = time.time() - seen_at
    return "" if silent < SILENCE_SECONDS else f"the worker has been silent for {silent:.0f} s"


def main(arguments: list[str]) -> int:
    """0 where the process named by the argument does its work, else 1 and the reason."""
    if arguments == ["web"]:
        reason = web()
    elif arguments == ["worker"]:
        reason = worker(Path(os.environ["KGO_DATA_DIR"]))
    else:
        reason = f"received {arguments}, expected web or worker"
    if reason:
        print(reason, file=sys.stderr)
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
