"""Runs the tests once per backend, each in a process of its own, and adds up the results.

    python tests/run.py                          all backends, quick tests
    python tests/run.py --slow                   the slow tests as well
    python tests/run.py --backend torch -- -k adam    one backend, and words for pytest

Keras fixes its backend at import, so one process can test only one. Tests marked `backend_free` run
in one more process, on the first of the backends. The last line is the sum: "N passed, N failed,
N skipped". Standard library only.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".test-results"
BACKENDS = ("jax", "tensorflow", "torch")
# The process of the tests that do not depend on the backend.
FREE = "backend-free"
# Two of four processes at a time must end within a CI run of 90 minutes. The slow tests may take
# all night.
LIMIT_SECONDS, SLOW_LIMIT_SECONDS = 4500, 8 * 3600
HEARTBEAT_SECONDS = 20
# One process to a core, so one thread to a process.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
# Compiled programs are kept from run to run: a second run on JAX takes half the time.
COMPILED = {
    "JAX_COMPILATION_CACHE_DIR": str(RESULTS / "jax-cache"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(2**30),
}


@dataclass
class Counts:
    """How many tests ended how."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        """The two runs taken together."""
        return Counts(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )

    def __str__(self) -> str:
        """The closing line of a test runner."""
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


def read_counts(junit: Path) -> Counts:
    """Adds up the test suites of a junit file; an error in a fixture or an import is a failure."""
    total = Counts()
    suites = ET.parse(junit).getroot()  # noqa: S314 - pytest wrote it a moment ago
    for suite in suites.iter("testsuite"):
        number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        failed = number["failures"] + number["errors"]
        # A test that fails and whose teardown fails too is one test with two entries.
        passed = max(0, number["tests"] - failed - number["skipped"])
        total += Counts(passed, failed, number["skipped"])
    return total


def read_failures(junit: Path) -> list[str]:
    """The names of the tests of a junit file that failed."""
    cases = ET.parse(junit).getroot().iter("testcase")  # noqa: S314 - pytest wrote it a moment ago
    failed = (c for c in cases if c.find("failure") is not None or c.find("error") is not None)
    return [f"{case.get('classname')}::{case.get('name')}" for case in failed]


def judge(exit_code: int, counts: Counts) -> tuple[Counts, str]:
    """A run is good only if pytest says so and a test ran; otherwise it counts a failure.

    Returns:
        The counts, and a complaint ("" when the run is in order).
    """
    complaint = ""
    if exit_code < 0:
        complaint = f"pytest was ended by {signal.Signals(-exit_code).name}"
    elif exit_code not in (0, 1, 5):
        complaint = f"pytest ended with exit code {exit_code} before it was through"
    elif exit_code == 1 and not counts.failed:
        complaint = "pytest reports failures that its result file does not hold"
    elif not counts.passed and not counts.failed:
        complaint = "no test ran"
    if complaint and not counts.failed:
        counts = counts + Counts(failed=1)
    return counts, complaint


@dataclass
class Run:
    """One process' tests: what it is called, what it has printed, and how far it is."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    limit: int = LIMIT_SECONDS
    lines: list[str] = field(default_factory=list)
    progress: str = "starting"
    counts: Counts = field(default_factory=Counts)
    complaint: str = ""
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def junit(self) -> Path:
        """Where pytest writes its results."""
        return RESULTS / f"{self.name}.xml"

    def start(self) -> None:
        """Starts pytest, and a thread that collects what it prints."""
        self.junit.unlink(missing_ok=True)
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-rfEs",
                f"--junitxml={self.junit}",
                *self.arguments,
            ],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # so that a time-out ends the children of tests too
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # opened as a pipe above
        for line in self.process.stdout:
            self.lines.append(line)
            if percent := re.search(r"\[ *(\d+%)\]$", line):
                self.progress = percent[1]

    def over(self) -> bool:
        """Whether it has ended, by itself or because its time was up."""
        if self.process.poll() is None and time.monotonic() - self.began > self.limit:
            self.lines.append(f"ended after {self.limit} s, the limit for one backend\n")
            self.kill()
        return self.process.poll() is not None

    def kill(self) -> None:
        """Ends pytest and whatever it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def finish(self) -> None:
        """Reads the results and prints them, with everything that pytest said."""
        self.reader.join(timeout=10)
        self.seconds = time.monotonic() - self.began
        counts = read_counts(self.junit) if self.junit.exists() else Counts()
        self.counts, self.complaint = judge(self.process.returncode, counts)
        self.failures = read_failures(self.junit) if self.junit.exists() else []
        print(f"\n===== {self.name} =====")
        print("".join(self.lines).rstrip())
        if self.complaint:
            print(f"{self.name}: {self.complaint}")
        sys.stdout.flush()


def environment(backend: str, *, side_by_side: bool) -> dict[str, str]:
    """The environment of one backend's process, held to one thread when several run at a time."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1"}
    threads = ONE_THREAD if side_by_side else {}
    return {**threads, **COMPILED, **os.environ, **quiet, "KERAS_BACKEND": backend}


def plan(options: argparse.Namespace) -> list[Run]:
    """One run per backend, and one of what does not depend on the backend: the longest first."""
    jobs = min(options.jobs, len(options.backend) + 1)
    slow = [] if options.slow else ["not slow"]
    limit = SLOW_LIMIT_SECONDS if options.slow else LIMIT_SECONDS
    runs = []
    for name in (options.backend[0], FREE, *options.backend[1:]):
        free = name == FREE
        marks = [*slow, "backend_free" if free else "not backend_free"]
        backend = options.backend[0] if free else name
        run_environment = environment(backend, side_by_side=jobs > 1)
        runs.append(Run(name, ["-m", " and ".join(marks), *options.pytest], run_environment, limit))
    return runs


def execute(runs: list[Run], jobs: int) -> None:
    """Keeps `jobs` runs going until all have ended."""
    waiting, going = list(runs), list[Run]()
    told = time.monotonic()
    try:
        while waiting or going:
            while waiting and len(going) < jobs:
                run = waiting.pop(0)
                run.start()
                going.append(run)
                print(f"{run.name}: started", flush=True)
            time.sleep(0.2)
            for run in [run for run in going if run.over()]:
                going.remove(run)
                run.finish()
                told = time.monotonic()
            if going and time.monotonic() - told > HEARTBEAT_SECONDS:
                print(", ".join(f"{run.name} {run.progress}" for run in going), flush=True)
                told = time.monotonic()
    finally:
        for run in going:
            run.kill()


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description="Run the tests, one process per backend.",
        epilog="Words after -- go to pytest, for example: -- -k adam tests/keras_gradopt",
    )
    parser.add_argument(
        "--backend", action="append", choices=BACKENDS, help="only this backend (may be repeated)"
    )
    parser.add_argument("--slow", action="store_true", help="the slow tests as well")
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        help="how many backends at a time, at least 1 (default: the number of cores)",
    )
    parser.add_argument("pytest", nargs="*", help="words for pytest, after --")
    options = parser.parse_args(arguments)
    options.backend = list(dict.fromkeys(options.backend or BACKENDS))
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, received {options.jobs}")
    return options


def main() -> int:
    """Runs everything; 0 when every backend's tests passed."""
    options = parse()
    RESULTS.mkdir(exist_ok=True)
    runs = plan(options)
    execute(runs, options.jobs)
    print("\nbackend       passed  failed  skipped  seconds")
    for run in runs:
        counts = run.counts
        print(
            f"{run.name:<12}{counts.passed:>8}{counts.failed:>8}{counts.skipped:>9}"
            f"{run.seconds:>9.0f}  {run.complaint}".rstrip()
        )
    # Whoever sees only the end of the output sees what failed.
    for run in runs:
        for name in run.failures:
            print(f"failed on {run.name}: {name}")
    total = sum((run.counts for run in runs), Counts())
    print(total, flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
