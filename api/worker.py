"""The worker: claims jobs, has them probed in child processes, and writes down what is heard."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from api import metrics
from api.jobs import Claim, Jobs, Plain
from api.record import Record
from api.settings import Settings
from api.store import Store, new_id
from recommender.executors import Limits, ProbeSpec
from recommender.executors.local import LocalProbe

logger = logging.getLogger(__name__)

BEATS_PER_LEASE = 4


class Worker:
    """Works on `settings.slots` jobs at a time until it is told to stop.

    Args:
        settings: The service's.
    """

    def __init__(self, settings: Settings) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{new_id('wrk')[-8:]}"
        self._settings = settings
        self._store = Store(settings)
        self._jobs = Jobs(self._store)
        self._stop = threading.Event()
        self._spare: LocalProbe | None = None
        self._running: dict[Future[None], Claim] = {}

    def run(self) -> None:
        """Work until `stop`; then everything unfinished goes back into the queue."""
        self._store.migrate()
        beats = threading.Thread(target=self._beat, daemon=True)
        self._jobs.beat(self.id)
        beats.start()
        logger.info("worker %s works in %s", self.id, self._settings.data_dir)
        pool = ThreadPoolExecutor(self._settings.slots)
        try:
            while not self._stop.is_set():
                self._running = {f: c for f, c in self._running.items() if not f.done()}
                if not self._turn(pool):
                    self._stop.wait(self._settings.poll_seconds)
        finally:
            pool.shutdown(wait=True)
            if self._spare is not None:
                self._spare.close()
            self._jobs.give_back(self.id)
            self._store.close()

    def stop(self) -> None:
        """Ask `run` to return."""
        self._stop.set()

    def _turn(self, pool: ThreadPoolExecutor) -> bool:
        """Take one job if there is one to take and a slot for it."""
        self._jobs.reap()
        if len(self._running) >= self._settings.slots:
            return False
        claim = self._jobs.claim(self.id)
        if claim is None:
            if not self._running:
                self._warm()
            return False
        probe = self._probe(claim.backend)
        self._running[pool.submit(self._work, claim, probe)] = claim
        return True

    def _warm(self) -> None:
        """While nothing is to be done, one process imports Keras for the job to come."""
        if self._spare is None or not self._spare.alive:
            if self._spare is not None:
                self._spare.close()
            self._spare = self._started(self._settings.backend)

    def _probe(self, backend: str) -> LocalProbe:
        spare = self._spare
        if spare is not None and spare.alive and spare.backend == backend:
            self._spare = None
            return spare
        return self._started(backend)

    def _started(self, backend: str) -> LocalProbe:
        limits = Limits(self._settings.probe_memory_mb, self._settings.probe_grace_seconds)
        return LocalProbe(backend, limits, self._settings.scratch)

    def _work(self, claim: Claim, probe: LocalProbe) -> None:
        logger.info("job %s: attempt %d in process %d", claim.id, claim.attempt, probe.pid)
        record, began = Record(claim, self._jobs), time.monotonic()
        try:
            outcome = probe.run(self._spec(claim.spec), record.hear, self._asked(claim))
            metrics.probe_ended(outcome.code or outcome.status, time.monotonic() - began)
            record.write()
        except Exception:
            logger.exception("job %s", claim.id)
            self._jobs.finish(claim, "failed", reason=("internal", "The worker failed on it."))
            return
        if self._stop.is_set() and outcome.status == "cancelled":
            return  # run() gives it back
        reason = None if outcome.code is None else (outcome.code, outcome.detail or "")
        self._jobs.finish(
            claim, outcome.status, result=outcome.result, reason=reason, usage=outcome.usage
        )
        logger.info("job %s: %s", claim.id, outcome.status)

    def _asked(self, claim: Claim) -> Callable[[], bool]:
        """Whether to end the probe: asked often, looked up every `poll_seconds`."""
        looked = [0.0, 0.0]

        def cancelled() -> bool:
            if self._stop.is_set():
                return True
            if time.monotonic() - looked[0] > self._settings.poll_seconds:
                looked[:] = time.monotonic(), float(self._jobs.asked_to_stop(claim))
            return bool(looked[1])

        return cancelled

    def _spec(self, spec: Plain) -> ProbeSpec:
        """The specification with the data set's file where it lies on this machine."""
        data = spec["data"]
        if data["kind"] == "blob":
            data = {"kind": "npz", "path": str(self._store.blob(data["sha256"]).resolve())}
        return ProbeSpec(**{**spec, "data": data, "include": tuple(spec["include"])})

    def _beat(self) -> None:
        while not self._stop.wait(self._settings.lease_seconds / BEATS_PER_LEASE):
            try:
                self._jobs.beat(self.id)
            except Exception:  # the next beat may find the disk free again
                logger.exception("beat")
