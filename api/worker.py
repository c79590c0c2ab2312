"""The worker: claims jobs, has them probed in child processes, and writes down what is heard."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from sqlalchemy.exc import OperationalError
from structlog.contextvars import bound_contextvars

from api import metrics, scratch, trace
from api.leases import Claim, Leases
from api.record import LOST, Record
from api.sandbox import Sandbox
from api.settings import Settings
from api.store import Store, new_id
from api.transitions import ENDED, Plain
from recommender.executors import Executor, Limits, Outcome, ProbeSpec
from recommender.executors.local import LocalProbe, abandoned

logger = logging.getLogger(__name__)

BEATS_PER_LEASE = 4
# A candidate that ends its process so often is not tried any more, and the job goes on without it;
# after so many such candidates it is not they who are to blame.
STRIKES = 2
MOST_INFEASIBLE = 4
# Between two tries while the ledger cannot be written, and between two looks for leftovers.
PATIENCE_SECONDS = 1.0
SWEEP_SECONDS = 60.0
DAMAGED = (
    "The data set's file on the service's disk is no longer what was uploaded. Upload it again, "
    "then ask again."
)


class Dropped(Exception):
    """The probe's job is somebody else's now, or goes back into the queue."""


def local(settings: Settings, sandbox: Sandbox) -> Callable[[str], Executor]:
    """Starts probes in child processes of this machine.

    Args:
        settings: The service's.
        sandbox: Whether they can be jailed.
    """
    limits = Limits(settings.probe_memory_mb, settings.probe_grace_seconds)
    return lambda backend: LocalProbe(
        backend, limits, settings.scratch, jailed=sandbox.reason() is None
    )


class Worker:
    """Works on `settings.slots` jobs at a time until it is told to stop.

    Args:
        settings: The service's.
        starts: Starts an executor for a backend; None takes child processes of this machine.
    """

    def __init__(self, settings: Settings, starts: Callable[[str], Executor] | None = None) -> None:
        self.id = f"{socket.gethostname()}-{os.getpid()}-{new_id('wrk')[-8:]}"
        self._settings = settings
        self._store = Store(settings)
        self._jobs = Leases(self._store)
        self._sandbox = Sandbox(settings)
        self._starts = starts or local(settings, self._sandbox)
        self._stop = threading.Event()
        self._spare: Executor | None = None
        self._taking = threading.Lock()
        self._running: dict[Future[None], Claim] = {}
        self._swept = -SWEEP_SECONDS

    def run(self) -> None:
        """Work until `stop`; then everything unfinished goes back into the queue."""
        self._patiently(self._store.migrate)
        self._patiently(lambda: self._jobs.beat(self.id))
        beats = threading.Thread(target=self._beat, daemon=True)
        beats.start()
        logger.info("worker %s works in %s", self.id, self._settings.data_dir)
        if self._sandbox.reason() is not None:
            logger.warning("probes are not jailed: %s", self._sandbox.reason())
        pool = ThreadPoolExecutor(self._settings.slots)
        try:
            while not self._stop.is_set():
                self._running = {f: c for f, c in self._running.items() if not f.done()}
                try:
                    busy = self._turn(pool)
                except OperationalError as error:  # the disk is full, or the ledger locked
                    logger.warning("the ledger cannot be reached: %s", error.orig)
                    self._stop.wait(PATIENCE_SECONDS)
                    continue
                if not busy:
                    self._stop.wait(self._settings.poll_seconds)
        finally:
            pool.shutdown(wait=True)
            if self._spare is not None:
                self._spare.close()
            beats.join()  # a sign of life after the last word would be a lie
            self._jobs.give_back(self.id)
            self._store.close()

    def stop(self) -> None:
        """Ask `run` to return."""
        self._stop.set()

    def _turn(self, pool: ThreadPoolExecutor) -> bool:
        """Take one job if there is one to take and a slot for it."""
        self._jobs.reap()
        self._sweep()
        if len(self._running) >= self._settings.slots:
            return False
        claim = self._jobs.claim(self.id)
        if claim is None:
            if not self._running:
                self._warm()
            return False
        self._running[pool.submit(self._attempt, claim)] = claim
        return True

    def _warm(self) -> None:
        """While nothing is to be done, one process imports Keras for the job to come."""
        if self._spare is None or not self._spare.alive:
            if self._spare is not None:
                self._spare.close()
            self._spare = self._starts(self._settings.backend)

    def _probe(self, backend: str) -> Executor:
        with self._taking:
            spare = self._spare
            if spare is not None and spare.alive and spare.backend == backend:
                self._spare = None
                return spare
        return self._starts(backend)

    def _attempt(self, claim: Claim) -> None:
        """One attempt at a job, each line of the log with its id and its trace."""
        with bound_contextvars(job_id=claim.id, **trace.facts(claim.traceparent)):
            self._work(claim)

    def _work(self, claim: Claim) -> None:
        """One attempt at a job, to its end."""
        try:
            outcome = self._probed(claim)
        except Dropped:
            return  # the ledger knows, or run() tells it
        except Exception:
            logger.exception("job %s", claim.id)
            why = ("internal", "The worker failed on it.")
            outcome = Outcome("failed", None, *why, {})
        reason = None if outcome.code is None else (outcome.code, outcome.detail or "")
        written = self._patiently(
            lambda: self._jobs.finish(
                claim, outcome.status, result=outcome.result, reason=reason, usage=outcome.usage
            )
        )
        logger.info("job %s: %s", claim.id, outcome.status)
        if written:
            scratch.forget(self._settings.scratch, claim.id)

    def _probed(self, claim: Claim) -> Outcome:
        """The outcome of the job's probe, or of another after each that died.

        A probe that died is begun again from its journal, without the candidate that it died of
        twice. Where none is to blame, or too many are, that is given up after some attempts.
        """
        refused = self._sandbox.refuses(self._spec(claim.spec))
        if refused is not None:
            return Outcome("failed", None, "sandbox_unavailable", refused, {})
        if self._damaged(claim.spec["data"]):
            return Outcome("failed", None, "data_damaged", DAMAGED, {})
        record = Record(claim, self._jobs)
        journal = scratch.journal(self._settings.scratch, claim.id, claim.fence)
        failed: dict[str, str] = {}
        deaths: Counter[str | None] = Counter()
        while True:
            outcome = self._once(claim, record, journal, failed)
            if not outcome.died:
                return outcome
            at = record.working
            key = None if at is None else at.key
            deaths[key] += 1
            logger.warning("job %s: %s, at %s", claim.id, outcome.code, at)
            if deaths.total() >= self._settings.attempts + STRIKES * MOST_INFEASIBLE:
                return outcome
            if at is None:
                if deaths[None] >= self._settings.attempts:
                    return outcome
            elif deaths[key] >= STRIKES:
                if at.key in failed or len(failed) == MOST_INFEASIBLE:
                    return outcome
                how = f"{LOST} {STRIKES} times ({outcome.code})"
                failed[at.key] = how
                record.lost(at, how)

    def _once(self, claim: Claim, record: Record, journal: Path, failed: dict[str, str]) -> Outcome:
        probe = self._probe(claim.backend)
        logger.info("job %s: attempt %d in process %d", claim.id, claim.attempt, probe.pid)
        record.begin()
        spec = self._spec(claim.spec)
        began = time.monotonic()
        outcome = probe.run(spec, record.hear, self._asked(claim), journal, failed)
        metrics.probe_ended(outcome.code or outcome.status, time.monotonic() - began)
        record.write()
        return outcome

    def _asked(self, claim: Claim) -> Callable[[], bool]:
        """Whether to end the probe: asked often, looked up every `poll_seconds`."""
        looked, cancelling = 0.0, False

        def cancelled() -> bool:
            nonlocal looked, cancelling
            if self._stop.is_set():
                raise Dropped
            if time.monotonic() - looked > self._settings.poll_seconds:
                looked = time.monotonic()
                try:
                    standing = self._jobs.standing(claim)
                except OperationalError:  # asked again soon
                    return cancelling
                if standing == "lost":
                    raise Dropped
                cancelling = standing == "cancelling"
            return cancelling

        return cancelled

    def _spec(self, spec: Plain) -> ProbeSpec:
        """The specification with the data set's file where it lies on this machine."""
        data = spec["data"]
        if data["kind"] == "blob":
            # Jobs of earlier versions name no format: theirs are arrays.
            data = {
                "kind": data.get("format", "npz"),
                "target": data.get("target"),
                "path": str(self._store.blob(data["sha256"]).resolve()),
            }
        return ProbeSpec(**{**spec, "data": data, "include": tuple(spec["include"])})

    def _damaged(self, data: Plain) -> bool:
        """Whether an uploaded file has changed on the disk, or is gone.

        Numbers in a table carry no checksum of their own, so a probe would not see it.
        """
        return data["kind"] == "blob" and not self._store.intact(data["sha256"])

    def _patiently(self, step: Callable[[], None]) -> bool:
        """Do a step, again and again while the ledger cannot be written; False if told to stop."""
        while True:
            try:
                step()
            except OperationalError as error:
                logger.warning("the ledger cannot be written: %s", error.orig)
                if self._stop.wait(PATIENCE_SECONDS):
                    return False
            else:
                return True

    def _sweep(self) -> None:
        """Remove what killed processes have left, now and then."""
        if time.monotonic() - self._swept < SWEEP_SECONDS:
            return
        self._swept = time.monotonic()

        def ended(job: str) -> bool:
            row = self._jobs.get(job)
            return row is None or row.status in ENDED

        scratch.sweep(self._settings.scratch, abandoned, ended)

    def _beat(self) -> None:
        while not self._stop.wait(self._settings.lease_seconds / BEATS_PER_LEASE):
            try:
                self._jobs.beat(self.id)
            except Exception:  # the next beat may find the disk free again
                logger.exception("beat")
