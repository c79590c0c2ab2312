"""Probes in a child process that the user's own process trusts, on another backend."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import keras

from recommender.errors import (
    BudgetExhausted,
    EngineFailed,
    ProbeFailed,
    RecommenderError,
    reason_of,
)
from recommender.executors import parity
from recommender.executors.child import rejected
from recommender.executors.parcel import pack
from recommender.executors.trusted_child import AGREED
from recommender.journal import Journal
from recommender.population import failure_key
from recommender.problem import Problem
from recommender.progress import Progress
from recommender.report import Advice
from recommender.request import Request
from recommender.settings import Setting

# Without a sign of life for this long a child hangs: until it has imported and compiled, and after.
PATIENCE_AT_FIRST = 600.0
PATIENCE = 60.0
# A piece of work may take so many times as long as the slowest before it.
SLOWEST_TIMES = 20.0
# Compiling cannot be stopped, so a child looks at the clock somewhat late.
OVERRUN = 1.05
LOOK_SECONDS = 0.1
MODULE = f"{__package__}.trusted_child"
# Candidates that may end or hang a child before the backend itself is to blame.
MOST_RESTARTS = 4
# Models below it are too small for a matrix product to be worth two threads.
SMALL_PARAMETERS = 1_000_000
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}
ONE_THREAD_XLA = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


class TrustedProbe:
    """One request in child processes: one, or another after each candidate that ends one.

    Args:
        backend: The Keras backend of the child.
        folder: Private to this probe.
        request: What was asked.
        problem: What was built of it.
        open_journal: Opens the journal of the request; at most one process holds it open.
    """

    def __init__(
        self,
        backend: str,
        folder: Path,
        request: Request,
        problem: Problem,
        open_journal: Callable[[], Journal],
    ) -> None:
        self._backend = backend
        self._folder = folder / "parcel"
        self._request, self._problem = request, problem
        self._open_journal = open_journal
        self._here: parity.Seen | None = None
        self._child: _Child | None = None

    def run(self, hears: Progress, began: float) -> Advice:
        """Probe in a child.

        Args:
            hears: Hears what the child's probes do.
            began: When the request came in, by the monotonic clock.

        Returns:
            The advice.

        Raises:
            EngineFailed: The child cannot take the model, or gives other losses than this process.
            BudgetExhausted: The wall-clock limit passed without an answer.
            RequestError: As the stages raise it.
        """
        for _ in range(MOST_RESTARTS):
            limit = self._request.max_seconds
            left = None if limit is None else limit - (time.monotonic() - began)
            self._start(left)
            try:
                advice = self._supervised(hears, None if limit is None else began + limit * OVERRUN)
            except _Lost as error:
                self.close()  # a child that hangs holds the journal
                hears.said(f"{error.setting.label} {error}; going on without it")
                with contextlib.closing(self._open_journal()) as journal:
                    journal.record(failure_key(error.setting, self._backend), str(error))
                continue
            finally:
                self.close()
            seconds = time.monotonic() - began
            return dataclasses.replace(
                advice, cost=dataclasses.replace(advice.cost, seconds=seconds)
            )
        raise EngineFailed(f"{MOST_RESTARTS} candidates ended the process on {self._backend}.")

    def close(self) -> None:
        """End the child and everything it started."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _start(self, left: float | None) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        request = dataclasses.replace(
            self._request,
            model=None,
            x=None,
            y=None,
            validation_data=None,
            loss=None,
            sample_weight=None,
        )
        settings = {
            "floatx": keras.config.floatx(),
            "image_data_format": keras.config.image_data_format(),
        }
        deadline = None if left is None else time.time() + max(left, 0.0)
        try:
            pack((settings, request, self._problem, deadline, self._open_journal), self._folder)
        except Exception as error:  # any part of a model may refuse in its own way
            raise EngineFailed(
                f"the model cannot be handed over: it {reason_of(error)}."
            ) from error
        small = self._problem.model.count_params() < SMALL_PARAMETERS
        self._child = _Child(self._folder, environment(os.environ, self._backend, small=small))

    def _supervised(self, hears: Progress, deadline: float | None) -> Advice:
        child = self._child
        assert child is not None  # started just before
        if self._here is None:
            # While the child imports.
            try:
                self._here = parity.seen_here(self._problem)
            except ProbeFailed as error:
                running = keras.config.backend()
                raise EngineFailed(f"a step on {running} {error}.") from error
        watch = _Watch()
        while True:
            if child.messages.poll(LOOK_SECONDS):
                try:
                    message = child.messages.recv()
                except EOFError:
                    raise watch.lost(child.ending()) from None
                except Exception as error:  # what the child sent cannot be made again here
                    raise EngineFailed(f"its message cannot be read: {error}.") from error
                watch.heard(message)
                advice = self._acted(message, hears)
                if advice is not None:
                    return advice
            elif deadline is not None and time.monotonic() > deadline:
                raise BudgetExhausted(f"The limit passed before {self._backend} had an answer.")
            else:
                watch.look()

    def _acted(self, message: tuple[Any, ...], hears: Progress) -> Advice | None:
        """Do what a message asks for; the advice, where it is one."""
        kind, *rest = message
        if kind == "heard":
            name, arguments = rest
            getattr(hears, name)(*arguments)
        elif kind == "parity":
            assert self._here is not None  # computed before anything is read
            difference = parity.disagreement(self._problem, self._here, rest[0])
            if difference is not None:
                raise EngineFailed(f"on {keras.config.backend()} and {self._backend} {difference}")
            (self._folder / AGREED).touch()
        elif kind == "raised":
            (error,) = rest
            if isinstance(error, RecommenderError) and not _about_the_model(error):
                raise error
            said = str(error) if isinstance(error, ProbeFailed) else reason_of(error)
            raise EngineFailed(f"on {self._backend} the model {said}.") from error
        elif kind == "advice":
            found: Advice = rest[0]
            return found
        return None


def _about_the_model(error: RecommenderError) -> bool:
    """Whether it complains of what this process has built without a complaint."""
    mine = isinstance(error, ProbeFailed) or error.code == "untrainable_model"
    return mine or rejected(error.code) != "request_rejected"


class _Lost(Exception):
    """A child ended or hangs while it worked on a setting."""

    def __init__(self, setting: Setting, reason: str) -> None:
        super().__init__(reason)
        self.setting = setting


class _Watch:
    """Knows what a child is at, and for how long that may take."""

    def __init__(self) -> None:
        self._at: Setting | None = None
        self._since = time.monotonic()
        self._slowest = 0.0
        self._trained = False

    def heard(self, message: tuple[Any, ...]) -> None:
        """Note a sign of life."""
        now = time.monotonic()
        self._slowest = max(self._slowest, now - self._since)
        self._since = now
        working = message[:2] == ("heard", "working")
        self._at = message[2][0] if working else None
        self._trained |= message[:2] == ("heard", "spent")

    def look(self) -> None:
        """Raise when there was no sign of life for too long."""
        patience = max(PATIENCE, SLOWEST_TIMES * self._slowest)
        if not self._trained:
            patience = max(patience, PATIENCE_AT_FIRST)
        silent = time.monotonic() - self._since
        if silent > patience:
            raise self.lost(f"made no progress for {silent:.0f} s")

    def lost(self, how: str) -> Exception:
        """What to raise for a child that is gone."""
        if self._at is None:
            return EngineFailed(f"the process that probed {how}.")
        return _Lost(self._at, how)


class _Child:
    """A process and the pipe that it writes to."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._errors = folder / "stderr"
        read, write = os.pipe()
        self.messages = Connection(read, writable=False)
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, our own interpreter
                [sys.executable, "-m", MODULE, str(write), str(folder)],
                env=dict(env),
                stdin=subprocess.PIPE,  # its end tells the child that this process is gone
                stdout=errors,
                stderr=errors,
                pass_fds=(write,),
                start_new_session=True,  # an interrupt on the terminal is ours to pass on
            )
        os.close(write)

    def ending(self) -> str:
        """How it ended, once it has closed its pipe."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if code < 0:
            hint = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
            return f"was ended by {signal.Signals(-code).name}{hint}"
        words = self._errors.read_text("utf-8", errors="replace").strip().splitlines()
        return f"ended with exit code {code}" + (f" ({words[-1]})" if words else "")

    def close(self) -> None:
        """End it and everything it started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None  # opened as a pipe above
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self.messages.close()


def environment(own: Mapping[str, str], backend: str, *, small: bool) -> dict[str, str]:
    """The child's environment: this process' own, one thread, and where its modules come from.

    Args:
        own: This process' environment.
        backend: The Keras backend of the child.
        small: Whether even a matrix product is too small for two threads.
    """
    found = {**own, **ONE_THREAD, "KERAS_BACKEND": backend}
    found.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The memory of an accelerator is shared with this process.
    found.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    found["PYTHONPATH"] = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
    if small:
        found["XLA_FLAGS"] = f"{own.get('XLA_FLAGS', '')} {ONE_THREAD_XLA}".strip()
    return found
