"""Where probes cannot be jailed, nobody's upload is taken, and readyz says so."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.app import create_app
from api.leases import Leases
from api.sandbox import Sandbox
from api.settings import Settings
from api.store import Store
from api.worker import Worker
from recommender.executors import Executor, ProbeSpec, held

pytestmark = pytest.mark.backend_free

SUMMARY = {"kind": "summary", "shape": [4], "task": "regression", "samples": 100}


def spec(model: str, data: dict[str, Any]) -> ProbeSpec:
    return ProbeSpec({"kind": model}, data, None, 1, 1, "quick", 1.0)


async def ready(app: FastAPI) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        return await client.get("/readyz")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "refusal", lambda: "This system has no Landlock.")


@pytest.mark.usefixtures("broken")
def test_uploads_are_refused_where_there_is_no_jail(tmp_path: Path) -> None:
    sandbox = Sandbox(Settings(data_dir=tmp_path))
    uploads = [
        spec("config", SUMMARY),
        spec("family", {"kind": "npz", "path": "x"}),
        spec("sample", {"kind": "csv", "path": "x", "target": "y"}),
    ]
    for asked in uploads:
        assert "no Landlock" in (sandbox.refuses(asked) or "")
        assert "KGO_SANDBOX=off" in (sandbox.refuses(asked) or "")
    assert sandbox.refuses(spec("family", SUMMARY)) is None
    assert sandbox.refuses(spec("sample", {"kind": "sample", "name": "digits"})) is None


@pytest.mark.usefixtures("broken")
def test_switched_off_by_hand_they_are_taken(tmp_path: Path) -> None:
    sandbox = Sandbox(Settings(data_dir=tmp_path, sandbox="off"))
    assert sandbox.refuses(spec("config", SUMMARY)) is None
    assert sandbox.reason() is not None, "nothing is jailed"
    assert sandbox.state() == "off"


def test_a_data_folder_that_probes_may_read_is_no_sandbox(tmp_path: Path) -> None:
    inside = Path(pytest.__file__).parent / "data"
    assert "which probes may read" in (Sandbox(Settings(data_dir=inside)).reason() or "")
    if held.refusal() is None:
        assert Sandbox(Settings(data_dir=tmp_path)).reason() is None


@pytest.mark.parametrize(
    ("reason", "shown"), [(None, "ok"), ("This system has no Landlock.", "This system has no")]
)
def test_readyz_tells_and_stays_ready(
    reason: str | None, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow() -> str | None:
        time.sleep(0.2)
        return reason

    monkeypatch.setattr(held, "refusal", slow)
    app = create_app(Settings(data_dir=tmp_path))
    app.state.store.migrate()
    first = asyncio.run(ready(app)).json()["checks"]["sandbox"]
    assert first == "being tried" or first.startswith(shown)
    app.state.sandbox.reason()
    answer = asyncio.run(ready(app))
    app.state.store.close()
    assert answer.status_code == 200
    assert answer.json()["checks"]["sandbox"].startswith(shown)


@pytest.mark.usefixtures("broken")
def test_a_worker_fails_such_a_job_with_the_reason(tmp_path: Path) -> None:
    def starts(backend: str) -> Executor:
        raise AssertionError(f"a probe on {backend} was started")

    settings = Settings(data_dir=tmp_path)
    store = Store(settings)
    store.migrate()
    jobs, worker = Leases(store), Worker(settings, starts)
    data = {"kind": "blob", "sha256": "0" * 64, "format": "npz", "target": None}
    job = jobs.create({}, spec("config", data).to_dict(), "jax", {})
    claim = jobs.claim(worker.id)
    assert claim is not None
    worker._work(claim)
    row = jobs.get(job)
    store.close()
    assert row is not None
    assert (row.status, row.reason_code) == ("failed", "sandbox_unavailable")
