"""What a kill costs: nothing that was accepted is lost, and nothing is done twice."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.api.server import (
    DIGITS,
    ENDLESS,
    PATIENCE,
    Server,
    assert_whole,
    gone,
    read_stream,
    serving,
    until,
)

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]

# A worker that is silent for so long is taken for dead, so a killed one costs that much.
LEASE = 1.0


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(
        tmp_path_factory.mktemp("kills") / "data", KGO_LEASE_SECONDS=str(LEASE)
    ) as running:
        yield running


def states(server: Server, path: str) -> list[str]:
    return [e["data"]["status"] for e in server.events(path) if e["type"] == "status"]


def test_a_worker_killed_in_mid_probe_costs_one_attempt(killed: Server) -> None:
    path = killed.ask(DIGITS)
    until(lambda: killed.get(path)["progress"]["trials_total"] > 0, "the probe has a plan", 120)
    probe = killed.pid("probe")
    worker = killed.kill("worker")
    began = time.monotonic()
    until(lambda: gone(probe), "the probe ends with its worker")
    until(lambda: killed.get(path)["attempt"] == 2, "somebody else takes it")
    taken = time.monotonic() - began
    job = killed.ended(path)
    assert killed.pid("worker") != worker
    assert job["status"] == "succeeded"
    # The lease, the new process' start and a look at the ledger; ten times that on a full machine.
    assert taken < LEASE + 10
    assert_whole(killed.events(path))
    assert states(killed, path) == ["queued", "running", "queued", "running", "succeeded"]
    trials = killed.get(f"{path}/trials", params={"curve": True})["data"]
    assert max(trial["attempts"] for trial in trials) == 2
    for trial in trials:
        steps = [step for step, _ in trial["loss_curve"]]
        assert steps == sorted(set(steps)), "the first attempt's points are gone"


def test_a_web_process_killed_in_mid_stream_refuses_nobody_and_loses_no_event(
    killed: Server,
) -> None:
    path = killed.ask(DIGITS)
    refused: list[Exception] = []
    done = threading.Event()

    def ask_all_the_time() -> None:
        """New connections: what was under way in the killed process breaks, nothing else may."""
        while not done.is_set():
            try:
                with httpx.Client(base_url=killed.http.base_url, timeout=30) as client:
                    client.get("/livez").raise_for_status()
            except (httpx.ReadError, httpx.RemoteProtocolError):
                pass  # it had been accepted by the process that was killed
            except httpx.HTTPError as error:
                refused.append(error)
            time.sleep(0.02)

    asking = threading.Thread(target=ask_all_the_time)
    asking.start()
    pieces: list[tuple[int, str, Any]] = []
    kills = 0
    while not pieces or pieces[-1][1] != "done":
        last = pieces[-1][0] if pieces else None
        try:
            pieces += read_stream(killed, path, last, most=3)
        except (httpx.TransportError, AssertionError):
            continue
        if kills < 2:
            killed.kill("web")
            kills += 1
    done.set()
    asking.join()
    assert kills == 2
    assert not refused
    assert pieces == [(e["seq"], e["type"], e["data"]) for e in killed.events(path)]
    assert states(killed, path) == ["queued", "running", "succeeded"]


def test_a_probe_that_is_killed_is_gone_on_with_and_a_cancelled_one_says_what_it_knows(
    killed: Server,
) -> None:
    for seed in range(4):
        path = killed.ask({**ENDLESS, "training": {"epochs": 2000}, "seed": seed})
        killed.probing(path)
        first = killed.kill("probe")
        until(lambda first=first: killed.pid("probe") != first, "another one begins")
        until(
            lambda path=path: any(e["type"] == "trial.judged" for e in killed.events(path)),
            "a rung is run",
            PATIENCE,
        )
        probe = killed.pid("probe")
        began = time.monotonic()
        killed.post(f"{path}/cancel")
        until(lambda path=path: killed.get(path)["status"] == "cancelled", "it is cancelled")
        assert time.monotonic() - began < 3
        assert gone(probe)
        job = killed.get(path)
        # A probe that is compiling cannot answer in time, and is ended without.
        if job["partial"]:
            break
    assert job["partial"] is True
    assert job["attempt"] == 1
    assert job["result"]["recommended"]["label"]
    assert job["result"]["evidence"]["kind"] == "measured"
    assert_whole(killed.events(path))
    trials = killed.get(f"{path}/trials", params={"curve": True})["data"]
    assert max(trial["attempts"] for trial in trials) == 2
    for trial in trials:
        steps = [step for step, _ in trial["loss_curve"]]
        assert steps == sorted(set(steps)), "nothing is told twice"
    assert killed.ended(killed.ask(DIGITS))["status"] == "succeeded", "the worker goes on"


def test_a_killed_supervisor_takes_its_processes_along_and_its_job_goes_on_later(
    tmp_path: Path,
) -> None:
    with serving(tmp_path / "data", KGO_LEASE_SECONDS=str(LEASE)) as server:
        path = server.ask(DIGITS)
        until(lambda: server.get(path)["status"] == "running", "it runs")
        pids = [server.pid(name) for name in ("web", "worker", "probe")]
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        until(lambda: all(gone(pid) for pid in pids), "everything it started ends", 40)
        server.http.close()
        server.start()
        job = server.ended(path)
        assert job["status"] == "succeeded"
        assert_whole(server.events(path))


def test_ctrl_c_leaves_things_whole_and_the_job_goes_on_at_the_next_start(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as server:
        path = server.ask(DIGITS)
        until(lambda: server.get(path)["status"] == "running", "it runs")
        waiting = server.ask({**DIGITS, "seed": 1})
        pids = [server.pid(name) for name in ("web", "worker", "probe")]
        began = time.monotonic()
        server.stop(signal.SIGINT)
        assert server.process.returncode == 0
        assert time.monotonic() - began < 15
        assert all(gone(pid) for pid in pids)
        assert "Traceback" not in server.logged()
        assert "Fatal" not in server.logged()
        # What the job has measured waits for it.
        assert {f.name for f in (tmp_path / "data" / "scratch").iterdir()} <= {"journal"}
        server.start()
        jobs = [server.ended(one) for one in (path, waiting)]
        assert [job["status"] for job in jobs] == ["succeeded", "succeeded"]
        # Stopping in order is nobody's failure: the attempt is not counted.
        assert jobs[0]["attempt"] == 1
        for one in (path, waiting):
            assert_whole(server.events(one))


def test_a_second_worker_takes_a_share(tmp_path: Path) -> None:
    import subprocess

    with serving(tmp_path / "data") as server:
        command = [sys.executable, "-m", "recommender.cli", "worker", "--data-dir"]
        second = subprocess.Popen([*command, str(server.folder)], stderr=subprocess.DEVNULL)
        try:
            until(lambda: server.get("/readyz")["checks"]["workers"] == "2", "both are seen")
            paths = [server.ask({**ENDLESS, "seed": seed}) for seed in (0, 1)]
            until(lambda: all(server.get(p)["status"] == "running" for p in paths), "both run")
            for path in paths:
                server.post(f"{path}/cancel")
                assert server.ended(path)["status"] == "cancelled"
        finally:
            second.terminate()
            assert second.wait(30) == 0
        until(lambda: server.get("/readyz")["checks"]["workers"] == "1", "it has signed off")
