"""A job's events as a stream (server-sent events) that resumes at any number without a gap."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from sqlalchemy import Row
from sse_starlette import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from api import present
from api.jobs import Jobs
from api.store import Store
from api.transitions import ENDED, EVENT_VERSION, Plain

RETRY_MILLISECONDS = 2000
AT_ONCE = 200
# Events of a job that are kept for its streams; one that is further behind reads the ledger itself.
KEPT = 1000
# An event with its number, as it goes over the wire.
Numbered = tuple[int, bytes]


class Streams:
    """The open streams of a web process: all streams of one job share one look at the ledger.

    Args:
        store: Where the ledger is.
    """

    def __init__(self, store: Store) -> None:
        self._jobs = Jobs(store)
        self._poll = store.settings.poll_seconds
        self._feeds: dict[str, Feed] = {}

    async def follow(self, row: Row[Any], after: int) -> AsyncIterator[bytes]:
        """What happened since the event `after`, then what happens, until the job has ended.

        Args:
            row: The job as it stands.
            after: The last number that the client has; one that does not exist gives a `reset`
                event with the job, and then everything that comes.

        Yields:
            Events as they go over the wire, with the ledger's numbers as their ids.
        """
        if after > row.last_seq:
            yield _event(row.last_seq, "reset", {"job": present.recommendation(row)})
            after = row.last_seq
        with self._read(row) as feed:
            while True:
                changed, over = feed.changed, feed.over
                found = feed.since(after) if feed.reaches(after) else await self._missed(row, after)
                for number, event in found:
                    yield event
                    after = number
                if over and (after >= feed.last or not found):
                    return
                if not found:
                    await changed.wait()

    @contextmanager
    def _read(self, row: Row[Any]) -> Iterator[Feed]:
        feed = self._feeds.get(row.id)
        if feed is None:
            feed = self._feeds[row.id] = Feed(self._jobs, row, self._poll)
        feed.readers += 1
        try:
            yield feed
        finally:
            feed.readers -= 1
            if not feed.readers:
                feed.stop()
                del self._feeds[row.id]

    async def _missed(self, row: Row[Any], after: int) -> list[Numbered]:
        return _numbered(await run_in_threadpool(self._jobs.events, row.id, after, AT_ONCE))


class Feed:
    """What happens to one job, looked for by one task for all who read it.

    Args:
        jobs: Everybody's: who may read has been found out.
        row: The job as it stands.
        poll: Seconds between two looks.

    Attributes:
        last: Number of the newest event that is known.
        changed: Set when there is more to read than at the time it was taken.
        readers: How many read.
    """

    def __init__(self, jobs: Jobs, row: Row[Any], poll: float) -> None:
        self._jobs = jobs
        self._job = row.id
        self._poll = poll
        self._kept: deque[Numbered] = deque(maxlen=KEPT)
        self.last: int = row.last_seq
        self.changed = asyncio.Event()
        self.readers = 0
        self._looking = asyncio.create_task(self._look())
        self._looking.add_done_callback(lambda _: self._wake())

    @property
    def over(self) -> bool:
        """Whether nothing comes any more; what kept the feed from looking is raised."""
        if not self._looking.done():
            return False
        self._looking.result()
        return True

    def reaches(self, after: int) -> bool:
        """Whether everything behind this number is kept."""
        return after >= self.last - len(self._kept)

    def since(self, after: int) -> list[Numbered]:
        """What is kept behind this number."""
        newest = islice(reversed(self._kept), max(0, self.last - after))
        return list(newest)[::-1]

    def stop(self) -> None:
        """Look no more."""
        self._looking.cancel()

    async def _look(self) -> None:
        while True:
            # The state first: an end that comes after the look at the events is seen next time.
            row, found = await run_in_threadpool(self._jobs.since, self._job, self.last, AT_ONCE)
            self._kept.extend(_numbered(found))
            if found:
                self.last = found[-1].seq
                self._wake()
            if row is None or finished(row, self.last):
                return
            if len(found) < AT_ONCE:
                await asyncio.sleep(self._poll)

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


def finished(row: Row[Any], after: int) -> bool:
    """Whether nothing can come any more after this number."""
    return row.status in ENDED and after == row.last_seq


def _numbered(found: Iterable[Row[Any]]) -> list[Numbered]:
    return [(one.seq, _event(one.seq, one.type, one.data)) for one in found]


def _event(seq: int, kind: str, data: Plain) -> bytes:
    text = json.dumps({"v": EVENT_VERSION, **data}, allow_nan=False)
    return ServerSentEvent(text, id=str(seq), event=kind, retry=RETRY_MILLISECONDS).encode()
