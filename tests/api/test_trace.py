"""A W3C trace context goes from a request to its job, and from there into the worker's log."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import trace
from tests.api.inside import Inside, inside

pytestmark = pytest.mark.backend_free

# The example of the W3C recommendation, section 3.2.4.
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CONTEXT = f"00-{TRACE}-00f067aa0ba902b7-01"
ASKED = {
    "model": {"kind": "summary", "family": "mlp", "units": [16]},
    "data": {"kind": "summary", "shape": [6], "classes": 3, "samples": 2000},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    with inside(tmp_path_factory.mktemp("trace")) as made:
        yield made


def kept(service: Inside, **headers: str) -> str | None:
    """The trace context of the job that is asked for with these headers."""
    answer = service.ask("POST", "/v1/recommendations", json=ASKED, headers=headers)
    assert answer.status_code == 202
    with service.store.read() as connection:
        found: str | None = connection.exec_driver_sql(
            "SELECT traceparent FROM jobs WHERE id = ?", (answer.json()["id"],)
        ).scalar_one()
    return found


def test_a_job_keeps_the_context_that_it_was_asked_for_in(service: Inside) -> None:
    assert kept(service, traceparent=CONTEXT) == CONTEXT
    assert kept(service) is None


@pytest.mark.parametrize(
    "wrong",
    [
        "kgo_s3cr3t",
        CONTEXT.upper(),
        CONTEXT[:-1],
        f"{CONTEXT}\n",
        f"ff{CONTEXT[2:]}",
        CONTEXT.replace(TRACE, "0" * 32),
        CONTEXT.replace("00f067aa0ba902b7", "0" * 16),
    ],
)
def test_what_is_no_trace_context_is_ignored(wrong: str) -> None:
    assert trace.traceparent({"traceparent": wrong}) is None
    assert trace.facts(wrong) == {}


def test_a_job_that_is_sent_again_keeps_its_first_context(service: Inside) -> None:
    once = {"Idempotency-Key": "one"}
    assert kept(service, traceparent=CONTEXT, **once) == CONTEXT
    assert kept(service, traceparent=CONTEXT.replace("4", "5"), **once) == CONTEXT


def test_each_line_of_the_worker_tells_job_and_trace(tmp_path: Path) -> None:
    program = f"""
import pathlib, threading, time
from api import logs
from api.jobs import Jobs
from api.settings import Settings
from api.store import Store
from api.transitions import ENDED
from api.worker import Worker
from tests.api.quick import Quick, SPEC

logs.configure()
settings = Settings(data_dir=pathlib.Path({str(tmp_path)!r}), poll_seconds=0.02)
store = Store(settings)
store.migrate()
traced = Jobs(store, traceparent={CONTEXT!r}).create({{}}, SPEC, "jax", {{}})
plain = Jobs(store).create({{}}, SPEC, "jax", {{}})
print(traced, plain)
worker = Worker(settings, Quick)
thread = threading.Thread(target=worker.run)
thread.start()
end = time.monotonic() + 60
while not all(Jobs(store).get(job).status in ENDED for job in (traced, plain)):
    assert time.monotonic() < end
    time.sleep(0.02)
worker.stop()
thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(__file__).parents[2],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    traced, plain = done.stdout.split()
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    for job, expected in ((traced, TRACE), (plain, None)):
        about = [line for line in lines if job in line["event"]]
        assert len(about) >= 2, "its attempt and its end"
        assert {line["job_id"] for line in about} == {job}
        assert {line.get("trace_id") for line in about} == {expected}
    others = [line for line in lines if traced not in line["event"] and plain not in line["event"]]
    assert others
    assert not [line for line in others if "job_id" in line]
