"""Everything that the description of the API allows, and much that it does not, asked of a server.

The web process is a child, so that its memory can be read. Jobs are ended by a thread of the test
in a worker's place: nothing is probed, but trials, results and streams are there to be asked for.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from api.leases import Leases, Notes
from api.settings import Settings
from api.store import Store
from api.supervisor import listen
from tests.api.server import until

pytestmark = pytest.mark.backend_free

MEBIBYTE = 2**20
# A description cannot say which files Keras reads or which names are optimizers.
LEFT_OUT = "positive_data_acceptance"
GENERAL = ("--phases", "examples,coverage,fuzzing,stateful", "--seed", "7", "--no-color",
           "--generation-database", "none", "--continue-on-failure", "--request-timeout", "20",
           "--exclude-checks", LEFT_OUT)  # fmt: skip


@contextmanager
def web_process(folder: Path) -> Iterator[tuple[str, int]]:
    """A web process alone: its address and its id."""
    listening = listen("127.0.0.1", 0)
    environment = {
        **os.environ,
        "KGO_MAX_QUEUED": "1000000",
        "KGO_LOG_LEVEL": "ERROR",
        "KGO_POLL_SECONDS": "0.02",
    }
    number = str(listening.fileno())
    command = [sys.executable, "-m", "api", "web", number, "--data-dir", str(folder)]
    log = folder.with_suffix(".log")
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with listening, log.open("wb") as file, subprocess.Popen(
        command, env=environment, pass_fds=(listening.fileno(),), stdin=subprocess.PIPE, stderr=file
    ) as process:  # fmt: skip
        try:
            until(lambda: httpx.get(f"{address}/readyz").status_code == 200, "it is ready")
            yield address, process.pid
        finally:
            process.terminate()
            print(log.read_text("utf-8", errors="replace")[-4000:])


@contextmanager
def ended_at_once(folder: Path) -> Iterator[None]:
    """Every job gets a trial and its instant answer as its result."""
    store, stop = Store(Settings(data_dir=folder)), threading.Event()
    jobs = Leases(store)

    def work() -> None:
        while not stop.is_set():
            claim = jobs.claim("test")
            if claim is None:
                stop.wait(0.05)
                continue
            trial = {
                "id": f"trl_{claim.id.removeprefix('rec_')}_0", "index": 0, "label": "Adam",
                "optimizer": {}, "status": "completed", "attempts": 1, "steps": 20,
                "final_loss": 0.5, "val_metric": 0.5, "stopped": "it was enough",
                "loss_curve": [[10, 1.0], [20, None]], "val_curve": [[20, 0.5]],
            }  # fmt: skip
            jobs.note(claim, Notes(events=[("log", {"text": "hello"})], trials={0: trial}))
            row = jobs.get(claim.id)
            if row is not None:
                jobs.finish(claim, "succeeded", result=row.advice_before, usage={"seconds": 0.1})

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
        store.close()


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return 1024 * int(found[1])


@pytest.mark.parametrize(
    ("examples", "cases"),
    [(14, 2000), pytest.param(2300, 50_000, marks=pytest.mark.slow)],
)
def test_no_request_breaks_the_service_or_its_description(
    tmp_path: Path, examples: int, cases: int
) -> None:
    folder = tmp_path / "data"
    with web_process(folder) as (address, pid), ended_at_once(folder):
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"]
        warm = subprocess.run(
            [*command, "--phases", "examples", "--exclude-checks", LEFT_OUT],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert warm.returncode == 0, warm.stdout
        before = resident(pid)
        done = subprocess.run(
            [*command, *GENERAL, "--max-examples", str(examples)],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        grown = resident(pid) - before
        assert done.returncode == 0, done.stdout + done.stderr
        counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        assert counted is not None, done.stdout
        assert int(counted[1]) >= cases
        assert grown < 50 * MEBIBYTE, f"the web process grew by {grown / MEBIBYTE:.0f} MiB"
        print(f"{counted[1]} cases, {grown / MEBIBYTE:.1f} MiB more")
