"""The streams of one job share one look at the ledger, and each gets every event."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api import stream
from api.jobs import Jobs
from api.leases import Leases, Notes
from api.settings import Settings
from api.store import Store

pytestmark = pytest.mark.backend_free
POLL, READERS, EVENTS = 0.05, 20, 30


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(data_dir=tmp_path, poll_seconds=POLL))
    made.migrate()
    yield made
    made.close()


async def numbers(streams: stream.Streams, row: Any, after: int = 0) -> list[int]:
    """The numbers of the events that a stream brings."""
    return [int(re.match(rb"id: (\d+)", one)[1]) async for one in streams.follow(row, after)]  # type: ignore[index]


async def watched(store: Store, starts: list[int]) -> tuple[list[list[int]], float, int]:
    """What readers get who have so many events already, the seconds, and the feeds that stay."""
    leases = Leases(store)
    job = leases.create({}, {}, "jax", {})
    claim = leases.claim("w")
    assert claim is not None
    row, streams = leases.get(job), stream.Streams(store)
    assert row is not None
    began = asyncio.get_running_loop().time()
    readers = [asyncio.create_task(numbers(streams, row, after)) for after in starts]
    for _ in range(EVENTS):
        await asyncio.to_thread(leases.note, claim, Notes(events=[("log", {"text": "x"})]))
        await asyncio.sleep(POLL / 2)
    await asyncio.to_thread(leases.finish, claim, "failed", reason=("internal", "x"))
    async with asyncio.timeout(30):
        got = list(await asyncio.gather(*readers))
    return got, asyncio.get_running_loop().time() - began, len(streams._feeds)


def test_readers_of_one_job_look_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    since = Jobs.since

    def counted(*given: Any) -> Any:
        nonlocal looks
        looks += 1
        return since(*given)

    monkeypatch.setattr(Jobs, "since", counted)
    got, seconds, left = asyncio.run(watched(store, [0] * READERS))
    whole = list(range(1, got[0][-1] + 1))
    assert len(whole) > EVENTS
    assert got == [whole] * READERS
    assert looks <= seconds / POLL + 2
    assert left == 0


def test_who_is_far_behind_reads_what_is_no_longer_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "KEPT", 3)
    monkeypatch.setattr(stream, "AT_ONCE", 2)
    (first, second), _, _ = asyncio.run(watched(store, [0, 1]))
    assert first == list(range(1, first[-1] + 1))
    assert second == first[1:]
