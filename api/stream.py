"""A job's events as a stream (server-sent events) that resumes at any number without a gap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import Row
from sse_starlette import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from api import present
from api.jobs import Jobs
from api.transitions import ENDED, EVENT_VERSION, Plain

RETRY_MILLISECONDS = 2000
AT_ONCE = 200


async def follow(jobs: Jobs, job: str, after: int, poll: float) -> AsyncIterator[ServerSentEvent]:
    """What happened since the event `after`, then what happens, until the job has ended.

    Args:
        jobs: The ledger.
        job: Whose events.
        after: The last number that the client has; one that does not exist gives a `reset` event
            with the job as it stands, and then everything that comes.
        poll: Seconds between two looks.

    Yields:
        Events with the ledger's numbers as their ids.
    """
    row = await run_in_threadpool(jobs.get, job)
    if row is not None and after > row.last_seq:
        yield _event(row.last_seq, "reset", {"job": present.recommendation(row)})
        after = row.last_seq
    while True:
        # The state first: an end that comes after the look at the events is seen next time.
        row = await run_in_threadpool(jobs.get, job)
        found = await run_in_threadpool(jobs.events, job, after, AT_ONCE)
        for one in found:
            after = one.seq
            yield _event(one.seq, one.type, one.data)
        if row is None or (row.status in ENDED and after >= row.last_seq):
            return
        if len(found) < AT_ONCE:
            await asyncio.sleep(poll)


def finished(row: Row[Any], after: int) -> bool:
    """Whether nothing can come any more after this number."""
    return row.status in ENDED and after == row.last_seq


def _event(seq: int, kind: str, data: Plain) -> ServerSentEvent:
    text = json.dumps({"v": EVENT_VERSION, **data}, allow_nan=False)
    return ServerSentEvent(text, id=str(seq), event=kind, retry=RETRY_MILLISECONDS)
