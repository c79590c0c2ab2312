"""Probes in child processes of this machine, with limits on time and memory."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recommender.answer import Plain
from recommender.executors import Limits, Outcome, ProbeSpec

logger = logging.getLogger(__name__)

# What a child may see of this process' environment: nothing that may be a secret.
PASSED = frozenset({"PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV"})
PASSED_PREFIXES = ("JAX_", "XLA_", "TF_", "OMP_", "MKL_", "OPENBLAS_", "CUDA_", "NVIDIA_")
PREFIX = "probe-"
# Between two looks at the pipe, the clock, the memory and the asker.
LOOK_SECONDS = 0.1
# What a probe gets to say what it knows, once it is to end; nothing where it has not begun.
ENDING_SECONDS = 2.0
LONGEST_LINE = 2**20
MOST_BYTES = 64 * 2**20


class LocalProbe:
    """One child process, started at once; it imports Keras while nobody waits yet.

    Args:
        backend: The Keras backend of the child.
        limits: What it may use.
        scratch: Folder in which it gets an empty folder of its own; None is the system's.
    """

    def __init__(self, backend: str, limits: Limits, scratch: Path | None = None) -> None:
        self.backend = backend
        self._limits = limits
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=scratch))
        self._errors = (self._folder / "stderr").open("wb")
        # The child has it open as well: until both are gone, `abandoned` leaves the folder alone.
        fcntl.flock(self._errors, fcntl.LOCK_EX)
        self._read, write = os.pipe()
        os.set_blocking(self._read, False)
        self._buffer = b""
        self._received = 0
        self._peak = 0
        self._begun = False  # whether it has said anything of its probe
        self._process = subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
            [sys.executable, "-m", f"{__package__}.child", str(write), str(limits.memory_mb)],
            cwd=self._folder,
            env=child_environment(os.environ, backend, self._folder),
            stdin=subprocess.PIPE,
            stdout=self._errors,
            stderr=self._errors,
            pass_fds=(write,),
            start_new_session=True,  # so that the whole group can be ended
        )
        os.close(write)

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
        deadline = began + spec.max_seconds + self._limits.grace_seconds
        asked = {
            "spec": spec.to_dict(),
            "journal": None if journal is None else str(journal),
            "failed": dict(failed or {}),
        }
        try:
            outcome = self._supervise(asked, hears, cancelled, deadline)
        finally:
            self.close()
        used = {**outcome.usage, "wall_seconds": round(time.monotonic() - began, 2)}
        return dataclasses.replace(outcome, usage=used)

    def close(self) -> None:
        """End the child and everything it started, and remove its folder."""
        if self.alive:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._read >= 0:
            os.close(self._read)
            self._read = -1
            assert self._process.stdin is not None  # opened as a pipe above
            with contextlib.suppress(BrokenPipeError):  # what a dead child did not read is dropped
                self._process.stdin.close()
            self._errors.close()
            shutil.rmtree(self._folder, ignore_errors=True)

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
            messages, closed = self._messages()
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
        return None

    def _messages(self) -> tuple[list[Plain], bool]:
        """What has come since the last look, and whether nothing can come any more."""
        select.select([self._read], [], [], LOOK_SECONDS)
        closed = False
        while True:
            try:
                chunk = os.read(self._read, 2**16)
            except BlockingIOError:
                break
            if not chunk:
                closed = True
                break
            self._received += len(chunk)
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > LONGEST_LINE or self._received > MOST_BYTES:
            # A probe does not say so much: it is broken, or means harm.
            os.killpg(self._process.pid, signal.SIGKILL)
            return [], True
        return [json.loads(line) for line in lines if line], closed

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
        return (self._folder / "stderr").read_text("utf-8", errors="replace")[-2000:]


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
