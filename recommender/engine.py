"""Where the probes of a request run: in this process, or on a faster backend in a child process."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import keras

from recommender import fingerprint
from recommender.advise import advised, races, read
from recommender.errors import BudgetExhausted, EngineFailed
from recommender.executors.trusted import TrustedProbe
from recommender.journal import Journal
from recommender.memory import Memory
from recommender.population import open_population
from recommender.problem import Problem
from recommender.progress import Progress
from recommender.report import Advice
from recommender.request import BACKENDS, Request

Folder = str | os.PathLike[str] | None
# Under which a journal holds why probes do not run on the backend that was wanted.
FELL_BACK = "engine_parity_failed"


def answered(request: Request, hears: Progress, folder: Folder = None) -> Advice:
    """The advice, probed where it is fastest.

    Args:
        request: A request that passed `request.checked`.
        hears: Hears how the advice comes about.
        folder: Keeps what is trained; None keeps nothing.

    Returns:
        The advice; its `versions` say where probes ran.

    Raises:
        RequestError: Something about the request or the folder is wrong.
    """
    began = time.monotonic()
    problem = read(request, hears)
    backend = chosen(request, problem)
    try:
        with _kept(request, problem, backend, folder) as memory:
            if backend == keras.config.backend():
                return _here(request, hears, problem, memory)
        return _elsewhere(request, hears, problem, backend, folder, began)
    except KeyboardInterrupt:
        if folder is not None:
            hears.said(f"interrupted; ask again with journal={str(folder)!r} to go on")
        raise


def chosen(request: Request, problem: Problem) -> str:
    """The backend to probe on: what is asked for, else the fastest one where it pays off."""
    running = keras.config.backend()
    if not races(request, problem):
        return running
    fastest = BACKENDS[0] if importlib.util.find_spec(BACKENDS[0]) else running
    return request.backend or fastest


@contextlib.contextmanager
def _kept(request: Request, problem: Problem, backend: str, folder: Folder) -> Iterator[Memory]:
    if folder is None:
        yield Memory()
        return
    journal = Journal(folder, fingerprint.of(request, problem, backend))
    try:
        yield journal
    finally:
        journal.close()


def _here(request: Request, hears: Progress, problem: Problem, memory: Memory) -> Advice:
    advice = advised(request, hears, problem, partial(open_population, memory=memory))
    memory.finish()
    return advice


def _elsewhere(
    request: Request,
    hears: Progress,
    problem: Problem,
    backend: str,
    folder: Folder,
    began: float,
) -> Advice:
    """Probe in a child process; here where it cannot take the model or the loss."""
    with tempfile.TemporaryDirectory(prefix="gradopt-") as private:
        # A child that hangs or is killed goes on without the guilty one: that takes a journal.
        kept = folder or Path(private) / "journal"
        open_journal = partial(Journal, kept, fingerprint.of(request, problem, backend))
        with contextlib.closing(open_journal()) as journal:
            reason = journal.recall(FELL_BACK)
        if reason is None:
            hears.said(f"starting probes on {backend}, in a process of their own")
            probe = TrustedProbe(backend, Path(private), request, problem, open_journal)
            try:
                return probe.run(hears, began)
            except EngineFailed as error:
                reason = str(error)
            except BudgetExhausted as error:
                return _cut_short(request, hears, problem, str(error))
            finally:
                probe.close()
        note = f"{FELL_BACK}: {reason} Probes ran on {keras.config.backend()}, which is slower."
        hears.said(note)
        left = request.max_seconds
        if left is not None:
            left = max(1e-3, left - (time.monotonic() - began))
        with contextlib.closing(open_journal()) as journal:
            if journal.recall(FELL_BACK) is None:
                journal.record(FELL_BACK, reason)
            return _here(
                dataclasses.replace(request, max_seconds=left),
                hears,
                dataclasses.replace(problem, notes=(*problem.notes, note)),
                journal,
            )


def _cut_short(request: Request, hears: Progress, problem: Problem, note: str) -> Advice:
    """What can be said at once when the time is over."""
    hears.said(note)
    over = dataclasses.replace(request, max_seconds=1e-3)
    return advised(over, hears, dataclasses.replace(problem, notes=(*problem.notes, note)))
