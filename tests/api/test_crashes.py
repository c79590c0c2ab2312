"""Kills at random, sleepers, broken streams, ten thousand jobs: none is lost, nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.fleet import LEASE, REAL, Fleet, fleet, kills_at_random
from tests.api.ledger import assert_sound
from tests.api.quick import answer
from tests.api.release import sizes
from tests.api.server import until

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(sys.platform != "linux", reason="stops and limits processes"),
]
# What a takeover may take beside the lease.
TAKEOVER = 5.0
# Asked for at a time where thousands are.
BATCH = 100
# A pool of connections fills as threads meet: fifteen at three files each, for each of two.
POOLS = 90


def assert_none_lost(made: Fleet, accepted: list[str], seconds: float) -> None:
    """Every job that was accepted has succeeded, once."""
    rows = {row.id for row in made.jobs.newest(10**6, None)}
    assert rows >= set(accepted)
    assert set(made.ended(sorted(rows), seconds)) == {"succeeded"}


@pytest.mark.parametrize("kills", sizes(22, 500))
def test_kills_at_random_times_lose_and_double_nothing(kills: int, tmp_path: Path) -> None:
    slots = {"KGO_SLOTS": "4", "QUICK_PAUSE": "0.03", "QUICK_PIECES": "8"}
    with fleet(tmp_path / "data", 2, **slots) as made:
        accepted, when, during = kills_at_random(made, kills, (0.1, 0.7), live=4, seed=kills)
        assert during >= kills / 2
        assert_none_lost(made, accepted, 120)
        taken = made.taken_over(when)
        assert taken, "some of the killed held jobs"
        assert max(taken) < LEASE + TAKEOVER


@pytest.mark.parametrize("kills", sizes(28, 500))
def test_kills_in_the_middle_of_real_probes_lose_and_double_nothing(
    kills: int, tmp_path: Path
) -> None:
    with fleet(tmp_path / "data", 1, REAL) as made:
        accepted, _, during = kills_at_random(made, kills, (0.0, 3.0), live=1, seed=kills)
        assert during >= min(25, kills / 2)
        assert_none_lost(made, accepted, 240)
        results = [made.jobs.get(job) for job in accepted]
        assert all(r is not None and r.result["recommended"] for r in results)
        journals = made.settings.scratch / "journal"
        assert not list(journals.iterdir())


def test_a_kill_at_the_real_lease_is_taken_over_within_twenty_seconds(tmp_path: Path) -> None:
    real = {"KGO_LEASE_SECONDS": "15", "QUICK_PAUSE": "0.05", "QUICK_PIECES": "30"}
    with fleet(tmp_path / "data", 2, **real) as made:
        job = made.ask()
        assert job is not None
        until(lambda: made.running() and made.jobs.trials(job), "it runs")
        (holder,) = (n for n in made.processes if n != "web" and made.held(n))
        kill = made.kill(holder)
        row = until(lambda: (r := made.jobs.get(job)) and r.attempt == 2 and r, "taken over", 25)
        assert row.status == "running"
        (seconds,) = made.taken_over([kill])
        assert seconds < 15 + TAKEOVER
        made.ended([job])


@pytest.mark.parametrize("wakes", ["while another works on its job", "when its job is done"])
def test_a_worker_that_slept_too_long_writes_nothing(wakes: str, tmp_path: Path) -> None:
    with fleet(tmp_path / "data", 2, QUICK_PAUSE="0.03", QUICK_PIECES="30") as made:
        job = made.ask(seed=1)
        assert job is not None
        until(lambda: made.jobs.trials(job), "it has begun")
        (name,) = (n for n in made.processes if n != "web" and made.held(n))
        sleeper = made.processes[name].pid
        os.kill(sleeper, signal.SIGSTOP)
        until(lambda: (row := made.jobs.get(job)) and row.attempt == 2, "another takes it")
        if "done" in wakes:
            made.ended([job])
        before = made.jobs.get(job)
        assert before is not None
        os.kill(sleeper, signal.SIGCONT)
        made.ended([job])
        time.sleep(2 * LEASE)
        after = made.jobs.get(job)
        assert after is not None
        assert after.fence == before.fence, "the second attempt is the last"
        assert (after.status, after.result) == ("succeeded", answer(seed=1))
        assert_sound(made.jobs, job)
        assert made.processes[name].poll() is None, "it goes on with other jobs"


@pytest.mark.parametrize("breaks", sizes(50, 1000))
def test_a_stream_put_together_from_pieces_is_the_ledger(breaks: int, tmp_path: Path) -> None:
    pieces = str(2 * breaks)
    chance = random.Random(breaks)  # noqa: S311 - no secret
    with fleet(tmp_path / "data", 1, QUICK_PAUSE="0.02", QUICK_PIECES=pieces) as made:
        job = made.ask()
        got: list[tuple[int, str, Any]] = []
        broken = 0
        while not got or got[-1][1] != "done":
            left = breaks - broken
            most = chance.randint(1, 4) if left > 0 else None
            if broken in (breaks // 3, breaks // 2):
                made.kill("web")
            last = got[-1][0] if got else 0
            with contextlib.suppress(httpx.TransportError):
                # Event by event: what came before a break was received.
                got.extend(read(made, f"/v1/recommendations/{job}/stream", last, most))
            broken += 1
        assert broken > breaks
        assert job is not None
        assert got == [(e.seq, e.type, e.data) for e in made.jobs.events(job, 0, 10**6)]
        assert_sound(made.jobs, job)


def read(made: Fleet, path: str, last: int, most: int | None) -> Iterator[tuple[int, str, Any]]:
    """Events of a stream behind a number; the connection is broken after `most` of them."""
    headers = {"Last-Event-ID": str(last)}
    with made.http.stream("GET", path, headers=headers, timeout=60) as response:
        response.raise_for_status()
        fields: dict[str, str] = {}
        count = 0
        for line in response.iter_lines():
            name, _, value = line.partition(":")
            if line:
                fields[name] = value.strip()
                continue
            if "data" in fields:
                yield int(fields["id"]), fields["event"], json.loads(fields["data"])
                count += 1
            fields = {}
            if count == most:
                return


@pytest.mark.parametrize("jobs", sizes(200, 10_000))
def test_many_jobs_leave_nothing_behind(jobs: int, tmp_path: Path) -> None:
    quick = {"QUICK_PAUSE": "0", "QUICK_PIECES": "2", "KGO_SLOTS": "4", "KGO_POLL_SECONDS": "0.02"}
    with fleet(tmp_path / "data", 1, **quick) as made:
        done(made, 20)
        before = used(made)
        done(made, jobs)
        for name, (files, memory, children) in used(made).items():
            assert files <= before[name][0] + min(POOLS, jobs / 5), f"open files of {name}"
            assert memory < before[name][1] + 30 * 2**20, f"memory of {name}"
            assert children == before[name][2]
        scratch = [path for path in made.settings.scratch.rglob("*") if path.name != "journal"]
        assert not scratch


def done(made: Fleet, number: int) -> None:
    """So many jobs, to their end."""
    for begin in range(0, number, BATCH):
        ids = [made.ask(seed=seed) for seed in range(begin, min(number, begin + BATCH))]
        assert set(made.ended([job for job in ids if job])) == {"succeeded"}


def used(made: Fleet) -> dict[str, tuple[int, int, int]]:
    """Open files, resident bytes and child processes, by name of the process."""
    found = {}
    for name, process in made.processes.items():
        home = Path(f"/proc/{process.pid}")
        files = len(list((home / "fd").iterdir()))
        memory = int((home / "statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        children = (home / "task" / str(process.pid) / "children").read_text("ascii").split()
        found[name] = (files, memory, len(children))
    return found
