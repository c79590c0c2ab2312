"""What the benchmark of the service does beside asking for advice: streams, starts, jobs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from api.leases import Leases, Notes
from api.settings import Settings
from api.store import Store

PATIENCE = 300.0
EVENTS_PER_SECOND = 10


@contextmanager
def streams(store: Store, url: str, job: str, count: int) -> Iterator[None]:
    """So many open streams of one job that tells something ten times a second.

    Args:
        store: Where the job is, which waits.
        url: Of the stream.
        job: Its id.
        count: How many.

    Raises:
        RuntimeError: A stream broke, or one was told nothing.
    """
    readers = subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
        [sys.executable, "-m", "benchmarks.parts.readers", url, str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert readers.stdout is not None
    readers.stdout.readline()
    stop, told = threading.Event(), 0
    leases = Leases(store)
    claim = leases.claim("benchmark")
    assert claim is not None
    assert claim.id == job

    def tell() -> None:
        nonlocal told
        while not stop.wait(1 / EVENTS_PER_SECOND):
            leases.note(claim, Notes(events=[("log", {"text": "still here"})]))
            told += 1

    thread = threading.Thread(target=tell)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        seen, _ = readers.communicate(timeout=60)
    # The last ones may be on their way.
    if readers.returncode or int(seen) < told - EVENTS_PER_SECOND:
        raise RuntimeError(f"{told} events were told, and a stream got {seen.strip() or 'lost'}")


@contextmanager
def listening(settings: Settings) -> Iterator[str]:
    """One web process with an empty route beside its own; its address.

    Args:
        settings: The service's.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.parts.with_empty"],
        env={**os.environ, **settings.to_environment()}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield _said(process, r"running on (http://\S+)")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@contextmanager
def serving(folder: Path, **environment: str) -> Iterator[tuple[str, float]]:
    """`gradopt serve` for the time of a block: its address, and the seconds until it was ready."""
    began = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
        [sys.executable, "-m", "recommender.cli", "serve", "--port", "0", "--data-dir", folder],
        env={**os.environ, "KGO_LOG_LEVEL": "ERROR", **environment},
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        address = _said(process, r"serves at (http://\S+?)/ ")
        while not _ready(address):
            time.sleep(0.01)
        yield address, time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def _said(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stderr is not None
    said = ""
    while (found := re.search(pattern, said)) is None:
        line = process.stderr.readline()
        if not line:
            raise RuntimeError(said)
        said += line
    return found[1]


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
