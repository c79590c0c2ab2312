"""Probes in jailed child processes of this machine, with limits on all that they use."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recommender.answer import Plain
from recommender.executors import Limits, Outcome, ProbeSpec, cell, jail
from recommender.executors.messages import Misbehaved, Reader

logger = logging.getLogger(__name__)

# What a child may see of this process' environment: nothing that may be a secret.
PASSED = frozenset({"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV"})
PASSED_PREFIXES = ("JAX_", "XLA_", "TF_", "OMP_", "MKL_", "OPENBLAS_", "CUDA_", "NVIDIA_")
PREFIX = "probe-"
# Between two looks at the pipe, the clock, the memory and the asker.
LOOK_SECONDS = 0.1
# Between two looks at the files that it has written.
FILES_SECONDS = 0.2
# Processor time beyond what its threads can take until its deadline.
SPARE_CPU_SECONDS = 60
LAST_WORDS = 2000
# What a probe gets to say what it knows, once it is to end; nothing where it has not begun.
ENDING_SECONDS = 2.0


class LocalProbe:
    """One child process, started at once; it imports Keras while nobody waits yet.

    It ends with the thread that makes it, so that is one that stays.

    Args:
        backend: The Keras backend of the child.
        limits: What it may use.
        scratch: Folder in which it gets an empty folder of its own; None is the system's.
        jailed: Whether it is held by `recommender.executors.jail`; else only its limits hold.
        module: What the child runs.
    """

    def __init__(
        self,
        backend: str,
        limits: Limits,
        scratch: Path | None = None,
        *,
        jailed: bool = True,
        module: str = f"{__package__}.child",
    ) -> None:
        self.backend = backend
        self._limits = limits
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=scratch))
        self._folder.chmod(0o700)
        self._errors = (self._folder / "stderr").open("wb")
        # The child has it open as well: until both are gone, `abandoned` leaves the folder alone.
        fcntl.flock(self._errors, fcntl.LOCK_EX)
        cell.make(self._folder)
        self._written = (self._folder / jail.WORK, self._folder / jail.JOURNAL)
        self._next_look = 0.0
        read, write = os.pipe()
        self._reader = Reader(read)
        self._peak = 0
        self._begun = False  # whether it has said anything of its probe
        # Open, so that the child finds it though it may have been moved to its place already.
        journal = os.open(self._folder / jail.JOURNAL, os.O_RDONLY)
        held = (str(self._folder), f"/proc/self/fd/{journal}") if jailed else ("-", "-")
        self._process = subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
            [
                *(sys.executable, "-m", jail.__name__, *held, str(limits.memory_mb)),
                *(module, str(write)),
            ],
            cwd=self._folder / jail.WORK,
            env=child_environment(os.environ, backend, self._folder / jail.WORK),
            stdin=subprocess.PIPE,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=(write, journal),
            start_new_session=True,  # so that the whole group can be ended
        )
        os.close(write)
        os.close(journal)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the child is still there."""
        return self._process.poll() is None

    def run(
        self,
        spec: ProbeSpec,
        hears: Callable[[Plain], None],
        cancelled: Callable[[], bool],
        journal: Path | None = None,
        failed: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Probe in the child, and end it; see `Executor`."""
        began = time.monotonic()
        seconds = spec.max_seconds + self._limits.grace_seconds
        try:
            self._limit_cpu(seconds)
            asked = {
                "spec": self._given(spec).to_dict(),
                "journal": self._lent(journal),
                "failed": dict(failed or {}),
            }
            outcome = self._supervise(asked, hears, cancelled, began + seconds)
        except Misbehaved as error:
            outcome = self._misbehaved(f"said what no probe says: {error}")
        finally:
            self.close()
        used = {**outcome.usage, "wall_seconds": round(time.monotonic() - began, 2)}
        return dataclasses.replace(outcome, usage=used)

    def close(self) -> None:
        """End the child and everything it started, and remove its folder."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.close()
        assert self._process.stdin is not None  # opened as a pipe above
        with contextlib.suppress(BrokenPipeError):  # what a dead child did not read is dropped
            self._process.stdin.close()
        self._errors.close()
        try:
            cell.remove(self._folder)
        except OSError:  # the outcome counts all the same
            logger.exception("%s cannot be removed", self._folder)

    def _limit_cpu(self, seconds: float) -> None:
        """The child ends itself where its starter is stopped for longer than it may work."""
        if sys.platform != "linux":
            return
        most = math.ceil(seconds * (os.cpu_count() or 1)) + SPARE_CPU_SECONDS
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self._process.pid, resource.RLIMIT_CPU, (most, most))

    def _given(self, spec: ProbeSpec) -> ProbeSpec:
        """The specification with its file where the child may read it."""
        if "path" not in spec.data:
            return spec
        path = cell.give(self._folder, Path(spec.data["path"]))
        return dataclasses.replace(spec, data={**spec.data, "path": str(path)})

    def _lent(self, journal: Path | None) -> str | None:
        """The journal's folder, where the child may write."""
        if journal is None:
            return None
        cell.lend(self._folder, journal)
        self._written = (self._folder / jail.WORK, journal)
        return str(journal.resolve())

    def _supervise(
        self,
        asked: Plain,
        hears: Callable[[Plain], None],
        cancelled: Callable[[], bool],
        deadline: float,
    ) -> Outcome:
        if not self._tell(asked):
            return self._dead()
        ending: Outcome | None = None  # how it ends, once it has been told to
        while True:
            ended = not self.alive
            messages, closed = self._reader.read(LOOK_SECONDS)
            last = self._pass_on(messages, hears)
            if last is not None:
                return self._last(last, ending)
            if ended or closed:
                return self._dead() if ending is None else ending
            if ending is None:
                ending = self._reason_to_end(asked["spec"]["max_seconds"], cancelled, deadline)
                until = time.monotonic() + ENDING_SECONDS
                if ending is not None and not (self._begun and self._tell("enough")):
                    return ending
            elif time.monotonic() > until:
                return ending
            overrun = self._overrun()
            if overrun is not None:
                return overrun

    def _pass_on(self, messages: list[Plain], hears: Callable[[Plain], None]) -> Plain | None:
        """Hand messages on up to the last one that a probe sends, which is returned."""
        for message in messages:
            if message["kind"] in ("result", "failed"):
                return message
            if message["kind"] != "ready":
                self._begun = True
                hears(message)
        return None

    def _tell(self, what: Any) -> bool:
        """Send the child a line; False where it is gone."""
        assert self._process.stdin is not None  # opened as a pipe above
        try:
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def _last(self, message: Plain, ending: Outcome | None) -> Outcome:
        """The outcome that the child's last message tells."""
        if ending is not None:
            return dataclasses.replace(ending, result=message.get("result"), usage=message["usage"])
        if message["kind"] == "result":
            return Outcome("succeeded", message["result"], None, None, message["usage"])
        if message["code"] == "internal":
            logger.error("probe failed: %s", self._last_words())
        return Outcome("failed", None, message["code"], message["detail"], message["usage"])

    def _reason_to_end(
        self, max_seconds: float, cancelled: Callable[[], bool], deadline: float
    ) -> Outcome | None:
        """The outcome of a child that has to end with what it knows, or None."""
        if cancelled():
            return Outcome("cancelled", None, "cancelled", "Cancelled on request.", self._memory())
        if time.monotonic() > deadline:
            return Outcome(
                "timed_out",
                None,
                "budget_exhausted_no_result",
                f"No answer within {max_seconds:g} s and {self._limits.grace_seconds:g} s "
                "more for importing and compiling. Give max_seconds more, or take a smaller tier.",
                self._memory(),
            )
        return None

    def _overrun(self) -> Outcome | None:
        """The outcome of a child that used more memory than it may, or None."""
        self._peak = max(self._peak, resident_bytes(self._process.pid))
        if self._peak > self._limits.memory_mb * 2**20:
            return Outcome(
                "failed",
                None,
                "out_of_memory",
                f"The probe used more than its {self._limits.memory_mb} MiB of memory. Take a "
                "smaller model, batch or data set.",
                self._memory(),
                died=True,
            )
        return self._too_many_files()

    def _too_many_files(self) -> Outcome | None:
        """The outcome of a child that wrote more than it may, or None."""
        now = time.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + FILES_SECONDS
        found = cell.overflow(*self._written)
        return None if found is None else self._misbehaved(f"wrote {found}")

    def _misbehaved(self, how: str) -> Outcome:
        """The outcome of a child that does what no probe does."""
        logger.error("probe misbehaved: it %s", how)
        return Outcome(
            "failed",
            None,
            "probe_misbehaved",
            f"The process that probed was ended: it {how}. Its model or data may do harm.",
            self._memory(),
        )

    def _dead(self) -> Outcome:
        """The child ended without a word."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        logger.error("probe died with %s: %s", code, self._last_words())
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        hint = " The system may have run out of memory." if code == -signal.SIGKILL else ""
        return Outcome(
            "failed",
            None,
            "probe_died",
            f"The process that probed ended with {how} before it had an answer.{hint} "
            "Ask again; if it ends the same way, take a smaller model or batch.",
            self._memory(),
            died=True,
        )

    def _memory(self) -> Plain:
        return {"peak_memory_bytes": self._peak} if self._peak else {}

    def _last_words(self) -> str:
        with (self._folder / "stderr").open("rb") as errors:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - LAST_WORDS))
            return errors.read(LAST_WORDS).decode("utf-8", errors="replace")


def abandoned(scratch: Path) -> list[Path]:
    """Folders in which no child works any more, and whose starter was killed."""
    found = []
    for folder in scratch.glob(f"{PREFIX}*"):
        try:
            with (folder / "stderr").open("rb") as errors:
                fcntl.flock(errors, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # in use, or just made or removed
            continue
        found.append(folder)
    return found


def child_environment(own: Mapping[str, str], backend: str, home: Path) -> dict[str, str]:
    """The environment of a child: paths, the frameworks' settings, and a home of its own."""
    passed = {k: v for k, v in own.items() if k in PASSED or k.startswith(PASSED_PREFIXES)}
    return passed | {
        "KERAS_BACKEND": backend,
        "USER": "probe",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONSAFEPATH": "1",
    }


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where it is gone, or where there is no /proc to ask."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
