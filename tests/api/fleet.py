"""Web process and workers over one folder, started by the test itself and again after each kill."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from api.jobs import Jobs
from api.settings import Settings
from api.store import Store, workers
from api.transitions import ENDED, HELD
from tests.api.ledger import assert_sound
from tests.api.server import DIGITS, until

REAL = ("-m", "api", "worker")
QUICK = ("-m", "tests.api.quick")
LEASE = 1.0
ROOT = Path(__file__).parents[2]


class Fleet:
    """Processes of the service, by name: "web", "worker0", "worker1", ...

    Unlike `gradopt serve` it waits for nothing before it starts a killed process again.

    Args:
        folder: Of the data.
        number: How many workers.
        program: What a worker is.
        environment: Settings.
    """

    def __init__(
        self, folder: Path, number: int, program: Sequence[str] = QUICK, **environment: str
    ) -> None:
        settings = {
            "KGO_DATA_DIR": str(folder),
            "KGO_LEASE_SECONDS": str(LEASE),
            "KGO_POLL_SECONDS": "0.1",
            "KGO_ATTEMPTS": "10000",
            "KGO_MAX_QUEUED": "10000",
            **environment,
        }
        self._environment = {**os.environ, **settings}
        self.settings = Settings(data_dir=folder)
        self.store = Store(self.settings)
        self.store.migrate()
        self.jobs = Jobs(self.store)
        self._log = (folder / "log").open("ab")
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self._listening.listen(128)
        descriptor = self._listening.fileno()
        self._programs = {"web": ("-m", "api", "web", str(descriptor))}
        self._programs |= {f"worker{n}": tuple(program) for n in range(number)}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.http = httpx.Client(base_url=address, timeout=30)

    def begin(self) -> None:
        """Start all, and wait until they are there."""
        for name in self._programs:
            self.start(name)
        until(lambda: self.http.get("/livez").status_code == 200, "it answers")
        until(self.up, "the workers are there", 60)

    def start(self, name: str, module: str | None = None) -> None:
        """Start a process; `module` runs in the place of its own."""
        option, own, *arguments = self._programs[name]
        self.processes[name] = subprocess.Popen(
            [sys.executable, option, module or own, *arguments],
            cwd=ROOT,
            env=self._environment,
            pass_fds=(self._listening.fileno(),),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
        )

    def stop(self, name: str) -> None:
        """Ask a process to end in order, and wait for that."""
        process = self.processes[name]
        process.terminate()
        self._bury(process)

    def kill(self, name: str) -> tuple[float, list[str]]:
        """`kill -9`, and start it again.

        Returns:
            When, and the jobs that it held.
        """
        process = self.processes[name]
        held = self.held(name)
        process.kill()
        now = time.time()
        self._bury(process)
        self.start(name)
        return now, held

    def held(self, name: str) -> list[str]:
        """The jobs that a worker has claimed."""
        words = f"-{self.processes[name].pid}-"
        rows = self.jobs.newest(10**6, None)
        return [r.id for r in rows if r.status in HELD and words in r.worker]

    def up(self) -> bool:
        """Whether every worker has been heard of since it was started."""
        with self.store.read() as connection:
            ids = list(connection.scalars(sa.select(workers.c.id)))
        names = [name for name in self.processes if name != "web"]
        return all(any(f"-{self.processes[n].pid}-" in one for one in ids) for n in names)

    def running(self) -> bool:
        """Whether any job is being worked on."""
        return any(row.status in HELD for row in self.jobs.newest(10**6, None))

    def ask(self, **changes: Any) -> str | None:
        """Ask for a job; its id, or None where the answer was cut off by a kill."""
        try:
            response = self.http.post("/v1/recommendations", json={**DIGITS, **changes})
        except httpx.TransportError:
            return None
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def ended(self, ids: Sequence[str], seconds: float = 120) -> list[str]:
        """The states of these jobs once all have ended; each is sound."""

        def all_ended() -> bool:
            rows = (self.jobs.get(job) for job in ids)
            return all(row is not None and row.status in ENDED for row in rows)

        until(all_ended, f"{len(ids)} jobs end", seconds)
        return [assert_sound(self.jobs, job) for job in ids]

    def taken_over(self, kills: Sequence[tuple[float, list[str]]]) -> list[float]:
        """How long jobs were without a worker after these kills."""
        found = []
        for when, held in kills:
            for job in held:
                # What it wrote just before the kill may be known only after it.
                later = [
                    e.at
                    for e in self.jobs.events(job, 0, 10**6)
                    if e.at > when and e.type == "status" and e.data["status"] != "queued"
                ]
                if later:
                    found.append(later[0] - when)
        return found

    def limit_files(self, most: int) -> None:
        """Let no process write a file beyond this size, as if the disk were full."""
        for process in self.processes.values():
            _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
            soft = hard if most < 0 else most
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def close(self) -> None:
        """End everything."""
        self.http.close()
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.kill()
            self._bury(process)
        self._listening.close()
        self._log.close()
        self.store.close()

    @staticmethod
    def _bury(process: subprocess.Popen[bytes]) -> None:
        process.wait()
        assert process.stdin is not None  # opened as a pipe
        process.stdin.close()


@contextlib.contextmanager
def fleet(folder: Path, number: int, program: Sequence[str] = QUICK, **env: str) -> Iterator[Fleet]:
    """A fleet for the time of a block; its log is shown where the block fails."""
    folder.mkdir()
    made = Fleet(folder, number, program, **env)
    try:
        made.begin()
        yield made
    except BaseException:
        print((folder / "log").read_text("utf-8", errors="replace")[-4000:])
        raise
    finally:
        made.close()


def kills_at_random(
    made: Fleet, number: int, pause: tuple[float, float], live: int, seed: int
) -> tuple[list[str], list[tuple[float, list[str]]], int]:
    """Kill processes at random times while jobs are asked for.

    Args:
        made: Whose.
        number: How many kills.
        pause: Least and most seconds between two.
        live: Jobs that are under way at a time.
        seed: Of what is random.

    Returns:
        The jobs that were accepted, the kills, and how many came while a probe ran.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    accepted: list[str] = []
    kills: list[tuple[float, list[str]]] = []
    during = 0

    def busy() -> bool:
        """Whether a probe runs and somebody is there to take it over; asks where too few do."""
        under_way = [r for r in made.jobs.newest(10**6, None) if r.status not in ENDED]
        for _ in range(live - len(under_way)):
            job = made.ask(seed=len(accepted))
            accepted.extend([job] if job else [])
        return made.up() and made.running()

    while len(kills) < number:
        until(busy, "a probe runs", 60)
        time.sleep(chance.uniform(*pause))
        during += made.running()
        name = chance.choice(["web", *2 * [n for n in made.processes if n != "web"]])
        kills.append(made.kill(name))
    return accepted, kills, during
