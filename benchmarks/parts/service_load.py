"""What the benchmark of the service does beside asking for advice: streams, starts, jobs."""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

PATIENCE = 300.0


@contextmanager
def streams(port: int, path: str, count: int) -> Iterator[None]:
    """So many open streams of one job, read by a thread.

    Args:
        port: Of the server, on loopback.
        path: Of the stream.
        count: How many.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n"
    opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    selector, stop = selectors.DefaultSelector(), threading.Event()
    for one in opened:
        one.sendall(request.encode())
        selector.register(one, selectors.EVENT_READ)

    def read() -> None:
        while not stop.is_set():
            for key, _ in selector.select(timeout=0.1):
                if isinstance(key.fileobj, socket.socket) and not key.fileobj.recv(65536):
                    raise RuntimeError("a stream broke")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        selector.close()
        for one in opened:
            one.close()


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[tuple[str, float]]:
    """`gradopt serve` for the time of a block: its address, and the seconds until it was ready."""
    began = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
        [sys.executable, "-m", "recommender.cli", "serve", "--port", "0", "--data-dir", folder],
        env={**os.environ, "KGO_LOG_LEVEL": "ERROR", **environment},
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        said = ""
        while (found := re.search(r"serves at (http://\S+?)/ ", said)) is None:
            line = process.stderr.readline()
            if not line:
                raise RuntimeError(said)
            said += line
        while not _ready(found[1]):
            time.sleep(0.01)
        yield found[1], time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def _ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def jobs_per_minute(address: str, asked: Mapping[str, Any], count: int) -> float:
    """How many jobs end in a minute when they wait one behind the other; the first is not counted.

    Args:
        address: Of the service.
        asked: The request.
        count: Jobs that are counted.
    """
    with httpx.Client(base_url=address, timeout=60) as client:
        made = [client.post("/v1/recommendations", json=asked).json() for _ in range(count + 1)]
        ends = []
        for job in made:
            end = time.monotonic() + PATIENCE
            while (found := client.get(job["links"]["self"]).json())["status"] != "succeeded":
                if found["status"] not in ("queued", "running") or time.monotonic() > end:
                    raise RuntimeError(f"{found['status']}: {found['status_reason']}")
                time.sleep(0.05)
            ends.append(time.monotonic())
    return 60 * count / (ends[-1] - ends[0])
