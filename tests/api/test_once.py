"""`Idempotency-Key`: a request that is sent often is done once, also when the server dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from api.janitor import sweep
from api.jobs import Jobs
from api.settings import Settings
from api.store import Store, idempotency
from tests.api.inside import Inside, inside
from tests.api.server import DIGITS, NET, npz, regression, until
from tests.api.web_process import web_process

pytestmark = pytest.mark.backend_free

OTHER_NET = {**NET, "config": {**NET["config"], "name": "other"}}
CALLS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "job": ("/v1/recommendations", {"json": DIGITS}, {"json": {**DIGITS, "seed": 1}}),
    "model": ("/v1/models", {"json": NET}, {"json": OTHER_NET}),
    "data": (
        "/v1/datasets",
        {"files": {"file": ("d.npz", npz(**regression()))}},
        {"files": {"file": ("d.npz", npz(**regression(300)))}},
    ),
}  # fmt: skip


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Inside]:
    with inside(tmp_path) as made:
        yield made


def named(key: str) -> dict[str, Any]:
    return {"headers": {"Idempotency-Key": key}}


@pytest.mark.parametrize("kind", CALLS)
def test_a_request_that_is_sent_again_is_not_done_again(kind: str, web: Inside) -> None:
    path, same, other = CALLS[kind]
    first = web.ask("POST", path, **same, **named("a"))
    again = web.ask("POST", path, **same, **named("a"))
    assert first.status_code in (201, 202)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["location"] == first.headers["location"]
    reused = web.ask("POST", path, **other, **named("a"))
    assert (reused.status_code, reused.json()["code"]) == (422, "idempotency_key_reused")
    assert web.ask("POST", path, **other, **named("b")).json()["id"] != first.json()["id"]
    assert web.ask("POST", path, **same).json()["id"] != first.json()["id"]
    assert len(web.ask("GET", path).json()["data"]) == 3


def test_the_key_is_of_one_route(web: Inside) -> None:
    web.ask("POST", "/v1/models", json=NET, **named("a"))
    other = web.ask("POST", "/v1/recommendations", json=DIGITS, **named("a"))
    assert other.json()["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("key", ["", "x" * 129, "x" * 200, "a\x7f", "\xe9"])
def test_a_key_has_1_to_128_printable_characters(key: str, web: Inside) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    refused = web.ask("POST", "/v1/recommendations", json=DIGITS, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")


def test_tenants_do_not_share_keys(tmp_path: Path) -> None:
    with inside(tmp_path, keys="required") as web:
        ids = {
            web.ask("POST", "/v1/models", web.key(tenant), json=NET, **named("same")).json()["id"]
            for tenant in ("a", "b")
        }
    assert len(ids) == 2


def test_what_was_refused_is_not_kept(web: Inside) -> None:
    bad = {**DIGITS, "include": ["nosuch"]}
    assert web.ask("POST", "/v1/recommendations", json=bad, **named("a")).status_code == 422
    good = web.ask("POST", "/v1/recommendations", json=DIGITS, **named("a"))
    assert good.status_code == 202


def test_a_full_queue_still_answers_what_was_asked_before(tmp_path: Path) -> None:
    with inside(tmp_path, max_queued=1) as web:
        first = web.ask("POST", "/v1/recommendations", json=DIGITS, **named("a"))
        assert web.ask("POST", "/v1/recommendations", json=DIGITS).json()["code"] == "queue_full"
        again = web.ask("POST", "/v1/recommendations", json=DIGITS, **named("a"))
    assert (again.status_code, again.content) == (202, first.content)


def test_the_column_to_predict_is_part_of_the_request(web: Inside) -> None:
    files = {"file": ("d.csv", b"x,y\n" + b"1,2\n" * 20)}
    first, other = (
        web.ask("POST", "/v1/datasets", files=files, data={"target": target}, **named("a"))
        for target in ("y", "x")
    )
    assert first.status_code == 201
    assert other.json()["code"] == "idempotency_key_reused"


def test_after_a_day_the_key_is_free(web: Inside) -> None:
    first = web.ask("POST", "/v1/models", json=NET, **named("a")).json()["id"]
    with web.store.write() as connection:
        connection.execute(idempotency.update().values(created_at=time.time() - 24 * 3600 - 1))
    again = web.ask("POST", "/v1/models", json=NET, **named("a"))
    assert "idempotency-replayed" not in again.headers
    assert again.json()["id"] != first
    with web.store.read() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(idempotency)) == 1


def test_the_sweep_forgets_answers_of_yesterday_and_no_others(web: Inside) -> None:
    for key in ("old", "young"):
        web.ask("POST", "/v1/models", json=NET, **named(key))
    with web.store.write() as connection:
        old = idempotency.update().where(idempotency.c.key == "old")
        connection.execute(old.values(created_at=time.time() - 24 * 3600 - 1))
    sweep(web.store)
    with web.store.read() as connection:
        assert list(connection.scalars(sa.select(idempotency.c.key))) == ["young"]


def test_two_hundred_at_once_make_one_job_though_the_server_is_killed(tmp_path: Path) -> None:
    many, killed_after = 200, 60
    answered = threading.Semaphore(0)
    with web_process(tmp_path) as (address, start), httpx.Client(base_url=address) as client:
        process = start()
        until(lambda: client.get("/livez").status_code == 200, "it answers", 60)

        def ask(_: int) -> httpx.Response:
            end = time.monotonic() + 120
            while True:
                try:
                    return client.post(
                        "/v1/recommendations", json=DIGITS, headers={"Idempotency-Key": "one"},
                        timeout=60,
                    )  # fmt: skip
                except httpx.TransportError:
                    assert time.monotonic() < end
                    time.sleep(0.05)
                finally:
                    answered.release()

        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(ask, number) for number in range(many)]
            for _ in range(killed_after):
                assert answered.acquire(timeout=60)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            start()
            responses = [one.result(180) for one in asked]
    assert {response.status_code for response in responses} == {202}
    assert len({response.content for response in responses}) == 1
    store = Store(Settings(data_dir=tmp_path))
    (job,) = Jobs(store).newest(100, None)
    assert job.id == responses[0].json()["id"]
    store.close()
